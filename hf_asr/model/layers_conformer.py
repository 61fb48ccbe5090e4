"""What encoder and decoder are made of: dropout, subsampling, feed-forward, attention, convolution.

Letters in shape comments: B batch, T feature frames, M mel bins, S encoder frames (T after subsampling), D hidden size,
H heads, K head size, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from .configuration_conformer import SUBSAMPLING_CONVOLUTIONS, ConformerConfig


class ConformerDropout(nn.Dropout):
    """Dropout whose mask, on CPU, comes from a random byte an element: `bernoulli_` was a sixth of a step in bf16.

    A call drops either of the two multiples of 1/256 around `p`, so that `p` is met in the mean over calls; what is
    kept is scaled by the one that was drawn.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        plain = hidden.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or plain or not 0.0 < self.p < 1.0:
            return super().forward(hidden)
        dropped = min(int(256 * self.p + torch.rand(())), 255)  # of 256 values
        if dropped == 0:
            return hidden
        words = torch.empty((hidden.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        mask = words.view(torch.int8)[: hidden.numel()].view(hidden.shape)
        # Arithmetic on bytes in place makes zeros and ones of them: turning bools into floats takes longer.
        last = dropped - 1 - 128
        mask = mask.clamp_(last, last + 1).sub_(last)
        return hidden * mask.to(hidden.dtype).mul_(256 / (256 - dropped))


class DepthwiseConv2d(nn.Conv2d):
    """In float32 where oneDNN would have to find the bf16 gradient of its input, which takes it six times as long."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not (hidden.requires_grad and hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16):
            return super().forward(hidden)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(hidden.float(), self.weight.float(), self.bias.float()).to(hidden.dtype)


class ConformerSubsampling(nn.Module):
    """Strided convolutions without padding, then a projection: no real output frame ever sees a padded input frame."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        channels, bins, layers = config.subsampling_channels, config.num_mel_bins, []
        for i, (kernel, stride) in enumerate(SUBSAMPLING_CONVOLUTIONS[config.subsampling_factor]):
            if i == 0:
                layers.append(nn.Conv2d(1, channels, kernel, stride))
            elif config.subsampling_depthwise:
                layers.append(DepthwiseConv2d(channels, channels, kernel, stride, groups=channels))
                layers.append(nn.Conv2d(channels, channels, 1))
            else:
                layers.append(nn.Conv2d(channels, channels, kernel, stride))
            layers.append(nn.ReLU(inplace=True))
            bins = (bins - kernel) // stride + 1
        self.conv = nn.Sequential(*layers)
        self.out = nn.Linear(channels * bins, config.hidden_size)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        # Channels last is what the convolution kernels of CPUs and tensor cores want.
        hidden = input_features[:, None].to(memory_format=torch.channels_last)  # (B, 1, T, M)
        hidden = self.conv(hidden).permute(0, 2, 3, 1)  # (B, S, M', C), as it lies in memory
        # Checkpoints hold the projection of (C, M'); turning the weight costs less than turning frames and gradients.
        weight = self.out.weight.unflatten(1, (hidden.shape[3], -1)).transpose(1, 2).flatten(1)
        return F.linear(hidden.flatten(2), weight, self.out.bias)  # (B, S, D)


def replace_rows(module: nn.Module, num_rows: int, *, kept: dict[int, int]) -> None:
    """Give a layer that holds a row a token, a head or an embedding, `num_rows` of them in place.

    Args:
        module: `nn.Linear`, `nn.Conv1d` or `nn.Embedding`.
        kept: New row: the old row that it takes over, bit by bit. The others start near the mean.
    """
    for name in ("weight", "bias"):
        rows = getattr(module, name, None)
        if rows is None:
            continue
        # A new row is like those there are: their mean, and half of their spread.
        noise = torch.randn(num_rows, *rows.shape[1:]).to(rows.device)
        fresh = (rows.data.mean(0) + 0.5 * rows.data.std(0) * noise).to(rows.dtype)
        fresh[list(kept)] = rows.data[list(kept.values())]
        setattr(module, name, nn.Parameter(fresh, requires_grad=rows.requires_grad))
    for name in ("out_features", "out_channels", "num_embeddings"):
        if hasattr(module, name):
            setattr(module, name, num_rows)


class ConformerFeedForward(nn.Module):
    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = ConformerDropout(config.activation_dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(self.activation(self.up_proj(hidden))))


def rotary_embedding(config: ConformerConfig, *, num_frames: int, device: torch.device) -> torch.Tensor:
    """Cosines and sines of RoPE (Su et al. 2021), (2, num_frames, head_dim), the sine of the first half negated."""
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    angles = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * config.rope_theta**-exponents
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])


def apply_rotary(states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotates (..., frames, heads, head_dim) by its frame's place; `rotary` is (2, frames, head_dim)."""
    cos, sin = rotary.to(states.dtype)[:, :, None]
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin


def absolute_embedding(config: ConformerConfig, *, num_frames: int, device: torch.device) -> torch.Tensor:
    """Sinusoids of Vaswani et al. 2017, sines at even and cosines at odd places, (num_frames, hidden_size)."""
    exponents = torch.arange(0, config.hidden_size, 2, device=device, dtype=torch.float32) / config.hidden_size
    angles = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * torch.exp(
        -math.log(10000.0) * exponents
    )
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, : config.hidden_size]


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    dropout: float,
    scale: float,
    is_eager: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute softmax attention of (B, H, S, *) over the keys where bool `mask` (B, 1, 1 or S, S) is True.

    Args:
        mask: None where every key may be attended to.
        is_eager: Compute the weights themselves, without a fused kernel.

    Returns:
        The weighted values, and the weights (B, H, S, S) before dropout if they were computed.
    """
    # Below 1000 frames (40 s at 4x) the CPU's fused kernel takes two to three times as long to train in bf16.
    is_slow = query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16
    is_slow = is_slow and not torch.compiler.is_compiling() and query.shape[2] < 1000
    if not (is_eager or is_slow):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale), None
    scores = (query * scale) @ key.transpose(-1, -2)  # (B, H, S, S)
    if mask is not None:
        # added, which has no backward of its own, where filling would have one
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return F.dropout(weights, dropout) @ value, weights


class ConformerAttention(nn.Module):
    """Self-attention over real frames; one fused projection makes queries, keys and values."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.config = config
        width = config.num_attention_heads * config.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * width)
        self.o_proj = nn.Linear(width, config.hidden_size)
        if config.position_embeddings == "absolute":
            self.position_proj = nn.Linear(config.hidden_size, width, bias=False)
            self.bias_u = nn.Parameter(torch.zeros(config.num_attention_heads, config.head_dim))
            self.bias_v = nn.Parameter(torch.zeros(config.num_attention_heads, config.head_dim))

    def forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`mask` is bool (B, 1, 1, S), True where a key may be attended to. Returns the weights too, if asked for."""
        batch, frames, _ = hidden.shape
        heads, head_dim = self.config.num_attention_heads, self.config.head_dim
        qkv = self.qkv_proj(hidden).view(batch, frames, 3, heads, head_dim)  # (B, S, 3, H, K)
        if self.config.position_embeddings == "rotary":
            # Queries and keys are rotated in one go, as 2H heads.
            rotated = apply_rotary(qkv[:, :, :2].flatten(2, 3), positions)  # (B, S, 2H, K)
            query, key = rotated.unflatten(2, (2, heads)).unbind(2)
            value = qkv[:, :, 2]
        else:
            query, key, value = qkv.unbind(2)
            place = self.position_proj(positions).view(1, frames, heads, head_dim).expand_as(key)
            # (q+u)k' + (q+v)p' is one product of vectors twice as long.
            query = torch.cat([query + self.bias_u, query + self.bias_v], -1)  # (B, S, H, 2K)
            key = torch.cat([key, place.to(key.dtype)], -1)
        context, weights = attend(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            mask=mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scale=head_dim**-0.5,
            is_eager=output_attentions or self.config._attn_implementation == "eager",
        )  # (B, H, S, K)
        return self.o_proj(context.transpose(1, 2).flatten(2)), weights if output_attentions else None  # (B, S, D)


def hangs_as_a_row(channels: int, *, num_threads: int) -> bool:
    """Whether oneDNN may not come back from a bf16 depthwise convolution along a row of `channels` channels, last.

    Its kernel for AVX-512 (`brdgmm_dw`) loops for ever over 20 frames or more where it is given 16 channels or fewer at
    once: all there are, what is left of blocks of 64, or the one block that a thread gets where the blocks are shared
    evenly. Multiples of 32 channels a thread leave nothing over and share an even number of blocks.
    """
    return channels % (32 * num_threads) != 0


_num_threads = torch.compiler.assume_constant_result(lambda: torch.get_num_threads())  # torch.compile cannot ask


def _depthwise(conv: nn.Conv1d, hidden: torch.Tensor) -> torch.Tensor:
    """`conv` over the frames of (B, C, S)."""
    if hidden.device.type != "cpu":
        return conv(hidden)
    # Only the two-dimensional convolution takes channels last; the other copies input, output and gradients.
    axis, padding = 2, (0, *conv.padding)  # the frames in a row
    in_float32 = hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not in_float32 and hangs_as_a_row(conv.groups, num_threads=_num_threads()):
        axis, padding = 3, (*conv.padding, 0)  # in a column, which another kernel takes
    weight = conv.weight.unsqueeze(axis)
    return F.conv2d(hidden.unsqueeze(axis), weight, conv.bias, padding=padding, groups=conv.groups).squeeze(axis)


def convolve_over_time(
    conv: nn.Conv1d, hidden: torch.Tensor, frame_mask: torch.Tensor | None, *, is_causal: bool
) -> torch.Tensor:
    """Depthwise `conv`, unpadded itself, over (B, S, C): as many frames out, padding taken for zero."""
    if frame_mask is not None:
        hidden = hidden.masked_fill(~frame_mask, 0.0)
    reach = conv.kernel_size[0] - 1
    hidden = hidden.transpose(1, 2)  # (B, C, S)
    hidden = F.pad(hidden, (reach, 0) if is_causal else (reach // 2, reach // 2))
    return _depthwise(conv, hidden).transpose(1, 2)  # (B, S, C)


class ConformerConvolution(nn.Module):
    """Pointwise, gate, depthwise over time, norm, activation, pointwise.

    The padding is zeroed and put around the utterance *before* the first projection. With `conv_bias=False` it is still
    zero at the depthwise convolution, so that an utterance cannot tell padding from its own end.
    """

    def __init__(self, config: ConformerConfig):
        super().__init__()
        channels = config.hidden_size * config.conv_expansion_factor
        kernel = config.conv_kernel_size
        self.is_causal = config.causal_conv
        self.pointwise_conv1 = nn.Linear(config.hidden_size, 2 * channels, bias=config.conv_bias)
        self.depthwise_conv = nn.Conv1d(
            channels,
            channels,
            kernel,
            groups=channels,
            padding=0 if config.causal_conv else kernel // 2,
            bias=config.conv_bias,
        )
        self.uses_batch_norm = config.conv_norm == "batch_norm"
        self.norm = (
            nn.BatchNorm1d(channels) if self.uses_batch_norm else nn.LayerNorm(channels, eps=config.layer_norm_eps)
        )
        self.activation = ACT2FN[config.hidden_act]
        self.pointwise_conv2 = nn.Linear(channels, config.hidden_size, bias=config.conv_bias)

    def forward(self, hidden: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """`frame_mask` is bool (B, S, 1), True for real frames."""
        if frame_mask is not None:
            hidden = hidden.masked_fill(~frame_mask, 0.0)
        if self.is_causal:
            hidden = F.pad(hidden, (0, 0, self.depthwise_conv.kernel_size[0] - 1, 0))
        hidden = F.glu(self.pointwise_conv1(hidden), dim=-1)  # (B, S, C)
        hidden = _depthwise(self.depthwise_conv, hidden.transpose(1, 2))  # (B, C, S)
        # batch norm wants channels second, layer norm last
        hidden = self.norm(hidden).transpose(1, 2) if self.uses_batch_norm else self.norm(hidden.transpose(1, 2))
        return self.pointwise_conv2(self.activation(hidden))  # (B, S, D)
