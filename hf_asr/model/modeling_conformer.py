"""The Conformer encoder and its CTC head (Gulati et al. 2020, https://arxiv.org/abs/2005.08100).

Letters in shape comments: B batch, T feature frames, M mel bins, S encoder frames (T after subsampling), D hidden size,
H heads, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .branchformer_conformer import EBranchformerBlock
from .configuration_conformer import SUBSAMPLING_CONVOLUTIONS, ConformerConfig
from .decoder_conformer import ConformerDecoder, shift_labels
from .layers_conformer import (
    ConformerAttention,
    ConformerConvolution,
    ConformerDropout,
    ConformerFeedForward,
    ConformerSubsampling,
    absolute_embedding,
    replace_rows,
    rotary_embedding,
)
from .losses_conformer import attention_loss, consistency_loss, ctc_loss, smoothed


@dataclass
class ConformerModelOutput(BaseModelOutput):
    """
    last_hidden_state: (batch, frames', hidden_size)
    hidden_states: What goes into the first layer and comes out of each, the last one normalised; if asked for.
    attentions: The weights of each layer, (batch, heads, frames', frames'); if asked for.
    attention_mask: bool (batch, frames'), True for real frames; None if the input had no mask.
    intermediate_hidden_states: what `intermediate_ctc_layers` give, in training: (batch, frames', hidden_size) each.
    """

    attention_mask: torch.BoolTensor | None = None
    intermediate_hidden_states: tuple[torch.FloatTensor, ...] | None = None


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
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the states, and the attention weights (B, H, S, S) if asked for."""
        hidden = torch.add(hidden, self.dropout(self.feed_forward1(self.feed_forward1_norm(hidden))), alpha=0.5)
        attended, weights = self.attention(self.attention_norm(hidden), positions, attention_mask, output_attentions)
        hidden = hidden + self.dropout(attended)
        hidden = hidden + self.dropout(self.convolution(self.convolution_norm(hidden), frame_mask))
        hidden = torch.add(hidden, self.dropout(self.feed_forward2(self.feed_forward2_norm(hidden))), alpha=0.5)
        return self.final_norm(hidden), weights


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
    _supports_sdpa = True  # and no more: see `_check_and_adjust_attn_implementation`
    _no_split_modules = ["ConformerBlock", "EBranchformerBlock", "ConformerDecoderLayer"]
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
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
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

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args, **kwargs) -> str:
        """Refuse what the attention layers would not use; transformers asks here whenever it is set."""
        if attn_implementation not in (None, "sdpa", "eager"):
            raise ValueError(
                f"attn_implementation is 'sdpa' or 'eager', not {attn_implementation!r}: 'sdpa' is PyTorch's fused "
                "kernels, which take the mask of the padding, and 'eager' computes the attention weights themselves"
            )
        return attn_implementation or "sdpa"

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
        block = EBranchformerBlock if config.block_type == "e_branchformer" else ConformerBlock
        self.layers = nn.ModuleList([block(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # The fewest feature frames that the subsampling convolutions can be applied to.
        self.min_frames = 1
        for kernel, stride in reversed(SUBSAMPLING_CONVOLUTIONS[config.subsampling_factor]):
            self.min_frames = (self.min_frames - 1) * stride + kernel
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ConformerModelOutput | tuple:
        """
        Args:
            input_features: Raw log-mel, (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames, which come first; None if all are.
            output_attentions, output_hidden_states: Return those of each layer; the configuration's if not given.
            return_dict: False for a tuple of what there is, in the order of the fields.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        if attention_mask is not None:
            lengths = attention_mask.sum(-1)
        else:
            lengths = torch.full((input_features.shape[0],), input_features.shape[1], device=input_features.device)
        features = (input_features.float() - self.feature_mean.float()) * self.feature_istd.float()  # (B, T, M)
        if self.training and self.config.apply_spec_augment:
            features = spec_augment(features, lengths, self.config)
        # Shorter than one encoder frame: one frame, which nobody attends to.
        features = F.pad(features, (0, 0, 0, torch.sym_max(0, self.min_frames - features.shape[1])))

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
        intermediate, hidden_states, attentions = [], [], []
        for number, layer in enumerate(self.layers, start=1):
            if output_hidden_states:
                hidden_states.append(hidden)
            output, weights = layer(hidden, positions, attention_frame_mask, frame_mask, output_attentions)
            attentions.append(weights)
            if self.training and self.config.layerdrop:
                # Stochastic depth (Huang et al. 2016): deeper layers are left out more often, by utterance, so that
                # every parameter keeps a gradient (DistributedDataParallel waits for all of them).
                chance = self.config.layerdrop * number / len(self.layers)
                is_left_out = torch.rand(len(hidden), 1, 1, device=hidden.device) < chance
                output = torch.where(is_left_out, hidden, output)
            hidden = output
            if self.training and number in self.config.intermediate_ctc_layers:
                intermediate.append(self.final_norm(hidden))
        hidden = self.final_norm(hidden)
        output = ConformerModelOutput(
            last_hidden_state=hidden,
            hidden_states=(*hidden_states, hidden) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            attention_mask=mask if attention_mask is not None else None,
            intermediate_hidden_states=tuple(intermediate) or None,
        )
        return output if return_dict else output.to_tuple()


class ConformerForCTC(ConformerPreTrainedModel):
    """The encoder with a linear CTC head."""

    # The loss is divided by the tokens of the whole optimiser step, which Trainer counts and passes.
    accepts_loss_kwargs = True

    def __init__(self, config: ConformerConfig):
        super().__init__(config)
        self.encoder = ConformerModel(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        if config.decoder_layers:
            self.decoder = ConformerDecoder(config)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple:
        """
        Args:
            input_features: Raw log-mel, (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames.
            labels: (batch, tokens), padded with -100.
            num_items_in_batch: What the summed loss is divided by: the label tokens of the whole optimiser step, all
                ranks and micro-batches; those of this batch if not given.
            output_attentions, output_hidden_states, return_dict: As in `ConformerModel`.

        Returns:
            `logits` (batch, frames', vocab_size); in inference, frames of padding are blank.

        Raises:
            ValueError: A label outside of the vocabulary.
        """
        if labels is not None and self.training and self.config.consistency_weight:
            # SpecAugment masks and dropout differ between the two copies.
            input_features = torch.cat([input_features, input_features])
            attention_mask = None if attention_mask is None else torch.cat([attention_mask, attention_mask])
        encoded = self.encoder(
            input_features,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.ctc_head(encoded.last_hidden_state)  # (B, S, V)
        loss, hidden_states, attentions = None, encoded.hidden_states, encoded.attentions
        if labels is not None:
            tokens = (labels >= 0).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            loss = self.summed_loss(logits, encoded, labels) / tokens
            logits = logits[: len(labels)]
            hidden_states = hidden_states and tuple(states[: len(labels)] for states in hidden_states)
            attentions = attentions and tuple(weights[: len(labels)] for weights in attentions)
        if not self.training and encoded.attention_mask is not None:
            blank = torch.full_like(logits[0, 0], torch.finfo(logits.dtype).min)
            blank[self.config.pad_token_id] = 0.0
            logits = torch.where(encoded.attention_mask[:, :, None], logits, blank)
        output = CausalLMOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the decoder's embedding of tokens.

        Raises:
            NotImplementedError: The model has no decoder, and takes features alone.
        """
        if not self.config.decoder_layers:
            raise NotImplementedError("a Conformer without a decoder takes features and embeds no tokens")
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.get_input_embeddings()  # raises where there is none
        self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.ctc_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.ctc_head = new_embeddings

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Linear:
        """Give the CTC head, and the decoder if there is one, a row for each of `new_num_tokens` tokens.

        Args:
            new_num_tokens: Rows that are new start near the mean of the old ones; None for as many as there are.
            pad_to_multiple_of: Round up to a multiple of it.
            mean_resizing: True; transformers' other way, of new rows that know nothing of the old, is not there.

        Returns:
            The CTC head.

        Raises:
            ValueError: Fewer tokens than the special ones need, or `mean_resizing` is False.
        """
        if not mean_resizing:
            raise ValueError("mean_resizing is True: new rows start near the mean of the old ones")
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of:
            size = math.ceil(size / pad_to_multiple_of) * pad_to_multiple_of
        config = self.config
        last = max(number or 0 for number in (config.pad_token_id, config.bos_token_id, config.eos_token_id))
        if size <= last:
            raise ValueError(f"a vocabulary of {size} tokens leaves out the special token {last}: {last + 1} at least")
        if size != config.vocab_size:
            kept = {number: number for number in range(min(size, config.vocab_size))}
            heads = [self.ctc_head]
            if config.decoder_layers:
                heads += [self.decoder.embed_tokens, self.decoder.lm_head]
            for head in heads:
                replace_rows(head, size, kept=kept)
            config.vocab_size = size
        return self.ctc_head

    def summed_loss(self, logits: torch.Tensor, encoded: ConformerModelOutput, labels: torch.Tensor) -> torch.Tensor:
        """CTC; with a decoder, `ctc_weight` of it and the rest of the attention loss.

        In training alone, the CTC loss is smoothed and shared with intermediate layers, and the two copies of a batch,
        of which it is the mean, are made consistent (see `losses_conformer.py`).
        """
        config, copies = self.config, len(logits) // len(labels)
        mask = encoded.attention_mask
        if mask is None:
            mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        all_labels = labels.repeat(copies, 1)
        smoothing = config.label_smoothing if self.training else 0.0

        def ctc(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)  # (B, S, V)
            loss = ctc_loss(
                log_probs,
                mask.sum(-1),
                all_labels,
                blank=config.pad_token_id,
                zero_infinity=config.ctc_zero_infinity,
            )
            return smoothed(loss, log_probs, mask, factor=smoothing) / copies, log_probs

        loss, log_probs = ctc(logits)
        if encoded.intermediate_hidden_states:
            losses = [ctc(self.ctc_head(hidden))[0] for hidden in encoded.intermediate_hidden_states]
            weight = config.intermediate_ctc_weight
            loss = (1 - weight) * loss + weight * sum(losses) / len(losses)
        if config.decoder_layers:
            inputs, targets = shift_labels(all_labels, sos_eos=config.eos_token_id)
            decoded = self.decoder(inputs, encoded.last_hidden_state, mask)
            attention = attention_loss(decoded, targets, smoothing=smoothing) / copies
            loss = config.ctc_weight * loss + (1 - config.ctc_weight) * attention
        if copies == 2:
            loss = loss + config.consistency_weight * consistency_loss(log_probs, mask[: len(labels)])
        return loss


__all__ = ["ConformerForCTC", "ConformerModel", "ConformerPreTrainedModel"]
