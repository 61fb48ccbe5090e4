"""Configuration of the Conformer (Gulati et al. 2020, https://arxiv.org/abs/2005.08100)."""

from transformers import PreTrainedConfig

# Unpadded convolutions over time and frequency, (kernel, stride) each: WeNet's conv2d, conv2d6 and conv2d8.
SUBSAMPLING_CONVOLUTIONS: dict[int, tuple[tuple[int, int], ...]] = {
    4: ((3, 2), (3, 2)),
    6: ((3, 2), (5, 3)),
    8: ((3, 2), (3, 2), (3, 2)),
}


class ConformerConfig(PreTrainedConfig):
    r"""
    Args:
        vocab_size: Number of output tokens, the CTC blank included.
        hidden_size: Width of the encoder (`dim` in lucidrains' conformer, `output_size` in WeNet).
        num_hidden_layers, num_attention_heads, intermediate_size: As in every transformers encoder.
        head_dim: Width of one attention head; `hidden_size / num_attention_heads` if not given.
        hidden_act: Activation of feed-forward and convolution modules.
        block_type: `"conformer"`, or `"e_branchformer"` (Kim et al. 2022): attention beside a gated convolution.
        cgmlp_size: Width of E-Branchformer's gated convolution, both halves; `4 * hidden_size` if not given.
        conv_kernel_size: Kernel of the depthwise convolution, in frames; odd unless `causal_conv`.
        conv_expansion_factor: The depthwise convolution has `conv_expansion_factor * hidden_size` channels.
        conv_norm: `"layer_norm"`, or `"batch_norm"` for imported models (its statistics depend on the batch).
        conv_bias: Bias in the convolution module. Without it the padding stays zero through the gate, and an utterance
            gives the same output alone and padded. Imported WeNet models have it, and WeNet's effect at the edges.
        causal_conv: Pad the depthwise convolution on the left only.
        subsampling_factor: 4, 6 or 8 feature frames (10 ms each) make one encoder frame.
        subsampling_channels: Channels of the subsampling convolutions; `hidden_size` if not given.
        subsampling_depthwise: Depthwise-separable convolutions after the first (FastConformer, Rekesh et al. 2023).
        position_embeddings: `"rotary"` (Su et al. 2021), or `"absolute"` for imported WeNet models: relative
            attention as in Transformer-XL, without its shift, over absolute sinusoids.
        rope_theta: Base of the rotary wavelengths.
        scale_input: Multiply the subsampled features by `sqrt(hidden_size)`, as WeNet does.
        hidden_dropout, activation_dropout, attention_dropout: Probabilities, after each module, inside the
            feed-forward modules and on the attention weights. The last rules out the fused attention kernels on CPU.
        layerdrop: Probability, in training, that the last layer is left out of an utterance; earlier ones less often.
        decoder_layers: Layers of an attention decoder beside the CTC head; 0 for none. It shapes training alone.
        ctc_weight: Share of the CTC loss beside the decoder's.
        label_smoothing: Share of the uniform distribution in both losses, in training.
        consistency_weight: Of CR-CTC (Yao et al., ICLR 2025): each batch is trained on twice, masked differently, and
            the two are made to agree; 0.2 in the paper, with 2.5 times the usual time masks. 0 leaves it out.
        intermediate_ctc_layers: Layers, counted from 1, whose states are trained on CTC too (Lee and Watanabe 2021).
        intermediate_ctc_weight: Their share of the CTC loss.
        apply_spec_augment: Mask features in training (SpecAugment, Park et al. 2019).
        num_freq_masks, freq_mask_width: Number of frequency masks and their largest width in mel bins.
        num_time_masks, time_mask_ratio: Number of time masks and their largest width as a share of the utterance.
        num_mel_bins, hop_length: Of the features: bins, and samples from one frame to the next.
        pad_token_id: The CTC blank.
        ctc_zero_infinity: Utterances that have fewer frames than their transcript needs count as zero loss.
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
    ctc_weight: float | int = 0.3
    label_smoothing: float | int = 0.0
    consistency_weight: float | int = 0.0
    intermediate_ctc_layers: list[int] | tuple[int, ...] = ()
    intermediate_ctc_weight: float | int = 0.3
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
            raise ValueError(f"subsampling_factor is 4, 6 or 8, not {self.subsampling_factor}")
        if self.position_embeddings not in ("rotary", "absolute"):
            raise ValueError(f"position_embeddings is 'rotary' or 'absolute', not {self.position_embeddings!r}")
        if self.conv_norm not in ("layer_norm", "batch_norm"):
            raise ValueError(f"conv_norm is 'layer_norm' or 'batch_norm', not {self.conv_norm!r}")
        if self.block_type not in ("conformer", "e_branchformer"):
            raise ValueError(f"block_type is 'conformer' or 'e_branchformer', not {self.block_type!r}")
        if self.cgmlp_size is None:
            self.cgmlp_size = 4 * self.hidden_size
        if any(not 1 <= layer < self.num_hidden_layers for layer in self.intermediate_ctc_layers):
            raise ValueError(
                f"intermediate_ctc_layers are between 1 and {self.num_hidden_layers - 1}, "
                f"not {list(self.intermediate_ctc_layers)}"
            )
        if self.conv_kernel_size % 2 == 0 and not self.causal_conv:
            raise ValueError(f"conv_kernel_size must be odd unless causal_conv is set, got {self.conv_kernel_size}")
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                    f"{self.num_attention_heads}: change one, or give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.position_embeddings == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary position embeddings need an even head_dim, got {self.head_dim}")
        if self.subsampling_channels is None:
            self.subsampling_channels = self.hidden_size
        super().__post_init__(**kwargs)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples of audio a frame of logits stands for; the ASR pipeline aligns its chunks to it."""
        return self.hop_length * self.subsampling_factor


__all__ = ["ConformerConfig"]
