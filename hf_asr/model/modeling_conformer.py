"""The Conformer encoder and its CTC head (Gulati et al. 2020, https://arxiv.org/abs/2005.08100).

Letters in shape comments: B batch, T feature frames, M mel bins, S encoder frames (T after subsampling), D hidden size,
H heads, K head size, C channels, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import ModelOutput

from .configuration_conformer import SUBSAMPLING_CONVOLUTIONS, ConformerConfig


@dataclass
class ConformerModelOutput(ModelOutput):
    """
    last_hidden_state: (batch, frames', hidden_size)
    attention_mask: bool (batch, frames'), True for real frames; None if the input had no mask.
    """

    last_hidden_state: torch.FloatTensor | None = None
    attention_mask: torch.BoolTensor | None = None


class ConformerDropout(nn.Dropout):
    """Dropout whose mask, on CPU, comes from 16 random bits an element.

    `bernoulli_` was a sixth of a training step in bf16. The probability is met to 2**-16.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        plain = hidden.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or plain or not 0.0 < self.p < 1.0:
            return super().forward(hidden)
        words = torch.empty((hidden.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        mask = words.view(torch.int16)[: hidden.numel()].view(hidden.shape)
        # Of the 2**16 values, `dropped` are at or below `last`. Integer arithmetic in place makes zeros and ones of
        # them: turning bools into floats takes longer.
        dropped = min(max(round(self.p * 2**16), 1), 2**16 - 1)
        last = dropped - 1 - 2**15
        mask = mask.clamp_(last, last + 1).sub_(last)
        return hidden * mask.to(hidden.dtype).mul_(2**16 / (2**16 - dropped))


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
        hidden = self.conv(hidden)  # (B, C, S, M')
        return self.out(hidden.transpose(1, 2).flatten(2))  # (B, S, D)


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
) -> torch.Tensor:
    """Softmax attention of (B, H, S, *) over the keys where bool `mask` (B, 1, 1, S) is True, if any is given."""
    # Below 1000 frames (40 s at 4x) the CPU's fused kernel takes two to three times as long to train in bf16.
    unfused = query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not unfused or torch.compiler.is_compiling() or query.shape[2] >= 1000:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)  # (B, H, S, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout) @ value


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

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask` is bool (B, 1, 1, S), True where a key may be attended to."""
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
        context = attend(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            mask=mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scale=head_dim**-0.5,
        )  # (B, H, S, K)
        return self.o_proj(context.transpose(1, 2).flatten(2))  # (B, S, D)


class ConformerConvolution(nn.Module):
    """Pointwise, gate, depthwise over time, norm, activation, pointwise.

    The padding is zeroed and put around the utterance *before* the first projection. With `conv_bias=False` it is still
    zero at the depthwise convolution, so that an utterance cannot tell padding from its own end.
    """

    def __init__(self, config: ConformerConfig):
        super().__init__()
        channels = config.hidden_size * config.conv_expansion_factor
        kernel = config.conv_kernel_size
        self.left_padding = kernel - 1 if config.causal_conv else 0
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
        if self.left_padding:
            hidden = F.pad(hidden, (0, 0, self.left_padding, 0))
        hidden = F.glu(self.pointwise_conv1(hidden), dim=-1)  # (B, S, C)
        hidden = hidden.transpose(1, 2)  # (B, C, S)
        if hidden.device.type == "cpu":
            # Only the two-dimensional convolution takes channels last; the other copies input, output and gradients.
            conv = self.depthwise_conv
            hidden = F.conv2d(
                hidden[:, :, None], conv.weight[:, :, None], conv.bias, padding=(0, *conv.padding), groups=conv.groups
            )[:, :, 0]
        else:
            hidden = self.depthwise_conv(hidden)
        # batch norm wants channels second, layer norm last
        hidden = self.norm(hidden).transpose(1, 2) if self.uses_batch_norm else self.norm(hidden.transpose(1, 2))
        hidden = self.pointwise_conv2(self.activation(hidden))  # (B, S, D)
        return hidden if frame_mask is None else hidden.masked_fill(~frame_mask, 0.0)


class ConformerBlock(GradientCheckpointingLayer):
    """Half a feed-forward, attention, convolution, half a feed-forward; each pre-norm with a residual, a norm last."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.feed_forward1_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward1 = ConformerFeedForward(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ConformerAttention(config)
        self.convolution_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.convolution = ConformerConvolution(config)
        self.feed_forward2_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward2 = ConformerFeedForward(config)
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ConformerDropout(config.hidden_dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
        frame_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        hidden = torch.add(hidden, self.dropout(self.feed_forward1(self.feed_forward1_norm(hidden))), alpha=0.5)
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), positions, attention_mask))
        hidden = hidden + self.dropout(self.convolution(self.convolution_norm(hidden), frame_mask))
        hidden = torch.add(hidden, self.dropout(self.feed_forward2(self.feed_forward2_norm(hidden))), alpha=0.5)
        return self.final_norm(hidden)


def random_spans(
    lengths: torch.Tensor, *, size: int, count: int, max_widths: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """`count` random spans for each of B rows, as a bool (B, size) that is True inside them.

    A width is drawn from [0, max_width], a start from [0, length - width] (`lengths` and `max_widths` are (B,)).
    """
    shape = (lengths.shape[0], count, 1)
    draws = torch.rand(2, *shape, device=lengths.device, generator=generator)
    widths = (draws[0] * (max_widths[:, None, None] + 1)).floor()
    starts = (draws[1] * (lengths[:, None, None] - widths + 1)).floor()
    places = torch.arange(size, device=lengths.device)
    return ((places >= starts) & (places < starts + widths)).any(1)


def spec_augment(input_features: torch.Tensor, lengths: torch.Tensor, config: ConformerConfig) -> torch.Tensor:
    """SpecAugment (Park et al. 2019) on normalised features (B, T, M): masked places become the mean, zero.

    Time masks grow with the utterance (Park et al. 2020), `lengths` is (B,) in frames.
    """
    bins = torch.full_like(lengths, input_features.shape[2])
    frequency = random_spans(
        bins,
        size=input_features.shape[2],
        count=config.num_freq_masks,
        max_widths=torch.full_like(lengths, config.freq_mask_width).minimum(bins),
    )
    time = random_spans(
        lengths,
        size=input_features.shape[1],
        count=config.num_time_masks,
        max_widths=(lengths * config.time_mask_ratio).floor(),
    )
    return input_features.masked_fill(frequency[:, None, :] | time[:, :, None], 0.0)


class ConformerPreTrainedModel(PreTrainedModel):
    config_class = ConformerConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ConformerBlock"]
    # Log-mel of int16-sized samples lies around 10: bf16 would keep two digits of it.
    _keep_in_fp32_modules_strict = ["feature_mean", "feature_istd"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """PyTorch's own initialisation; transformers' (a normal of std 0.02) trains a small Conformer more slowly."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, ConformerAttention) and self.config.position_embeddings == "absolute":
            init.xavier_uniform_(module.bias_u)
            init.xavier_uniform_(module.bias_v)
        elif isinstance(module, ConformerModel):
            init.zeros_(module.feature_mean)
            init.ones_(module.feature_istd)

    def get_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Encoder frames that `lengths` feature frames give: ((T-1)//2-1)//2 for 4x, never negative."""
        for kernel, stride in SUBSAMPLING_CONVOLUTIONS[self.config.subsampling_factor]:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    # transformers' name for it, which its pipelines and trainers look for
    _get_feat_extract_output_lengths = get_output_lengths


class ConformerModel(ConformerPreTrainedModel):
    """Raw log-mel in, encoder states out. Normalisation and SpecAugment happen here: callers feed raw features."""

    def __init__(self, config: ConformerConfig):
        super().__init__(config)
        self.register_buffer("feature_mean", torch.zeros(config.num_mel_bins))
        self.register_buffer("feature_istd", torch.ones(config.num_mel_bins))
        self.subsampling = ConformerSubsampling(config)
        self.dropout = ConformerDropout(config.hidden_dropout)
        self.layers = nn.ModuleList([ConformerBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # The fewest feature frames that the subsampling convolutions can be applied to.
        self.min_frames = 1
        for kernel, stride in reversed(SUBSAMPLING_CONVOLUTIONS[config.subsampling_factor]):
            self.min_frames = (self.min_frames - 1) * stride + kernel
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ConformerModelOutput | tuple:
        """
        Args:
            input_features: Raw log-mel, (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames, which come first; None if all are.
        """
        if attention_mask is not None:
            lengths = attention_mask.sum(-1)
        else:
            lengths = torch.full((input_features.shape[0],), input_features.shape[1], device=input_features.device)
        features = (input_features.float() - self.feature_mean.float()) * self.feature_istd.float()  # (B, T, M)
        if self.training and self.config.apply_spec_augment:
            features = spec_augment(features, lengths, self.config)
        if features.shape[1] < self.min_frames:  # shorter than one encoder frame: one frame, which nobody attends to
            features = F.pad(features, (0, 0, 0, self.min_frames - features.shape[1]))

        hidden = self.subsampling(features.to(self.subsampling.out.weight.dtype))  # (B, S, D)
        if self.config.scale_input:
            hidden = hidden * math.sqrt(self.config.hidden_size)
        hidden = self.dropout(hidden)

        num_frames = hidden.shape[1]
        embedding = rotary_embedding if self.config.position_embeddings == "rotary" else absolute_embedding
        positions = embedding(self.config, num_frames=num_frames, device=hidden.device)
        # Cast once, not in each layer: to the dtype that autocast, where it is on, gives the projections.
        if self.config.position_embeddings == "rotary" and torch.is_autocast_enabled(hidden.device.type):
            positions = positions.to(torch.get_autocast_dtype(hidden.device.type))
        elif self.config.position_embeddings == "absolute":
            positions = positions.to(hidden.dtype)
        frame_mask = attention_frame_mask = None
        if attention_mask is not None:
            mask = torch.arange(num_frames, device=hidden.device) < self.get_output_lengths(lengths)[:, None]  # (B, S)
            frame_mask, attention_frame_mask = mask[:, :, None], mask[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, positions, attention_frame_mask, frame_mask)
        output = ConformerModelOutput(
            last_hidden_state=self.final_norm(hidden), attention_mask=mask if attention_mask is not None else None
        )
        return output if return_dict is not False else output.to_tuple()


class ConformerForCTC(ConformerPreTrainedModel):
    """The encoder with a linear CTC head."""

    # The loss is divided by the tokens of the whole optimiser step, which Trainer counts and passes.
    accepts_loss_kwargs = True

    def __init__(self, config: ConformerConfig):
        super().__init__(config)
        self.encoder = ConformerModel(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple:
        """
        Args:
            input_features: Raw log-mel, (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames.
            labels: (batch, tokens), padded with -100.
            num_items_in_batch: What the summed loss is divided by: the label tokens of the whole optimiser step, all
                ranks and micro-batches; those of this batch if not given.

        Returns:
            `logits` (batch, frames', vocab_size); in inference, frames of padding are blank.
        """
        encoded = self.encoder(input_features, attention_mask)
        logits = self.ctc_head(encoded.last_hidden_state)  # (B, S, V)
        loss = None
        if labels is not None:
            loss = self.ctc_loss(logits, encoded.attention_mask, labels, num_items_in_batch)
        if not self.training and encoded.attention_mask is not None:
            blank = torch.full_like(logits[0, 0], torch.finfo(logits.dtype).min)
            blank[self.config.pad_token_id] = 0.0
            logits = torch.where(encoded.attention_mask[:, :, None], logits, blank)
        output = CausalLMOutput(loss=loss, logits=logits)
        return output if return_dict is not False else output.to_tuple()

    def ctc_loss(
        self,
        logits: torch.Tensor,
        frame_mask: torch.Tensor | None,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Negative log-likelihood (Graves et al. 2006), in float32, summed and divided by `num_items_in_batch`."""
        if labels.numel() and labels.max() >= self.config.vocab_size:
            raise ValueError(f"labels hold {labels.max()}, but the model's vocab_size is {self.config.vocab_size}")
        is_label = labels >= 0
        if frame_mask is None:
            input_lengths = torch.full((len(labels),), logits.shape[1], device=logits.device)
        else:
            input_lengths = frame_mask.sum(-1)
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)  # (S, B, V)
        # cuDNN's CTC knows neither empty labels nor zero_infinity, and is not deterministic.
        with torch.backends.cudnn.flags(enabled=False):
            loss = F.ctc_loss(
                log_probs,
                labels[is_label],
                input_lengths,
                is_label.sum(-1),
                blank=self.config.pad_token_id,
                reduction="sum",
                zero_infinity=self.config.ctc_zero_infinity,
            )
        return loss / (is_label.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


__all__ = ["ConformerForCTC", "ConformerModel", "ConformerPreTrainedModel"]
