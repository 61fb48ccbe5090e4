"""Layers of the encoder and the decoder: dropout, subsampling, feed-forward, attention, convolution.

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
    """Drop elements as `nn.Dropout` does, but faster on a CPU: the mask is made of one random byte per element.

    `nn.Dropout` draws its mask with `bernoulli_`, which took a sixth of a training step in bf16. With bytes, only
    multiples of 1/256 are possible. Each call uses the nearest multiple below or above `p`, chosen at random so that
    the mean over calls is `p`. The kept elements are scaled by the probability that the call used.
    """

    regularization: float = 1.0  # factor of `p`, see `set_regularization`

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return `hidden`, of any shape, with a share `p * regularization` of its elements set to zero in training."""
        p = self.p * self.regularization
        plain = hidden.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or plain or not 0.0 < p < 1.0:
            return F.dropout(hidden, p, self.training)
        dropped = min(int(256 * p + torch.rand(())), 255)  # of the 256 values of a byte
        if dropped == 0:
            return hidden
        # Draw eight random bytes at once, as an int64.
        words = torch.empty((hidden.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        mask = words.view(torch.int8)[: hidden.numel()].view(hidden.shape)
        # A byte up to `last` becomes 0 (`dropped` of 256 values), any other byte 1. In-place arithmetic on bytes is
        # faster than a comparison, because bools would have to be converted to floats.
        last = dropped - 1 - 128
        mask = mask.clamp_(last, last + 1).sub_(last)
        return hidden * mask.to(hidden.dtype).mul_(256 / (256 - dropped))


def set_regularization(model: nn.Module, strength: float) -> None:
    """Scale what regularises a model in training: from 0, nothing, to 1, as the configuration says.

    The strength is a factor of the dropout probabilities, of layerdrop, of the widths of SpecAugment's masks, of label
    smoothing and of the weight of the consistency loss; at 0 the batch has no second copy. It is not saved: a loaded
    model has strength 1, and the configuration keeps the full values. Inference does not depend on it.

    Raises:
        ValueError: The strength is not between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be between 0 and 1, not {strength}")
    for module in model.modules():
        if hasattr(type(module), "regularization"):
            module.regularization = strength


class DepthwiseConv2d(nn.Conv2d):
    """Convolve as `nn.Conv2d` does, but train in float32 where the input is bf16 on a CPU.

    oneDNN needs six times as long for the gradient of the input in bf16.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (B, C, T', M') in the dtype of `hidden` (B, C, T, M)."""
        if not (hidden.requires_grad and hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16):
            return super().forward(hidden)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(hidden.float(), self.weight.float(), self.bias.float()).to(hidden.dtype)


class ConformerSubsampling(nn.Module):
    """Reduce the number of frames by strided convolutions over time and frequency, and project to the hidden size.

    The convolutions have no padding, so a real output frame never depends on a padded input frame.
    """

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
        """Return (B, S, D) for normalised features (B, T, M)."""
        # The convolution kernels of CPUs and tensor cores are faster with channels in the last dimension of memory.
        hidden = input_features[:, None].to(memory_format=torch.channels_last)  # (B, 1, T, M)
        hidden = self.conv(hidden).permute(0, 2, 3, 1)  # (B, S, M', C), a view of the same memory
        # A checkpoint's weight expects the order (C, M'). Reordering it is faster than reordering the frames, unless
        # these are the few frames of a live chunk. A layer with an adapter, or a quantised one, has to be called.
        has_few_frames = not torch.compiler.is_compiling() and hidden.shape[:2].numel() < self.out.out_features
        if has_few_frames or type(self.out) is not nn.Linear:
            return self.out(hidden.transpose(2, 3).flatten(2))  # (B, S, D)
        weight = self.out.weight.unflatten(1, (hidden.shape[3], -1)).transpose(1, 2).flatten(1)
        return F.linear(hidden.flatten(2), weight, self.out.bias)  # (B, S, D)


def replace_rows(module: nn.Module, num_rows: int, *, kept: dict[int, int]) -> None:
    """Replace the rows of an output layer or an embedding, in place; it has one row for each token.

    Args:
        module: `nn.Linear`, `nn.Conv1d` or `nn.Embedding`.
        num_rows: Number of rows after the change.
        kept: {new row: old row}. These rows are copied exactly; the other rows start near the mean of the old ones.
    """
    for name in ("weight", "bias"):
        rows = getattr(module, name, None)
        if rows is None:
            continue
        # A new row is similar to the old ones: their mean, plus noise with half of their standard deviation.
        noise = torch.randn(num_rows, *rows.shape[1:]).to(rows.device)
        fresh = (rows.data.mean(0) + 0.5 * rows.data.std(0) * noise).to(rows.dtype)
        fresh[list(kept)] = rows.data[list(kept.values())]
        setattr(module, name, nn.Parameter(fresh, requires_grad=rows.requires_grad))
    for name in ("out_features", "out_channels", "num_embeddings"):
        if hasattr(module, name):
            setattr(module, name, num_rows)


class SharedRowsLinear(nn.Linear):
    """A linear layer in which each row of the weight is the sum of a row of its own and of rows that it shares.

    A rare token learns from all tokens with which it shares rows. `merged` returns an ordinary layer.

    Args:
        in_features: Size of the input.
        out_features: Number of rows.
        num_shared: Number of shared rows, without row 0 of `shared`, which no row uses.

    Attributes:
        weight: The rows of their own, (out_features, in_features).
        shared: (num_shared + 1, in_features).
        shares: Which rows of `shared` each row has, int64 (out_features, SHARES); 0 means none.
    """

    SHARES = 5

    def __init__(self, in_features: int, out_features: int, *, num_shared: int):
        super().__init__(in_features, out_features)
        self.shared = nn.Parameter(torch.zeros(num_shared + 1, in_features))
        self.register_buffer("shares", torch.zeros(out_features, self.SHARES, dtype=torch.int64))

    @torch.no_grad()
    def share(self, shares: torch.Tensor) -> None:
        """Set `shares`; the own part of a row that has a share starts small."""
        self.shares.copy_(shares)
        self.weight[shares.any(1)] *= 0.3

    def summed_weight(self) -> torch.Tensor:
        """Return the weight of the ordinary layer, (out_features, in_features)."""
        return self.weight + F.embedding_bag(self.shares, self.shared, mode="sum", padding_idx=0)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (..., out_features) for `hidden` (..., in_features)."""
        return F.linear(hidden, self.summed_weight(), self.bias)

    def merged(self) -> nn.Linear:
        """Return an ordinary layer with the same outputs."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        layer.weight, layer.bias = nn.Parameter(self.summed_weight().detach()), self.bias
        return layer


class ConformerFeedForward(nn.Module):
    """Apply a linear layer, an activation and a second linear layer to each frame.

    Width and activation are those of the encoder unless they are given.
    """

    def __init__(self, config: ConformerConfig, *, width: int | None = None, activation: str | None = None):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, width or config.intermediate_size)
        self.down_proj = nn.Linear(width or config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[activation or config.hidden_act]
        self.dropout = ConformerDropout(config.activation_dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (B, S, D) for `hidden` (B, S, D)."""
        return self.down_proj(self.dropout(self.activation(self.up_proj(hidden))))


def rotary_embedding(config: ConformerConfig, *, num_frames: int, device: torch.device) -> torch.Tensor:
    """Return the cosines and sines of rotary position embeddings (Su et al. 2021), (2, num_frames, head_dim).

    The first half of the sines is negated, as `apply_rotary` needs it.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    angles = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * config.rope_theta**-exponents
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])


def apply_rotary(states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotate each head of each frame by the frame's position.

    Element i of the first half of a head and element i of the second half are the two coordinates that are rotated, as
    in transformers' Llama.

    Args:
        states: (..., S, H, K).
        rotary: From `rotary_embedding`, (2, S, K).
    """
    cos, sin = rotary.to(states.dtype)[:, :, None]
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin


def absolute_embedding(config: ConformerConfig, *, places: torch.Tensor) -> torch.Tensor:
    """Return the sinusoids of Vaswani et al. 2017, sines at even indices and cosines at odd ones.

    Args:
        places: Places of the frames in their recordings, (*, S).

    Returns:
        (*, S, hidden_size).
    """
    exponents = torch.arange(0, config.hidden_size, 2, device=places.device, dtype=torch.float32) / config.hidden_size
    angles = places[..., None].float() * torch.exp(-math.log(10000.0) * exponents)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., : config.hidden_size]


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
    """Compute scaled dot-product attention (Vaswani et al. 2017).

    Args:
        query: (B, H, Q, *) for Q queries.
        key: (B, H, S, *), as wide as the queries.
        value: (B, H, S, K).
        mask: Bool (B, 1, 1 or Q, S), True where a query may attend to a key; None if it may attend to all keys.
        dropout: Dropout probability of the weights.
        scale: Factor of the scores before the softmax.
        is_eager: Compute the attention weights explicitly, without a fused kernel.

    Returns:
        The weighted values (B, H, Q, K), and the weights (B, H, Q, S) before dropout; None if a fused kernel was used.
    """
    # In bf16 training on a CPU, the fused kernel takes two to three times as long below 1000 frames (40 s at 4x).
    is_slow = query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16
    is_slow = is_slow and not torch.compiler.is_compiling() and query.shape[2] < 1000
    if not (is_eager or is_slow):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale), None
    scores = (query * scale) @ key.transpose(-1, -2)  # (B, H, Q, S)
    if mask is not None:
        # An addition needs no extra step in the backward pass; `masked_fill` of the scores would need one.
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return F.dropout(weights, dropout) @ value, weights


class ConformerAttention(nn.Module):
    """Attend from each frame to all real frames.

    One linear layer computes queries, keys and values together. `position_embeddings` decides how the position of a
    frame enters the scores.
    """

    regularization: float = 1.0  # factor of the dropout, see `set_regularization`

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
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        output_attentions: bool = False,
        cache: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return the attention's output (B, S, D), the weights (B, H, S, keys) or None, and the new cache or None.

        Args:
            hidden: (B, S, D).
            positions: Of the cached frames and the frames of `hidden`, from `rotary_embedding` or `absolute_embedding`,
                as the configuration says.
            mask: Bool, broadcast to (B, 1, S, keys), True where a frame may attend to a key; None if it may attend to
                all.
            output_attentions: Return the weights.
            cache: Keys before the rotation and values of the frames before, (B, H, left, 2K). The new cache also has
                those of `hidden`: (B, H, left + S, 2K).
        """
        batch, frames, _ = hidden.shape
        heads, head_dim = self.config.num_attention_heads, self.config.head_dim
        qkv = self.qkv_proj(hidden).view(batch, frames, 3, heads, head_dim)  # (B, S, 3, H, K)
        query, key, value = qkv.unbind(2)
        if cache is not None:
            cache = torch.cat([cache, torch.cat([key, value], -1).transpose(1, 2).to(cache.dtype)], 2)
            key, value = cache.transpose(1, 2).to(key.dtype).chunk(2, -1)  # (B, left + S, H, K)
        if self.config.position_embeddings == "rotary":
            if cache is None:
                # Rotate queries and keys together, as 2H heads: one operation instead of two.
                rotated = apply_rotary(qkv[:, :, :2].flatten(2, 3), positions)  # (B, S, 2H, K)
                query, key = rotated.unflatten(2, (2, heads)).unbind(2)
            else:
                query, key = apply_rotary(query, positions[:, -frames:]), apply_rotary(key, positions)
        else:
            place = self.position_proj(positions).unflatten(-1, (heads, head_dim)).expand_as(key)
            # Transformer-XL's score is (q + u)·k + (q + v)·p. This is one dot product of concatenated vectors, so that
            # the fused kernels can compute it.
            query = torch.cat([query + self.bias_u, query + self.bias_v], -1)  # (B, S, H, 2K)
            key = torch.cat([key, place.to(key.dtype)], -1)
        context, weights = attend(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            mask=mask,
            dropout=self.config.attention_dropout * self.regularization if self.training else 0.0,
            scale=head_dim**-0.5,
            is_eager=output_attentions or self.config._attn_implementation == "eager",
        )  # (B, H, S, K)
        return self.o_proj(context.transpose(1, 2).flatten(2)), weights if output_attentions else None, cache


def hangs_as_a_row(channels: int, *, num_threads: int) -> bool:
    """Return whether a bf16 depthwise convolution along a row, channels last, may never end in oneDNN.

    oneDNN's AVX-512 kernel (`brdgmm_dw`) loops for ever over 20 frames or more when it gets at most 16 channels at
    once. This happens in three cases: there are only so few channels; so few remain after blocks of 64 channels; or a
    thread has a single block of 16 channels. None of them happens with a multiple of 32 channels per thread.
    """
    return channels % (32 * num_threads) != 0


# A constant for torch.compile, which cannot trace the call.
_num_threads = torch.compiler.assume_constant_result(lambda: torch.get_num_threads())


def _depthwise(conv: nn.Conv1d, hidden: torch.Tensor) -> torch.Tensor:
    """Apply depthwise `conv` along the frames of (B, C, S), by the fastest kernel that is known to end.

    On a CPU it is computed as a two-dimensional convolution with a height or a width of 1.
    """
    if hidden.device.type != "cpu":
        return conv(hidden)
    # Only the two-dimensional convolution computes with channels last. `conv1d` would copy input, output and gradients.
    axis, padding = 2, (0, *conv.padding)  # the frames are a row: (B, C, 1, S)
    in_float32 = hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not in_float32 and hangs_as_a_row(conv.groups, num_threads=_num_threads()):
        axis, padding = 3, (*conv.padding, 0)  # the frames are a column, (B, C, S, 1): another kernel
    weight = conv.weight.unsqueeze(axis)
    return F.conv2d(hidden.unsqueeze(axis), weight, conv.bias, padding=padding, groups=conv.groups).squeeze(axis)


def convolve_over_time(
    conv: nn.Conv1d, hidden: torch.Tensor, frame_mask: torch.Tensor | None, *, is_causal: bool
) -> torch.Tensor:
    """Apply depthwise `conv` along time with same or causal padding; masked frames count as zero.

    Args:
        conv: A convolution without padding.
        hidden: (B, S, C).
        frame_mask: Bool (B, S, 1), True for real frames; None if all frames are real.
        is_causal: Pad on the left only.

    Returns:
        (B, S, C).
    """
    if frame_mask is not None:
        hidden = hidden.masked_fill(~frame_mask, 0.0)
    reach = conv.kernel_size[0] - 1
    hidden = hidden.transpose(1, 2)  # (B, C, S)
    hidden = F.pad(hidden, (reach, 0) if is_causal else (reach // 2, reach // 2))
    return _depthwise(conv, hidden).transpose(1, 2)  # (B, S, C)


class ConformerConvolution(nn.Module):
    """Apply a pointwise layer, a gate (GLU), a depthwise convolution, a norm, an activation and a pointwise layer.

    Padded frames are set to zero, and causal padding is added, *before* the first pointwise layer, as in WeNet. With
    `conv_bias=False`, padded frames and causal padding are still zero at the depthwise convolution. Then the end of an
    utterance looks the same with and without padding.
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

    def forward(
        self, hidden: torch.Tensor, frame_mask: torch.Tensor | None, cache: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (B, S, D) for `hidden` (B, S, D), and the new cache or None.

        Args:
            hidden: (B, S, D).
            frame_mask: Bool (B, S, 1), True for real frames; None if all frames are real.
            cache: The inputs before `hidden`, (B, D, kernel - 1), for a causal convolution; None at the beginning of a
                recording.
        """
        reach = self.depthwise_conv.kernel_size[0] - 1
        if frame_mask is not None:
            hidden = hidden.masked_fill(~frame_mask, 0.0)
        if cache is not None:
            hidden = torch.cat([cache.transpose(1, 2).to(hidden.dtype), hidden], 1)  # (B, kernel - 1 + S, D)
            cache = hidden[:, hidden.shape[1] - reach :].transpose(1, 2).to(cache.dtype)
        elif self.is_causal:
            hidden = F.pad(hidden, (0, 0, reach, 0))
        hidden = F.glu(self.pointwise_conv1(hidden), dim=-1)  # (B, S, C)
        hidden = _depthwise(self.depthwise_conv, hidden.transpose(1, 2))  # (B, C, S)
        # Batch norm needs the channels in dimension 1, layer norm in the last dimension.
        hidden = self.norm(hidden).transpose(1, 2) if self.uses_batch_norm else self.norm(hidden.transpose(1, 2))
        return self.pointwise_conv2(self.activation(hidden)), cache  # (B, S, D)
