"""Configuration of the Conformer (Gulati et al. 2020, https://arxiv.org/abs/2005.08100)."""

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# subsampling_factor: (kernel, stride) of each convolution over time and frequency, without padding. These are WeNet's
# conv2d, conv2d6 and conv2d8.
SUBSAMPLING_CONVOLUTIONS: dict[int, tuple[tuple[int, int], ...]] = {
    4: ((3, 2), (3, 2)),
    6: ((3, 2), (5, 3)),
    8: ((3, 2), (3, 2), (3, 2)),
}


def required_frames(subsampling_factor: int, encoder_frames: int) -> int:
    """Return the smallest number of feature frames that gives `encoder_frames`."""
    frames = encoder_frames
    for kernel, stride in reversed(SUBSAMPLING_CONVOLUTIONS[subsampling_factor]):
        frames = (frames - 1) * stride + kernel
    return frames


class ConformerConfig(PreTrainedConfig):
    r"""Configure the encoder, the CTC head, the optional attention decoder and the training losses.

    A frame is a feature frame (10 ms by default) before the subsampling, and an encoder frame (`subsampling_factor`
    feature frames) after it. Dropout, skipped layers, masks, label smoothing, the consistency loss and the intermediate
    losses act in training only.

    Args:
        vocab_size: Number of output tokens, including the CTC blank.
        hidden_size: Width of the encoder (`dim` in lucidrains' conformer, `output_size` in WeNet).
        num_hidden_layers: Number of encoder blocks.
        num_attention_heads: Number of heads of each attention layer.
        head_dim: Width of one attention head. None means `hidden_size / num_attention_heads`.
        intermediate_size: Width of the hidden layer of the feed-forward modules.
        hidden_act: Activation of the feed-forward and convolution modules, by its name in transformers.
        block_type: `"conformer"`, or `"e_branchformer"` (Kim et al. 2022): attention and a gated convolution in
            parallel.
        cgmlp_size: Width of E-Branchformer's gated convolution before it is split into value and gate. None means
            `4 * hidden_size`.
        conv_kernel_size: Kernel of the depthwise convolution, in encoder frames. It must be odd unless `causal_conv`.
        conv_expansion_factor: The depthwise convolution has `conv_expansion_factor * hidden_size` channels.
        conv_norm: Norm of the convolution module: `"layer_norm"`, or `"batch_norm"` for imported models (its
            statistics depend on the other utterances of the batch).
        conv_bias: Use biases in the convolution module. Without them padded frames remain zero up to the depthwise
            convolution, so an utterance has the same output alone and in a padded batch. Imported WeNet models have
            biases; as in WeNet, padding can change their last frames.
        causal_conv: Pad the depthwise convolution on the left only, so that it does not see future frames.
        subsampling_factor: Number of feature frames in one encoder frame: 4, 6 or 8.
        subsampling_channels: Channels of the subsampling convolutions. None means `hidden_size`.
        subsampling_depthwise: Make the subsampling convolutions after the first one depthwise-separable, which is
            faster (FastConformer, Rekesh et al. 2023).
        position_embeddings: `"rotary"` (Su et al. 2021), or `"absolute"` for imported WeNet models: the attention
            scores of Transformer-XL (Dai et al. 2019) over absolute sinusoids, without the relative shift.
        rope_theta: Base of the rotary wavelengths.
        scale_input: Multiply the subsampled features by `sqrt(hidden_size)`, as WeNet does.
        hidden_dropout: Dropout probability after the subsampling and after each module.
        activation_dropout: Dropout probability inside the feed-forward modules and E-Branchformer's gated convolution.
        attention_dropout: Dropout probability of the attention weights. If it is not 0, PyTorch cannot use its fused
            attention kernels on a CPU.
        layerdrop: Probability with which the last layer is skipped for an utterance. It falls linearly to
            `layerdrop / num_hidden_layers` for the first layer (stochastic depth, Huang et al. 2016).
        layer_norm_eps: Epsilon of all layer norms.
        decoder_layers: Layers of an attention decoder that is trained beside the CTC head; 0 means no decoder.
            Greedy decoding uses the CTC head only.
        decoder_attention_heads: Heads of the decoder's attention layers, `hidden_size / decoder_attention_heads` wide.
            None means the encoder's heads and their width.
        decoder_intermediate_size: Width of the decoder's feed-forward modules. None means the encoder's.
        decoder_hidden_act: Activation of the decoder's feed-forward modules. None means the encoder's.
        reverse_decoder_layers: Layers of a second decoder, which reads the transcript from its end (U2++, Wu et al.
            2021); 0 means none.
        reverse_weight: With a second decoder, its share of the decoders' loss, and of their score in rescoring.
        ctc_weight: With a decoder, weight of the CTC loss; the decoder's loss has the weight `1 - ctc_weight`.
        label_smoothing: Weight of the uniform distribution in the CTC loss and in the decoder's loss.
        consistency_weight: Weight of the consistency loss of CR-CTC (Yao et al., ICLR 2025). If it is not 0, the model
            trains on two differently masked copies of each batch, which are to give equal outputs. The paper uses 0.2,
            and 2.5 times the usual amount of time masks.
        delay_penalty: Favour early tokens in the CTC loss, for live audio: log-probability that a blank gains for each
            encoder frame since the last pause (icefall uses 0.1). It grows with `regularization_start`, because CTC
            does not converge with it at the first steps.
        intermediate_ctc_layers: Layers, counted from 1, whose outputs have a CTC loss too (Lee and Watanabe 2021).
        intermediate_ctc_weight: Weight of the mean of these losses; the loss of the last layer has the rest.
        phoneme_language: Code of the language (`zh`, `en`, `de`) in whose phonemes, by espeak-ng, these losses are
            computed instead of in tokens (hierarchical CTC, Krishna et al. 2018, https://arxiv.org/abs/1807.06234).
            None means tokens. In a recipe, `auto` recognises Mandarin and English, and is None otherwise.
        phonemes: Names of the phonemes, which the training finds in the transcripts; the id of the first one is 1.
        num_sounds: Number of the rows of the CTC head that tokens of the same sound share in training (see
            `SharedRowsLinear`). The training finds it for scripts whose characters are syllables, if there is a
            `phoneme_language`; a finished model has an ordinary head and 0. In a recipe, 0 switches it off.
        chunk_size: Encoder frames of the chunks in which a recording is encoded: a frame attends to its own chunk and
            to `num_left_chunks` before it. -1 is full context: one chunk. It can be changed at any time in a model that
            was trained with `use_dynamic_chunk`.
        num_left_chunks: Chunks before its own one to which a frame attends; -1 for all.
        use_dynamic_chunk: Train for all chunk sizes (U2++, Wu et al. 2021): each batch has either full context or a
            random chunk size and a random number of left chunks. It needs `causal_conv`.
        full_context_probability: Share of the batches with full context.
        dynamic_chunk_sizes: Chunk sizes of the other batches, each equally likely.
        dynamic_left_chunks: Numbers of left chunks of these batches, each equally likely, -1 for all. None draws from
            all that the batch has.
        apply_spec_augment: Mask features in training (SpecAugment, Park et al. 2019).
        num_freq_masks: Number of frequency masks of each utterance.
        freq_mask_width: Largest width of a frequency mask, in mel bins.
        num_time_masks: Number of time masks of each utterance.
        time_mask_ratio: Largest width of a time mask, as a share of the utterance.
        num_mel_bins: Mel bins of the features.
        hop_length: Samples of audio between the starts of two feature frames.
        pad_token_id: Id of the CTC blank.
        bos_token_id: Id of `<sos/eos>`, the decoder's first input token.
        eos_token_id: Id of `<sos/eos>`, the decoder's last target token.
        ctc_zero_infinity: Give an utterance with fewer encoder frames than its transcript needs a loss of zero instead
            of infinity.

    Raises:
        ValueError: An option is not among its choices, or two options contradict each other.
    """

    model_type = "hf_asr_conformer"

    vocab_size: int = 32
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    head_dim: int | None = None
    intermediate_size: int = 1024
    hidden_act: str = "silu"
    block_type: str = "conformer"
    cgmlp_size: int | None = None
    conv_kernel_size: int = 15
    conv_expansion_factor: int = 1
    conv_norm: str = "layer_norm"
    conv_bias: bool = False
    causal_conv: bool = False
    subsampling_factor: int = 4
    subsampling_channels: int | None = None
    subsampling_depthwise: bool = False
    position_embeddings: str = "rotary"
    rope_theta: float | int = 10000.0
    scale_input: bool = False
    hidden_dropout: float | int = 0.1
    activation_dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    layerdrop: float | int = 0.0
    layer_norm_eps: float = 1e-5
    decoder_layers: int = 0
    decoder_attention_heads: int | None = None
    decoder_intermediate_size: int | None = None
    decoder_hidden_act: str | None = None
    reverse_decoder_layers: int = 0
    reverse_weight: float | int = 0.3
    ctc_weight: float | int = 0.3
    label_smoothing: float | int = 0.0
    consistency_weight: float | int = 0.0
    delay_penalty: float | int = 0.0
    intermediate_ctc_layers: list[int] | tuple[int, ...] = ()
    intermediate_ctc_weight: float | int = 0.3
    phoneme_language: str | None = None
    phonemes: list[str] | tuple[str, ...] = ()
    num_sounds: int = 0
    chunk_size: int = -1
    num_left_chunks: int = -1
    use_dynamic_chunk: bool = False
    full_context_probability: float | int = 0.5
    dynamic_chunk_sizes: list[int] | tuple[int, ...] = tuple(range(1, 26))
    dynamic_left_chunks: list[int] | tuple[int, ...] | None = None
    apply_spec_augment: bool = True
    num_freq_masks: int = 2
    freq_mask_width: int = 27
    num_time_masks: int = 10
    time_mask_ratio: float | int = 0.05
    num_mel_bins: int = 80
    hop_length: int = 160
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | None = 2
    ctc_zero_infinity: bool = True

    def __post_init__(self, **kwargs):
        if self.subsampling_factor not in SUBSAMPLING_CONVOLUTIONS:
            raise ValueError(f"subsampling_factor must be 4, 6 or 8, not {self.subsampling_factor}")
        if self.position_embeddings not in ("rotary", "absolute"):
            raise ValueError(f"position_embeddings must be 'rotary' or 'absolute', not {self.position_embeddings!r}")
        if self.conv_norm not in ("layer_norm", "batch_norm"):
            raise ValueError(f"conv_norm must be 'layer_norm' or 'batch_norm', not {self.conv_norm!r}")
        if self.block_type not in ("conformer", "e_branchformer"):
            raise ValueError(f"block_type must be 'conformer' or 'e_branchformer', not {self.block_type!r}")
        if self.cgmlp_size is None:
            self.cgmlp_size = 4 * self.hidden_size
        if any(not 1 <= layer < self.num_hidden_layers for layer in self.intermediate_ctc_layers):
            raise ValueError(
                f"intermediate_ctc_layers must be between 1 and {self.num_hidden_layers - 1}, "
                f"not {list(self.intermediate_ctc_layers)}"
            )
        if self.conv_kernel_size % 2 == 0 and not self.causal_conv:
            raise ValueError(f"conv_kernel_size must be odd unless causal_conv is set, not {self.conv_kernel_size}")
        self._check_sizes()
        self._check_activations()
        self._check_live()
        self._check_decoder()
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                    f"{self.num_attention_heads}: change one of them, or set head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.position_embeddings == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary position embeddings, not {self.head_dim}")
        if self.subsampling_channels is None:
            self.subsampling_channels = self.hidden_size
        super().__post_init__(**kwargs)

    def _check_sizes(self) -> None:
        """Raise ValueError for sizes with which no layer can be built."""
        for name in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "conv_expansion_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.block_type == "e_branchformer" and (self.cgmlp_size < 2 or self.cgmlp_size % 2):
            raise ValueError(f"cgmlp_size must be even, because it is split into two halves, not {self.cgmlp_size}")

    def _check_activations(self) -> None:
        """Raise ValueError for activations that transformers does not have."""
        for name in ("hidden_act", "decoder_hidden_act"):
            value = getattr(self, name)
            if value not in ACT2FN and (value is not None or name == "hidden_act"):
                raise ValueError(
                    f"{name} must be an activation of transformers, such as 'silu' or 'gelu', not {value!r}"
                )

    def _check_decoder(self) -> None:
        """Raise ValueError for options of the decoders that cannot be used."""
        if self.reverse_decoder_layers and not self.decoder_layers:
            raise ValueError(f"reverse_decoder_layers {self.reverse_decoder_layers} needs decoder_layers of 1 or more")
        if not 0 <= self.reverse_weight <= 1:
            raise ValueError(f"reverse_weight must be between 0 and 1, not {self.reverse_weight}")
        if self.decoder_attention_heads and self.hidden_size % self.decoder_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of decoder_attention_heads "
                f"{self.decoder_attention_heads}"
            )

    def _check_live(self) -> None:
        """Raise ValueError for options of live audio that cannot be used."""
        if not self.delay_penalty >= 0:
            raise ValueError(f"delay_penalty must be 0 or more, not {self.delay_penalty}")
        if self.use_dynamic_chunk and not self.causal_conv:
            raise ValueError(
                "use_dynamic_chunk needs causal_conv: true, because other convolutions look at later frames"
            )
        if self.use_dynamic_chunk and self.block_type != "conformer":
            raise ValueError(f"use_dynamic_chunk needs block_type 'conformer', not {self.block_type!r}")
        if not self.dynamic_chunk_sizes or min(self.dynamic_chunk_sizes) < 1:
            raise ValueError(f"dynamic_chunk_sizes must be 1 or more each, not {list(self.dynamic_chunk_sizes)}")
        if not 0 <= self.full_context_probability <= 1:
            raise ValueError(f"full_context_probability must be between 0 and 1, not {self.full_context_probability}")
        if min(self.dynamic_left_chunks or (0,)) < -1:
            raise ValueError(f"dynamic_left_chunks must be -1 or more each, not {list(self.dynamic_left_chunks)}")
        if self.chunk_size == 0 or self.chunk_size < -1:
            raise ValueError(f"chunk_size must be 1 or more, or -1 for full context, not {self.chunk_size}")
        if self.num_left_chunks < -1:
            raise ValueError(f"num_left_chunks must be 0 or more, or -1 for all, not {self.num_left_chunks}")

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Return the samples of audio that one frame of logits covers; the ASR pipeline of transformers needs it."""
        return self.hop_length * self.subsampling_factor


__all__ = ["ConformerConfig"]
