"""Read WeNet's `train.yaml`: each key is supported, is known not to change the outputs, or is refused by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..model import ConformerConfig, ConformerFeatureExtractor

SUBSAMPLING = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}
ACTIVATIONS = {"swish": "silu", "relu": "relu", "gelu": "gelu"}
WINDOWS = {"povey": "povey", "hanning": "hann", "hamming": "hamming", "rectangular": "rectangular"}

# Option of encoder_conf -> the projections that have no bias if it is false.
BIASES = {
    "query_bias": ("self_attn.linear_q", "self_attn.linear_out"),
    "key_bias": ("self_attn.linear_k",),
    "value_bias": ("self_attn.linear_v",),
    "mlp_bias": ("feed_forward.w_1", "feed_forward.w_2", "feed_forward_macaron.w_1", "feed_forward_macaron.w_2"),
}

# Keys that affect only training, the attention decoder (which is not imported), or the way of computing the same
# numbers.
HARMLESS = {
    "": (
        "decoder decoder_conf optim optim_conf scheduler scheduler_conf grad_clip accum_grad max_epoch log_interval "
        "save_interval save_states save_time model_dir train_engine use_amp dtype ds_conf init_infos lora_conf "
        "data_type tag epoch step lr lrs cv_loss loss_dict"
    ),
    "encoder_conf": (
        "positional_dropout_rate use_dynamic_left_chunk gradient_checkpointing use_sdpa positionwise_conv_kernel_size "
        "n_expert n_expert_activated"
    ),
    "model_conf": "ignore_id lsm_weight length_normalized_loss reverse_weight special_tokens",
    "tokenizer_conf": "symbol_table_path non_lang_syms_path is_multilingual num_languages",
    "dataset_conf": (
        "filter_conf speed_perturb speed_perturb_conf spec_aug spec_aug_conf spec_sub spec_sub_conf spec_trim "
        "spec_trim_conf shuffle shuffle_conf list_shuffle list_shuffle_conf sort sort_conf batch_conf cycle prefetch "
        "mfcc_conf log_mel_spectrogram_conf max_length min_length token_max_length token_min_length batch_type "
        "batch_size max_frames_in_batch"
    ),
    # torchaudio's `energy_floor` affects the energy of a frame, which WeNet does not use; dither is for training only.
    "dataset_conf.fbank_conf": "dither energy_floor",
    "collate_conf": ("feature_dither speed_perturb spec_aug spec_aug_conf spec_sub spec_sub_conf wav_distortion_conf"),
}


@dataclass(frozen=True, kw_only=True)
class WenetRecipe:
    """The content of a `train.yaml` that the importer needs."""

    config: ConformerConfig
    extractor: ConformerFeatureExtractor
    without_bias: dict[str, str]  # WeNet's name of a projection -> the option that removes its bias
    has_cmvn: bool
    cmvn_file: str | None
    bpe_path: str | None
    special_tokens: dict[str, int]


class Section(dict):
    """A mapping of the recipe whose keys are taken one by one; the keys that are left at the end are unknown."""

    def __init__(self, name: str, values: Any):
        if not isinstance(values, Mapping | None):
            raise ValueError(f"train.yaml: {name or 'the file'} must be a mapping of options, not {values!r}")
        super().__init__(values or {})
        self.name = name
        for key in HARMLESS.get(name, "").split():
            self.pop(key, None)

    def path(self, key: str) -> str:
        """Return the full name of a key, for messages."""
        return f"{self.name}.{key}" if self.name else key

    def section(self, key: str) -> "Section":
        """Take a mapping inside this one; an absent one is empty."""
        return Section(self.path(key), self.pop(key, None))

    def take(self, key: str, default: Any, *, accepted: tuple | None = None) -> Any:
        """Take a value.

        Raises:
            ValueError: The value is not one of `accepted`.
        """
        value = self.pop(key, default)
        if accepted is not None and value not in accepted:
            choices = ", ".join(map(repr, accepted))
            raise ValueError(f"train.yaml: {self.path(key)}: {value!r} cannot be imported, only {choices}")
        return value

    def number(self, key: str, default: float | None, *, least: float = 0.0, is_whole: bool = False) -> Any:
        """Take a number, which may be text, because PyYAML reads 1e-5 as text.

        Raises:
            ValueError: The value is not a number, or less than `least`.
        """
        value = self.pop(key, default)
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= least and (number.is_integer() or not is_whole)):
            kind = "a whole number" if is_whole else "a number"
            raise ValueError(f"train.yaml: {self.path(key)} must be {kind} of at least {least:g}, not {value!r}")
        return int(number) if is_whole else number

    def count(self, key: str, default: int | None) -> int:
        """Take a whole number of 1 or more."""
        return self.number(key, default, least=1, is_whole=True)

    def finish(self) -> None:
        """Raise a ValueError that names the keys that are left."""
        if self:
            unknown = ", ".join(f"{self.path(key)}: {value!r}" for key, value in self.items())
            raise ValueError(
                f"train.yaml: {unknown} is not known here and may change what the model computes; "
                "if it does not, delete it from the file"
            )


def load_recipe(path: Path) -> dict:
    """Return the content of a `train.yaml`.

    Raises:
        ValueError: The file is not YAML, or not a mapping.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must be a mapping of options, not {str(recipe)[:50]!r}")
    return recipe


def parse_recipe(recipe: dict, *, vocab_size: int) -> WenetRecipe:
    """Return the configuration, the features and the files that a recipe describes.

    Raises:
        ValueError: An option is unknown or cannot be imported; the message names it.
    """
    top = Section("", recipe)
    top.take("encoder", "conformer", accepted=("conformer",))
    top.take("model", "asr_model", accepted=("asr_model",))
    top.take("dataset", "asr", accepted=("asr",))
    top.take("ctc", "ctc", accepted=("ctc",))
    top.take("raw_wav", True, accepted=(True,))  # False: precomputed features of Kaldi
    top.take("lfmmi_dir", None, accepted=(None, ""))
    for key in ("output_dim", "vocab_size"):
        if (size := top.pop(key, vocab_size)) != vocab_size:
            raise ValueError(f"train.yaml: {key} is {size!r}, but the CTC head has {vocab_size} outputs")
    ctc = top.section("ctc_conf")
    ctc.take("ctc_blank_id", 0, accepted=(0,))
    ctc.finish()
    model = top.section("model_conf")
    if model.number("ctc_weight", 0.5) == 0:
        raise ValueError("train.yaml: model_conf.ctc_weight is 0, so the CTC head was not trained; only it is imported")
    model.take("apply_non_blank_embedding", False, accepted=(False,))
    model.take("lfmmi_dir", None, accepted=(None, ""))
    model.finish()
    is_bpe = top.take("tokenizer", "char", accepted=("char", "bpe")) == "bpe"
    special_tokens, bpe_path = _tokenizer(top.section("tokenizer_conf"), is_bpe=is_bpe)
    has_cmvn, cmvn_file = _cmvn(top)
    input_dim = top.pop("input_dim", None)
    extractor = _extractor(top, input_dim)
    encoder = top.section("encoder_conf")
    without_bias = {
        part: option for option, parts in BIASES.items() if not _flag(encoder, option, True) for part in parts
    }
    config = _config(encoder, vocab_size=vocab_size, extractor=extractor)
    top.finish()
    return WenetRecipe(
        config=config,
        extractor=extractor,
        without_bias=without_bias,
        has_cmvn=has_cmvn,
        cmvn_file=cmvn_file,
        bpe_path=bpe_path,
        special_tokens=special_tokens,
    )


def _flag(section: Section, key: str, default: bool) -> bool:
    """Take a boolean."""
    return section.take(key, default, accepted=(True, False))


def _config(encoder: Section, *, vocab_size: int, extractor: ConformerFeatureExtractor) -> ConformerConfig:
    """Return the configuration of an encoder; the defaults are those of WeNet's `ConformerEncoder`."""
    hidden_size, heads = encoder.count("output_size", 256), encoder.count("attention_heads", 4)
    encoder.take("pos_enc_layer_type", "rel_pos", accepted=("rel_pos",))
    encoder.take("selfattention_layer_type", "rel_selfattn", accepted=("rel_selfattn",))
    for key in ("normalize_before", "use_cnn_module", "macaron_style", "final_norm"):
        encoder.take(key, True, accepted=(True,))
    encoder.take("concat_after", False, accepted=(False,))
    encoder.take("mlp_type", "position_wise_feed_forward", accepted=("position_wise_feed_forward",))
    encoder.take("num_experts", None, accepted=(None,))
    encoder.take("n_kv_head", None, accepted=(None, heads))
    encoder.take("head_dim", None, accepted=(None, hidden_size // heads))
    encoder.take("layer_norm_type", "layer_norm", accepted=("layer_norm",))
    is_causal, is_dynamic = _flag(encoder, "causal", False), _flag(encoder, "use_dynamic_chunk", False)
    chunk_size = encoder.number("static_chunk_size", 0, least=-1, is_whole=True)
    conv_norm = encoder.take("cnn_module_norm", "batch_norm", accepted=("batch_norm", "layer_norm"))
    eps, conv_eps = encoder.number("norm_eps", 1e-5), encoder.number("conv_norm_eps", 1e-5)
    if conv_eps != (eps if conv_norm == "layer_norm" else 1e-5):
        raise ValueError(
            f"train.yaml: encoder_conf.norm_eps {eps:g} and conv_norm_eps {conv_eps:g} cannot be imported together: "
            "batch_norm has 1e-05 here, and layer_norm the norm_eps of the other norms"
        )
    options = dict(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=encoder.count("num_blocks", 6),
        num_attention_heads=heads,
        intermediate_size=encoder.count("linear_units", 2048),
        hidden_act=ACTIVATIONS[encoder.take("activation_type", "swish", accepted=tuple(ACTIVATIONS))],
        conv_kernel_size=encoder.count("cnn_module_kernel", 15),
        conv_expansion_factor=encoder.take("conv_inner_factor", 2, accepted=(2, 4, 6, 8)) // 2,
        conv_norm=conv_norm,
        conv_bias=_flag(encoder, "conv_bias", True),
        causal_conv=is_causal,
        # A model that is not causal becomes an offline one, because it does not stream exactly.
        use_dynamic_chunk=is_dynamic and is_causal,
        chunk_size=chunk_size if chunk_size > 0 and not is_dynamic else -1,  # dynamic chunks replace the static one
        subsampling_factor=SUBSAMPLING[encoder.take("input_layer", "conv2d", accepted=tuple(SUBSAMPLING))],
        position_embeddings="absolute",
        scale_input=True,
        hidden_dropout=(dropout := encoder.number("dropout_rate", 0.1)),
        activation_dropout=dropout,
        attention_dropout=encoder.number("attention_dropout_rate", 0.0),
        layer_norm_eps=eps,
        num_mel_bins=extractor.num_mel_bins,
        hop_length=extractor.hop_length,
    )
    encoder.finish()
    try:
        return ConformerConfig(**options)
    except ValueError as error:
        raise ValueError(f"train.yaml: encoder_conf cannot be imported: {error}") from error


def _extractor(top: Section, input_dim: int | None) -> ConformerFeatureExtractor:
    """Return an extractor of the features that torchaudio computes for WeNet.

    The first versions of WeNet describe them in `collate_conf`.
    """
    dataset, collate = top.section("dataset_conf"), top.section("collate_conf")
    dataset.take("feats_type", "fbank", accepted=("fbank",))
    dataset.take("split_with_space", False, accepted=(False,))
    old = collate.section("feature_extraction_conf")
    old.take("feature_type", "fbank", accepted=("fbank",))
    old.take("using_pitch", False, accepted=(False,))
    old_bins = old.pop("mel_bins", input_dim)
    resample, fbank = dataset.section("resample_conf"), dataset.section("fbank_conf")
    bins = fbank.count("num_mel_bins", old_bins)
    if input_dim is not None and input_dim != bins:
        raise ValueError(f"train.yaml: input_dim is {input_dim!r}, but the features have {bins} mel bins")
    extractor = ConformerFeatureExtractor(
        num_mel_bins=bins,
        sampling_rate=resample.count("resample_rate", 16000),
        frame_length=fbank.number("frame_length", old.number("frame_length", 25), least=1),
        frame_shift=fbank.number("frame_shift", old.number("frame_shift", 10), least=1),
        window_type=WINDOWS[fbank.take("window_type", "povey", accepted=tuple(WINDOWS))],
        low_freq=fbank.number("low_freq", 20.0),
        high_freq=fbank.number("high_freq", 0.0, least=-math.inf),
        snip_edges=True,
        energy_floor=2**-23,
        min_duration=0.0,
    )
    for section in (resample, fbank, dataset, old, collate):
        section.finish()
    return extractor


def _cmvn(top: Section) -> tuple[bool, str | None]:
    """Return whether features are normalised, and the file of the statistics.

    The first versions of WeNet name the file at the top level.
    """
    old_file, conf = top.pop("cmvn_file", None), top.section("cmvn_conf")
    file = conf.pop("cmvn_file", None) or old_file
    for section in (top, conf):
        section.pop("is_json_cmvn", None)  # the format of the file shows this
    conf.finish()
    default = "global_cmvn" if old_file else None
    if not isinstance(file, str | None):
        raise ValueError(f"train.yaml: cmvn_file must be the name of a file, not {file!r}")
    has_cmvn = top.take("cmvn", default, accepted=("global_cmvn", None)) is not None
    return has_cmvn, file if has_cmvn else None


def _tokenizer(conf: Section, *, is_bpe: bool) -> tuple[dict[str, int], str | None]:
    """Return the ids of the special tokens and the path of the sentencepiece model, as the recipe gives them."""
    # Units are then words or phones, which are not supported; sentencepiece ignores the option.
    conf.take("split_with_space", False, accepted=(True, False, None) if is_bpe else (False, None))
    conf.take("connect_symbol", "", accepted=("", None))
    special_tokens, bpe_path = conf.pop("special_tokens", None) or {}, conf.pop("bpe_path", None)
    conf.finish()
    if not isinstance(special_tokens, Mapping) or not all(type(place) is int for place in special_tokens.values()):
        raise ValueError(f"train.yaml: tokenizer_conf.special_tokens must be tokens with ids, not {special_tokens!r}")
    if special_tokens.get("<blank>", 0) != 0:
        raise ValueError(
            f"train.yaml: tokenizer_conf.special_tokens has <blank>: {special_tokens['<blank>']}, "
            "but only a blank of id 0 can be imported"
        )
    if not isinstance(bpe_path, str | None):
        raise ValueError(f"train.yaml: tokenizer_conf.bpe_path must be the name of a file, not {bpe_path!r}")
    return dict(special_tokens), bpe_path
