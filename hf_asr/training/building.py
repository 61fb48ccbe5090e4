"""Build the processor and the model to train: new, or from a checkpoint that is fine-tuned or resumed."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import models
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..arguments import checked
from ..checkpoint import NoTokenizerError, check_is_checkpoint, load_processor, loading
from ..families import disable_layerdrop, is_conformer, merge_sounds
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer
from ..provenance import hardware
from .arguments import ConformerTrainingArguments, ModelArguments
from .phoneme_head import refit_phonemes, with_phonemes, with_sounds
from .vocabulary import choose_text_normalization, fit_vocabulary, replace_vocabulary

logger = logging.getLogger("hf_asr")

# Settings that change how a checkpoint is trained, but not its architecture. The layers with a CTC loss are not among
# them: a layer that was trained without one would disturb the others.
TRAINING_SETTINGS = re.compile(
    r"drop|mask|spec_augment|dynamic_|full_context|^(ctc|reverse|consistency)_weight$|^delay_penalty$"
)
CHUNK_SETTINGS = ("causal_conv", "chunk_size", "num_left_chunks")  # taken where a checkpoint learns to stream
DECODER_SETTINGS = re.compile(r"^(reverse_)?decoder_")  # taken where a checkpoint has no decoder


def build(
    model_args: ModelArguments, texts: list[str], *, resume_from: Path | None = None
) -> tuple[ConformerProcessor, PreTrainedModel, bool]:
    """Return processor and model, see `build_processor` and `build_model`, and whether the CTC head is new."""
    processor, kept_rows = build_processor(model_args, texts, resume_from=resume_from)
    is_new = model_args.model_name_or_path is None and not is_resumed(model_args, resume_from)
    shares = None
    if is_new:
        options = with_phonemes(checked(ConformerConfig, model_args.model), texts)
        options, shares = with_sounds(options, processor.tokenizer)
        model_args = replace(model_args, model=options)
    model = build_model(model_args, processor, kept_rows=kept_rows, resume_from=resume_from)
    if shares is not None:
        model.ctc_head.share(shares)
    if not is_new and not is_resumed(model_args, resume_from) and getattr(model.config, "phonemes", ()):
        refit_phonemes(model, model_args.model.get("phoneme_language", "auto"), texts)
    # A checkpoint without a tokenizer, as of self-supervised learning, keeps no token but the blank.
    return processor, model, is_new or (kept_rows is not None and len(kept_rows) == 1)


def build_processor(
    model_args: ModelArguments, texts: list[str], *, resume_from: Path | None = None
) -> tuple[ConformerProcessor, dict[int, int] | None]:
    """Return the processor to train with, and which rows of a checkpoint's head its tokens keep.

    The processor is that of the checkpoint to resume from; or of the checkpoint to fine-tune, with its vocabulary
    fitted to `texts`; or a new one with a vocabulary learned from `texts`. The rows are {new id: old id}; None if the
    head stays as it is.

    Raises:
        ValueError: An unknown option, or a name or folder that is not a checkpoint.
    """
    if is_resumed(model_args, resume_from):
        with loading(str(resume_from)):
            processor = AutoProcessor.from_pretrained(resume_from)
        _log_kept_options(model_args, processor)
        return processor, None
    if model_args.model_name_or_path is not None:
        return _checkpoint_processor(model_args, texts)
    tokenizer = ConformerTokenizer.from_texts(
        texts,
        kind=model_args.tokenizer or "char",
        text_normalization=_text_normalization(model_args, texts),
        vocab_size=_bpe_vocab_size(model_args, is_learned=True),
    )
    extractor = ConformerFeatureExtractor(**checked(ConformerFeatureExtractor, model_args.feature_extractor))
    return ConformerProcessor(extractor, tokenizer), None


def build_model(
    model_args: ModelArguments,
    processor: ConformerProcessor,
    *,
    kept_rows: dict[int, int] | None = None,
    resume_from: Path | None = None,
) -> PreTrainedModel:
    """Return the model to train, in float32, with a row of its head for each token of `processor`.

    Args:
        kept_rows: Rows of the checkpoint's head to keep, from `build_processor`.

    Raises:
        ValueError: An unknown option, or a name or folder that is not a checkpoint.
    """
    if "label_smoothing" in model_args.model:
        raise ValueError("model: label_smoothing is the training argument label_smoothing_factor")
    if is_resumed(model_args, resume_from):
        with loading(str(resume_from)):
            model = AutoModelForCTC.from_pretrained(resume_from, dtype=torch.float32)
        _keep_options(model_args, model.config)
        return model
    if (name := model_args.model_name_or_path) is not None:
        with loading(name):
            own = AutoConfig.from_pretrained(name)
            config = _with_training_settings(own, model_args.model)
            # AdamW needs float32 weights, and from_pretrained keeps the checkpoint's precision by default.
            model = AutoModelForCTC.from_pretrained(name, config=config, dtype=torch.float32)
            merge_sounds(model)
        if is_conformer(config) and config.causal_conv and not own.causal_conv:
            forget_later_frames(model)
        if kept_rows is not None:
            replace_vocabulary(model, processor.tokenizer, kept=kept_rows)
        return model
    extractor = processor.feature_extractor
    config = ConformerConfig(
        **checked(ConformerConfig, model_args.model),
        vocab_size=len(processor.tokenizer),
        num_mel_bins=extractor.num_mel_bins,
        hop_length=extractor.hop_length,
    )
    return ConformerForCTC(config)


def forget_later_frames(model: ConformerForCTC) -> None:
    """Make the convolutions of an offline checkpoint causal, without their taps of later frames.

    A kernel of K frames around a frame becomes one of the K frames that end with it, whose first K // 2 taps are zero.
    """
    with torch.no_grad():
        for layer in model.encoder.layers:
            weight = layer.convolution.depthwise_conv.weight  # (D, 1, K)
            reach = weight.shape[-1] // 2
            weight.copy_(F.pad(weight[..., : reach + 1], (reach, 0)))
    logger.info("model: the checkpoint's convolutions become causal, so that it learns to recognise live audio")


def _keep_options(model_args: ModelArguments, config: PreTrainedConfig) -> None:
    """Set the options of `model` to what a resumed model has, and log those that were to be changed."""
    kept = {}
    for name, value in model_args.model.items():
        own = getattr(config, name, None)
        own = list(own) if isinstance(own, tuple) else own  # as YAML reads it
        if own != value and value != "auto":
            kept[name] = own
    if kept:
        logger.warning("a resumed run keeps its model: %s", ", ".join(f"{name} {own}" for name, own in kept.items()))
        model_args.model = model_args.model | kept


def _log_kept_options(model_args: ModelArguments, processor: ConformerProcessor) -> None:
    """Log the options of features and tokens that a resumed run does not take, because it keeps its processor."""
    own = vars(processor.feature_extractor)
    kept = [f"{name} {own.get(name)}" for name, value in model_args.feature_extractor.items() if own.get(name) != value]
    if kept:
        logger.warning(f"a resumed run keeps its feature_extractor: {', '.join(kept)}")
    for name, own in _token_options(processor.tokenizer).items():
        if (given := getattr(model_args, name)) not in (None, "auto", own):
            logger.warning(f"a resumed run keeps its {name}: {own}, not {given}")


def _token_options(tokenizer: ConformerTokenizer) -> dict[str, str]:
    """Return the arguments `text_normalization` and `tokenizer` that a tokenizer was made with."""
    return {
        "text_normalization": tokenizer.init_kwargs.get("text_normalization") or "none",
        "tokenizer": "char" if isinstance(tokenizer.backend_tokenizer.model, models.WordLevel) else "bpe",
    }


def is_resumed(model_args: ModelArguments, resume_from: Path | None) -> bool:
    """Return whether the model is loaded from `resume_from`.

    With low-rank adapters it is not: Trainer loads the adapters over the checkpoint that the first run started from.
    """
    return resume_from is not None and model_args.lora is None


def _checkpoint_processor(
    model_args: ModelArguments, texts: list[str]
) -> tuple[ConformerProcessor, dict[int, int] | None]:
    """Return a checkpoint's processor with its vocabulary fitted to `texts`, and the rows of the head to keep."""
    name = model_args.model_name_or_path
    check_is_checkpoint(name)
    rule = _text_normalization(model_args, texts)
    with loading(name):
        config = AutoConfig.from_pretrained(name)
        try:
            processor = load_processor(name, config, text_normalization=rule)
            tokenizer, extractor = processor.tokenizer, processor.feature_extractor
        except NoTokenizerError:
            tokenizer, extractor = None, AutoFeatureExtractor.from_pretrained(name)
    extractor = _configured_extractor(extractor, model_args.feature_extractor, config=config)
    if tokenizer is not None:
        rule = _checkpoint_text_normalization(tokenizer, rule, model_args)
    tokenizer, kept_rows = fit_vocabulary(
        tokenizer,
        texts,
        config,
        choice=model_args.vocabulary,
        kind=model_args.tokenizer or "char",
        text_normalization=rule,
        bpe_vocab_size=_bpe_vocab_size(model_args, is_learned=tokenizer is None or model_args.vocabulary == "new"),
    )
    return ConformerProcessor(extractor, tokenizer), kept_rows


def _text_normalization(model_args: ModelArguments, texts: list[str]) -> str:
    """Return the normalisation for a new vocabulary; `auto` is chosen from the transcripts."""
    if model_args.text_normalization != "auto":
        return model_args.text_normalization or "basic"
    rule = choose_text_normalization(texts)
    logger.info(f"text_normalization: {rule}, chosen from the transcripts")
    return rule


def _bpe_vocab_size(model_args: ModelArguments, *, is_learned: bool) -> int:
    """Return the maximum number of tokens of the vocabulary; log a warning if the argument has no effect."""
    size = model_args.bpe_vocab_size
    if size is None:
        return 1000
    if not is_learned:
        logger.warning(
            f"bpe_vocab_size: {size} has no effect: the checkpoint's vocabulary is kept (vocabulary new learns one)"
        )
    elif model_args.tokenizer != "bpe":
        logger.warning(f"bpe_vocab_size: {size} has no effect: tokenizer is char, not bpe")
    return size


def _checkpoint_text_normalization(tokenizer: ConformerTokenizer, rule: str, model_args: ModelArguments) -> str:
    """Return the normalisation to fine-tune with; log the arguments that the checkpoint's vocabulary overrides."""
    own, kind = _token_options(tokenizer).values()
    if model_args.vocabulary == "new":
        return own if model_args.text_normalization is None else rule
    if model_args.text_normalization not in (None, "auto", own):
        logger.warning(
            f"text_normalization: {own}, which the checkpoint's vocabulary was learned with, not {rule} "
            "(vocabulary new uses it)"
        )
    if model_args.tokenizer not in (None, kind):
        logger.warning(f"tokenizer: {kind}, as in the checkpoint, not {model_args.tokenizer} (vocabulary new uses it)")
    return own


def _configured_extractor(
    extractor: FeatureExtractionMixin, options: dict, *, config: PreTrainedConfig
) -> FeatureExtractionMixin:
    """Return the checkpoint's extractor with the `denoise` of the options.

    Raises:
        ValueError: Another option differs from the checkpoint's, whose weights were not trained with it.
    """
    if options and not is_conformer(config):
        raise ValueError(
            f"feature_extractor: {', '.join(options)}: a {config.model_type} checkpoint has its own features "
            f"({type(extractor).__name__}); leave the argument out"
        )
    changed = {name: value for name, value in options.items() if getattr(extractor, name, None) != value}
    if "denoise" in changed:
        extractor.denoise = changed.pop("denoise")
        logger.info(f"feature_extractor: denoise is {extractor.denoise} in training and in the saved processor")
    if changed:
        wanted = ", ".join(f"{name} {value} (it has {getattr(extractor, name)})" for name, value in changed.items())
        raise ValueError(
            f"feature_extractor: {wanted}: the checkpoint's weights fit the features that they were trained on; "
            "leave the option out, or train from scratch"
        )
    return extractor


def _with_training_settings(config: PreTrainedConfig, options: dict) -> PreTrainedConfig:
    """Apply training-only options; log the architecture options ignored because the checkpoint fixes them."""
    is_ours = is_conformer(config)
    if is_ours:
        options = checked(ConformerConfig, options)
        if config.phonemes:  # see `refit_phonemes`
            options = {name: value for name, value in options.items() if name != "phoneme_language"}
    learns_to_stream = is_ours and options.get("use_dynamic_chunk")
    gets_decoder = is_ours and options.get("decoder_layers") and not config.decoder_layers
    if gets_decoder:
        logger.info(f"model: an attention decoder of {options['decoder_layers']} layers is new, and is trained")
    applied = {
        name: value
        for name, value in options.items()
        if hasattr(config, name)
        and (
            TRAINING_SETTINGS.search(name)
            or (learns_to_stream and name in CHUNK_SETTINGS)
            or (gets_decoder and DECODER_SETTINGS.search(name))
        )
    }
    rest = {name: value for name, value in options.items() if name not in applied}
    if unknown := [name for name in rest if not hasattr(config, name)]:
        logger.warning(f"model: {config.model_type} has no setting {', '.join(unknown)}")
    ignored = [name for name, value in rest.items() if getattr(config, name, value) != value]
    if is_ours and "causal_conv" in ignored and options["causal_conv"]:
        raise ValueError(
            "model: causal_conv: the checkpoint is an offline one; with use_dynamic_chunk: true it learns to stream"
        )
    if ignored:
        values = ", ".join(f"{name} {getattr(config, name)}" for name in ignored)
        logger.info(f"model: the checkpoint's values are used, not the recipe's: {values}")
    config = type(config).from_dict(config.to_dict() | applied)  # which validates it again
    if not is_ours and "layerdrop" not in options and (layerdrop := disable_layerdrop(config)):
        logger.info(f"layerdrop: the checkpoint has {layerdrop}; it is set to 0")
    return config


def describe(model: torch.nn.Module, args: ConformerTrainingArguments) -> None:
    """Log the size of the model, the precision and the hardware."""
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    total = sum(value.numel() for value in model.parameters())
    share = "" if trained == total else f", {trained / 1e6:.2f} M of them trained"
    logger.info(
        f"model: {total / 1e6:.1f} M parameters{share}, {args.precision} on {hardware(args.device)}, "
        f"{args.world_size} process(es)"
    )
