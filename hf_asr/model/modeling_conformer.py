"""The Conformer encoder and its CTC head (Gulati et al. 2020, https://arxiv.org/abs/2005.08100).

Letters in shape comments: B batch, T feature frames, M mel bins, S encoder frames (T after subsampling), D hidden size,
H heads, V vocabulary.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .branchformer_conformer import EBranchformerBlock
from .configuration_conformer import SUBSAMPLING_CONVOLUTIONS, ConformerConfig, required_frames
from .decoder_conformer import ConformerDecoder
from .layers_conformer import (
    ConformerAttention,
    ConformerConvolution,
    ConformerDropout,
    ConformerFeedForward,
    ConformerSubsampling,
    SharedRowsLinear,
    absolute_embedding,
    replace_rows,
    rotary_embedding,
)
from .losses_conformer import summed_loss
from .spec_augment_conformer import spec_augment
from .streaming_conformer import StreamingCache, chunk_mask, draw_chunk, empty_cache


@dataclass
class ConformerModelOutput(BaseModelOutput):
    """Hold the encoder's output; frames' is the number of encoder frames.

    Attributes:
        last_hidden_state: (batch, frames', hidden_size).
        hidden_states: Input of the first layer and output of each layer, the last one normalised, (batch, frames',
            hidden_size) each; None unless requested.
        attentions: Attention weights of each layer, (batch, heads, frames', frames'); None unless requested.
        attention_mask: Bool (batch, frames'), True for real frames; None if the input had no mask.
        intermediate_hidden_states: In training, the normalised outputs of `intermediate_ctc_layers`, (batch, frames',
            hidden_size) each; otherwise None.
        cache: What the next step of the streams needs; None unless a cache was given.
    """

    attention_mask: torch.BoolTensor | None = None
    intermediate_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    cache: StreamingCache | None = None


@dataclass
class ConformerCTCOutput(CausalLMOutput):
    """Hold the logits, (batch, frames', vocab_size), and what else `ConformerForCTC` returns.

    Attributes:
        cache: What the next step of the streams needs; None unless a cache was given.
    """

    cache: StreamingCache | None = None


class ConformerBlock(GradientCheckpointingLayer):
    """Apply half a feed-forward module, attention, convolution, half a feed-forward module and a norm.

    A layer norm comes before each module and a residual connection after it; "half" means that the residual connection
    adds half of the module's output.
    """

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
        caches: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor | None, torch.Tensor | None]]:
        """Return the block's states (B, S, D), the attention weights or None, and the new caches.

        Args:
            hidden: (B, S, D).
            positions: As `ConformerAttention` takes them.
            attention_mask: As `ConformerAttention` takes it.
            frame_mask: Bool (B, S, 1), True for real frames; None if all frames are real.
            output_attentions: Return the attention weights.
            caches: That of `ConformerAttention` and that of `ConformerConvolution`.
        """
        hidden = torch.add(hidden, self.dropout(self.feed_forward1(self.feed_forward1_norm(hidden))), alpha=0.5)
        attended, weights, attention_cache = self.attention(
            self.attention_norm(hidden), positions, attention_mask, output_attentions, caches[0]
        )
        hidden = hidden + self.dropout(attended)
        convolved, convolution_cache = self.convolution(self.convolution_norm(hidden), frame_mask, caches[1])
        hidden = hidden + self.dropout(convolved)
        hidden = torch.add(hidden, self.dropout(self.feed_forward2(self.feed_forward2_norm(hidden))), alpha=0.5)
        return self.final_norm(hidden), weights, (attention_cache, convolution_cache)

    def residual_outputs(self) -> list[nn.Linear]:
        """Return the last layer of each residual branch."""
        feed_forwards = [self.feed_forward1.down_proj, self.feed_forward2.down_proj]
        return [*feed_forwards, self.attention.o_proj, self.convolution.pointwise_conv2]


def skip_layer(layer_input: torch.Tensor, output: torch.Tensor, *, probability: float) -> torch.Tensor:
    """Replace a layer's output (B, S, D) by the layer's input for randomly chosen utterances.

    This is stochastic depth (Huang et al. 2016) for single utterances and not for whole batches: every parameter gets a
    gradient, as DistributedDataParallel requires.
    """
    is_skipped = torch.rand(len(layer_input), 1, 1, device=layer_input.device) < probability
    return torch.where(is_skipped, layer_input, output)


def _init_layer(layer: nn.Linear | nn.Conv1d | nn.Conv2d, *, scale: float = 1.0) -> None:
    """Draw weights and bias from a uniform distribution in ±scale / sqrt(fan_in); PyTorch's own has scale 1."""
    bound = scale / math.sqrt(layer.weight[0].numel())
    init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        init.uniform_(layer.bias, -bound, bound)


class ConformerPreTrainedModel(PreTrainedModel):
    """Provide what `ConformerModel` and `ConformerForCTC` share: initialisation, attention kernels, output lengths."""

    config_class = ConformerConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # and no other kernel, see `_check_and_adjust_attn_implementation`
    _no_split_modules = ["ConformerBlock", "EBranchformerBlock", "ConformerDecoderLayer"]
    # Log-mel values are around 10 for samples in the range of int16: in bf16 they would keep only two digits.
    _keep_in_fp32_modules_strict = ["feature_mean", "feature_istd"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as PyTorch does, but so that a deep encoder starts like a shallow one.

        The subsampling keeps the scale of its input (He et al. 2015), and the output layers of the residual branches
        are scaled by 1 / sqrt(branches), as in GPT-2 (Radford et al. 2019). With PyTorch's initialisation alone, the
        branches of the first layer drown its input. transformers' initialisation (a normal distribution with standard
        deviation 0.02) trains a small Conformer more slowly.
        """
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            _init_layer(module)
            if isinstance(module, SharedRowsLinear):  # a sum of shared rows has the scale of another layer's row
                bound = (module.in_features * module.SHARES) ** -0.5
                init.uniform_(module.shared, -bound, bound)
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
            # Here and not for each block, because transformers calls this only for modules with weights of their own.
            for layer in module.subsampling.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    _init_layer(layer, scale=math.sqrt(6))  # He's bound is sqrt(6 / fan_in)
            outputs = [layer for block in module.layers for layer in block.residual_outputs()]
            for layer in outputs:
                _init_layer(layer, scale=len(outputs) ** -0.5)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args, **kwargs) -> str:
        """Return the attention implementation; transformers calls this whenever one is chosen.

        Raises:
            ValueError: The attention layers do not support it.
        """
        if attn_implementation not in (None, "sdpa", "eager"):
            raise ValueError(
                f"attn_implementation must be 'sdpa' or 'eager', not {attn_implementation!r}: 'sdpa' uses PyTorch's "
                "fused kernels, 'eager' computes the attention weights explicitly"
            )
        return attn_implementation or "sdpa"

    def get_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the encoder frames for `lengths` feature frames, a tensor of any shape.

        A convolution without padding gives (T - kernel) // stride + 1 frames, so 4x gives ((T - 1) // 2 - 1) // 2. The
        result is never negative.
        """
        for kernel, stride in SUBSAMPLING_CONVOLUTIONS[self.config.subsampling_factor]:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    # The name that transformers' pipelines and trainers look for.
    _get_feat_extract_output_lengths = get_output_lengths


class ConformerModel(ConformerPreTrainedModel):
    """Encode raw log-mel features into states.

    The model itself normalises the features and, in training, masks them (SpecAugment): callers pass raw features.
    """

    regularization: float = 1.0  # factor of layerdrop and SpecAugment, see `set_regularization`

    def __init__(self, config: ConformerConfig):
        super().__init__(config)
        # Mean and inverse standard deviation of each mel bin over the training data; without statistics no change.
        self.register_buffer("feature_mean", torch.zeros(config.num_mel_bins))
        self.register_buffer("feature_istd", torch.ones(config.num_mel_bins))
        self.subsampling = ConformerSubsampling(config)
        self.dropout = ConformerDropout(config.hidden_dropout)
        block = EBranchformerBlock if config.block_type == "e_branchformer" else ConformerBlock
        self.layers = nn.ModuleList([block(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # The smallest number of feature frames that gives one encoder frame.
        self.min_frames = required_frames(config.subsampling_factor, 1)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: StreamingCache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ConformerModelOutput | tuple:
        """Return the encoder states, `last_hidden_state` (batch, frames', hidden_size), and what is requested.

        A recording is encoded at once, in the chunks that the configuration names, or in steps of whole chunks with a
        cache, which give the same states. The steps overlap, see `frames_of_step`. Only the last step of a stream may
        have padding or a part of a chunk.

        Args:
            input_features: Raw log-mel, (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames, 0 for the padding after them; None if all frames are
                real.
            cache: From `empty_cache`, or from the step before.
            output_attentions: Return the attention weights of each layer; None means as the configuration says.
            output_hidden_states: Return the states of each layer; None means as the configuration says.
            return_dict: False returns a tuple of all values that are not None, in the order of the fields; None means
                as the configuration says.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        lengths = torch.full((input_features.shape[0],), input_features.shape[1], device=input_features.device)
        lengths = lengths if attention_mask is None else attention_mask.sum(-1)
        hidden = self._subsample(input_features, lengths)  # (B, S, D)
        places = torch.arange(hidden.shape[1], device=hidden.device)
        mask = None if attention_mask is None else places < self.get_output_lengths(lengths)[:, None]  # (B, S)
        frame_mask = None if mask is None else mask[:, :, None]
        positions, attendable = self._positions(hidden, cache), self._attendable(hidden, mask, cache)
        layerdrop = config.layerdrop * self.regularization
        intermediate, hidden_states, attentions, caches = [], [], [], []
        for number, layer in enumerate(self.layers, start=1):
            if output_hidden_states:
                hidden_states.append(hidden)
            given = (None, None) if cache is None else (cache.attention[number - 1], cache.convolution[number - 1])
            output, weights, new = layer(hidden, positions, attendable, frame_mask, output_attentions, given)
            attentions.append(weights)
            caches.append(new)
            if self.training and layerdrop:
                output = skip_layer(hidden, output, probability=layerdrop * number / len(self.layers))
            hidden = output
            if self.training and number in self.config.intermediate_ctc_layers:
                intermediate.append(self.final_norm(hidden))
        hidden = self.final_norm(hidden)
        output = ConformerModelOutput(
            last_hidden_state=hidden,
            hidden_states=(*hidden_states, hidden) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            attention_mask=mask,
            intermediate_hidden_states=tuple(intermediate) or None,
            cache=None if cache is None else self._next_cache(cache, caches, num_frames=hidden.shape[1]),
        )
        return output if return_dict else output.to_tuple()

    def empty_cache(self, batch_size: int = 1) -> StreamingCache:
        """Return the cache for the first step of streams, see `empty_cache` of `streaming_conformer.py`."""
        return empty_cache(self.config, batch_size=batch_size, device=self.device, dtype=self.dtype)

    def frames_of_step(self, num_chunks: int = 1) -> int:
        """Return the feature frames that a step of `num_chunks` chunks needs.

        They are more than the `subsampling_factor * chunk_size * num_chunks` frames after which the next step begins.
        """
        return required_frames(self.config.subsampling_factor, num_chunks * self.config.chunk_size)

    def _attendable(
        self, hidden: torch.Tensor, mask: torch.Tensor | None, cache: StreamingCache | None
    ) -> torch.Tensor | None:
        """Return the mask of the attention, as `ConformerAttention` takes it.

        A frame of padding attends to itself, because a frame that attends to nothing would be NaN. Without a chunk
        size, a step with a cache is one chunk, which attends to all cached frames.

        Args:
            hidden: (B, S, D).
            mask: Bool (B, S), True for real frames; None if all frames are real.
            cache: Of the step.
        """
        config, frames = self.config, hidden.shape[1]
        chunk_size, num_left_chunks = config.chunk_size, config.num_left_chunks
        if self.training and config.use_dynamic_chunk:
            chunk_size, num_left_chunks = draw_chunk(config, num_frames=frames)
        if chunk_size < 1 and cache is None:
            return None if mask is None else mask[:, None, None, :]
        left = 0 if cache is None else cache.attention.shape[3]
        keys = torch.arange(-left, frames, device=hidden.device)[None]  # (1, left + S)
        keys = keys if cache is None else keys + cache.offset[:, None]  # (1 or B, left + S)
        queries = keys[:, left:]
        allowed = chunk_mask(queries, keys, chunk_size=chunk_size, num_left_chunks=num_left_chunks)
        allowed = allowed & (keys >= 0)[:, None, :]
        if mask is not None:
            is_itself = queries[:, :, None] == keys[:, None, :]
            allowed = allowed & F.pad(mask, (left, 0), value=True)[:, None, :] | is_itself
        return allowed[:, None]  # (1 or B, 1, S, left + S)

    def _next_cache(
        self, cache: StreamingCache, caches: list[tuple[torch.Tensor, torch.Tensor]], *, num_frames: int
    ) -> StreamingCache:
        """Return the cache after a step of `num_frames` encoder frames, from the caches of the layers."""
        attentions, convolutions = zip(*caches, strict=True)
        if self.config.num_left_chunks >= 0:
            oldest = attentions[0].shape[2] - cache.attention.shape[3]
            attentions = [attention[:, :, oldest:] for attention in attentions]
        return StreamingCache(torch.stack(attentions), torch.stack(convolutions), cache.offset + num_frames)

    def _subsample(self, input_features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the first layer's input (B, S, D).

        Args:
            input_features: Raw log-mel, (B, T, M).
            lengths: Real frames of each utterance, (B,).
        """
        features = (input_features.float() - self.feature_mean.float()) * self.feature_istd.float()  # (B, T, M)
        if self.training and self.config.apply_spec_augment and self.regularization:
            features = spec_augment(features, lengths, self.config, strength=self.regularization)
        # A batch too short for one encoder frame is padded to one frame, which the mask excludes.
        features = F.pad(features, (0, 0, 0, torch.sym_max(0, self.min_frames - features.shape[1])))
        hidden = self.subsampling(features.to(self.subsampling.conv[0].weight.dtype))  # (B, S, D)
        if self.config.scale_input:
            hidden = hidden * math.sqrt(self.config.hidden_size)
        return self.dropout(hidden)

    def _positions(self, hidden: torch.Tensor, cache: StreamingCache | None) -> torch.Tensor:
        """Return the position embeddings of the cached frames and of (B, S, D), in the dtype that the layers need.

        Rotary positions are counted from the first cached frame: only distances matter, and small numbers are exact.
        """
        left = 0 if cache is None else cache.attention.shape[3]
        num_frames = left + hidden.shape[1]
        if self.config.position_embeddings == "absolute":
            places = torch.arange(num_frames, device=hidden.device)
            places = places if cache is None else places + (cache.offset[:, None] - left)
            return absolute_embedding(self.config, places=places).to(hidden.dtype)
        positions = rotary_embedding(self.config, num_frames=num_frames, device=hidden.device)
        # Rotary embeddings meet queries and keys, whose dtype under autocast is that of the projections.
        if torch.is_autocast_enabled(hidden.device.type):
            positions = positions.to(torch.get_autocast_dtype(hidden.device.type))
        return positions


class ConformerForCTC(ConformerPreTrainedModel):
    """Recognise speech: the encoder, a linear CTC head, and a decoder for training if `decoder_layers` is not 0."""

    regularization: float = 1.0  # factor of label smoothing and the consistency loss, see `set_regularization`
    # Trainer passes the number of label tokens of the whole optimiser step to `forward`, which divides the loss by it.
    accepts_loss_kwargs = True

    def __init__(self, config: ConformerConfig):
        super().__init__(config)
        self.encoder = ConformerModel(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        if config.num_sounds:
            self.ctc_head = SharedRowsLinear(config.hidden_size, config.vocab_size, num_shared=config.num_sounds)
        if config.phonemes:
            self.phoneme_head = nn.Linear(config.hidden_size, len(config.phonemes) + 1)
        if config.decoder_layers:
            self.decoder = ConformerDecoder(config, num_layers=config.decoder_layers)
        if config.reverse_decoder_layers:
            self.reverse_decoder = ConformerDecoder(config, num_layers=config.reverse_decoder_layers)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        cache: StreamingCache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        phoneme_ids: torch.Tensor | None = None,
    ) -> ConformerCTCOutput | tuple:
        """Return the logits (batch, frames', vocab_size) and, with labels, the loss.

        The logits are not normalised: take their softmax over the vocabulary. In inference, padded frames predict the
        blank with certainty.

        Args:
            input_features: Raw log-mel, (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames, 0 for the padding after them; None if all frames are
                real.
            labels: (batch, tokens), padded with -100.
            num_items_in_batch: Divisor of the summed loss: the label tokens of the whole optimiser step, over all ranks
                and micro-batches; None means the label tokens of this batch.
            cache, output_attentions, output_hidden_states, return_dict: As in `ConformerModel`.
            phoneme_ids: (batch, phonemes), padded with -100, for the intermediate losses of a model with phonemes.

        Raises:
            ValueError: A label is outside the vocabulary, or the phonemes are missing.
        """
        if labels is not None and self.training and self.config.consistency_weight * self.regularization:
            # CR-CTC trains on two copies of the batch, whose SpecAugment masks and dropout differ.
            input_features = torch.cat([input_features, input_features])
            attention_mask = None if attention_mask is None else torch.cat([attention_mask, attention_mask])
        encoded = self.encoder(
            input_features,
            attention_mask,
            cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.ctc_head(encoded.last_hidden_state)  # (B, S, V)
        loss, hidden_states, attentions = None, encoded.hidden_states, encoded.attentions
        if labels is not None:
            tokens = (labels >= 0).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            loss = summed_loss(self, logits, encoded, labels=labels, phoneme_ids=phoneme_ids) / tokens
            logits = logits[: len(labels)]
            hidden_states = hidden_states and tuple(states[: len(labels)] for states in hidden_states)
            attentions = attentions and tuple(weights[: len(labels)] for weights in attentions)
        if not self.training and encoded.attention_mask is not None:
            blank = torch.full_like(logits[0, 0], torch.finfo(logits.dtype).min)
            blank[self.config.pad_token_id] = 0.0
            logits = torch.where(encoded.attention_mask[:, :, None], logits, blank)
        output = ConformerCTCOutput(
            loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions, cache=encoded.cache
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def decoders(self) -> list[ConformerDecoder]:
        """Return the attention decoders: none, or the one from left to right and maybe its reverse."""
        names = ("decoder", "reverse_decoder")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the decoder's token embedding.

        Raises:
            NotImplementedError: The model has no decoder, so it embeds no tokens.
        """
        if not self.config.decoder_layers:
            raise NotImplementedError("a Conformer without a decoder has no token embedding: its inputs are features")
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the decoder's token embedding; raise NotImplementedError if there is no decoder."""
        self.get_input_embeddings()  # raises if there is no decoder
        self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """Return the CTC head."""
        return self.ctc_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the CTC head."""
        self.ctc_head = new_embeddings

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the weights, the configuration and the code, from which AutoModel can load the encoder alone, too."""
        encoder = f"{__name__.split('.')[-1]}.{ConformerModel.__name__}"
        self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | {"AutoModel": encoder}
        super().save_pretrained(save_directory, **kwargs)

    def merge_sounds(self) -> None:
        """Turn a CTC head whose tokens share rows (`num_sounds`) into an ordinary layer, in place; the logits stay."""
        if self.config.num_sounds:
            self.ctc_head, self.config.num_sounds = self.ctc_head.merged(), 0

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Linear:
        """Change the vocabulary size of the CTC head and of the decoders; return the CTC head.

        Args:
            new_num_tokens: New vocabulary size; None keeps the current one. New rows start near the mean of the old
                rows.
            pad_to_multiple_of: Round the size up to a multiple of this number.
            mean_resizing: Must be True: new rows that do not depend on the old rows are not supported.

        Raises:
            ValueError: The size leaves out a special token, or `mean_resizing` is False.
        """
        if not mean_resizing:
            raise ValueError("mean_resizing must be True: new rows start near the mean of the old rows")
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of:
            size = math.ceil(size / pad_to_multiple_of) * pad_to_multiple_of
        config = self.config
        last = max(number or 0 for number in (config.pad_token_id, config.bos_token_id, config.eos_token_id))
        if size <= last:
            raise ValueError(f"a vocabulary of {size} tokens lacks the special token {last}: use {last + 1} or more")
        if size != config.vocab_size:
            self.merge_sounds()
            kept = {number: number for number in range(min(size, config.vocab_size))}
            heads = [self.ctc_head]
            for decoder in self.decoders():
                heads += [decoder.embed_tokens, decoder.lm_head]
            for head in heads:
                replace_rows(head, size, kept=kept)
            config.vocab_size = size
        return self.ctc_head


__all__ = ["ConformerForCTC", "ConformerModel", "ConformerPreTrainedModel"]
