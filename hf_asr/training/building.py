"""Processor and model to train: new ones, or a checkpoint's fitted to new transcripts."""

import logging
import re
from pathlib import Path

import torch
from tokenizers import models
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    FeatureExtractionMixin,
    PreTrainedConfig,
)

from ..arguments import checked
from ..checkpoint import NoTokenizerError, check_is_checkpoint, load_processor, loading
from ..families import disable_layerdrop
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer
from ..provenance import hardware
from .arguments import ConformerTrainingArguments, ModelArguments
from .vocabulary import choose_text_normalization, fit_vocabulary

logger = logging.getLogger("hf_asr")

# Settings that change how a checkpoint is trained and not what it is.
TRAINING_SETTINGS = re.compile(r"drop|mask|spec_augment|intermediate_ctc|^ctc_weight$|^consistency_weight$")


def build(
    model_args: ModelArguments, texts: list[str], *, resume_from: Path | None = None
) -> tuple[ConformerProcessor, torch.nn.Module]:
    """Processor and model: of the checkpoint to resume from or to go on from, or new with a vocabulary of `texts`.

    Raises:
        ValueError: An option that there is not, or something that cannot be loaded as a checkpoint.
    """
    if "label_smoothing" in model_args.model:
        raise ValueError("model: label_smoothing is the training argument label_smoothing_factor")
    if resume_from is not None and model_args.lora is None:  # adapters are loaded over the model they began with
        with loading(str(resume_from)):
            model = AutoModelForCTC.from_pretrained(resume_from, dtype=torch.float32)
            return AutoProcessor.from_pretrained(resume_from), model
    if model_args.model_name_or_path is not None:
        return _from_checkpoint(model_args, texts)
    tokenizer = ConformerTokenizer.from_texts(
        texts,
        kind=model_args.tokenizer or "char",
        text_normalization=_rule(model_args, texts),
        vocab_size=_bpe_vocab_size(model_args, is_learnt=True),
    )
    extractor = ConformerFeatureExtractor(**checked(ConformerFeatureExtractor, model_args.feature_extractor))
    options = checked(ConformerConfig, model_args.model)
    config = ConformerConfig(
        **options,
        vocab_size=len(tokenizer),
        num_mel_bins=extractor.num_mel_bins,
        hop_length=extractor.hop_length,
    )
    return ConformerProcessor(extractor, tokenizer), ConformerForCTC(config)


def _from_checkpoint(model_args: ModelArguments, texts: list[str]) -> tuple[ConformerProcessor, torch.nn.Module]:
    name = model_args.model_name_or_path
    check_is_checkpoint(name)
    rule = _rule(model_args, texts)
    with loading(name):
        config = _configured(AutoConfig.from_pretrained(name), model_args.model)
        model = AutoModelForCTC.from_pretrained(name, config=config, dtype=torch.float32)  # AdamW wants whole weights
        try:
            processor = load_processor(name, config, text_normalization=rule)
            tokenizer, extractor = processor.tokenizer, processor.feature_extractor
        except NoTokenizerError:
            tokenizer, extractor = None, AutoFeatureExtractor.from_pretrained(name)
    extractor = _configured_extractor(extractor, model_args.feature_extractor, config=config)
    if tokenizer is not None:
        rule = _kept_rule(tokenizer, rule, model_args)
    tokenizer = fit_vocabulary(
        model,
        tokenizer,
        texts,
        choice=model_args.vocabulary,
        kind=model_args.tokenizer or "char",
        text_normalization=rule,
        bpe_vocab_size=_bpe_vocab_size(model_args, is_learnt=tokenizer is None or model_args.vocabulary == "new"),
    )
    return ConformerProcessor(extractor, tokenizer), model


def _rule(model_args: ModelArguments, texts: list[str]) -> str:
    """What `text_normalization` asks for: `auto` is chosen from the transcripts."""
    if model_args.text_normalization != "auto":
        return model_args.text_normalization or "basic"
    rule = choose_text_normalization(texts)
    logger.info(f"text_normalization: {rule}, chosen from the transcripts")
    return rule


def _bpe_vocab_size(model_args: ModelArguments, *, is_learnt: bool) -> int:
    """Most tokens of the vocabulary; logs where it is asked for and has no effect."""
    size = model_args.bpe_vocab_size
    if size is None:
        return 1000
    if not is_learnt:
        logger.warning(
            f"bpe_vocab_size: {size} has no effect: the checkpoint's vocabulary stays (--vocabulary new learns one)"
        )
    elif model_args.tokenizer != "bpe":
        logger.warning(f"bpe_vocab_size: {size} has no effect: tokenizer is char (--tokenizer bpe)")
    return size


def _kept_rule(tokenizer: ConformerTokenizer, rule: str, model_args: ModelArguments) -> str:
    """The rule of a new vocabulary; logs what is asked for and the checkpoint has otherwise."""
    own = tokenizer.init_kwargs.get("text_normalization") or "none"
    if model_args.vocabulary == "new":
        return own if model_args.text_normalization is None else rule
    if model_args.text_normalization not in (None, "auto", own):
        logger.warning(
            f"text_normalization: {own}, which the checkpoint's vocabulary was learnt with, not {rule} "
            "(--vocabulary new takes it)"
        )
    kind = "char" if isinstance(tokenizer.backend_tokenizer.model, models.WordLevel) else "bpe"
    if model_args.tokenizer not in (None, kind):
        logger.warning(f"tokenizer: {kind}, as the checkpoint has it, not {model_args.tokenizer} (--vocabulary new)")
    return own


def _configured_extractor(extractor: FeatureExtractionMixin, options: dict, *, config: PreTrainedConfig):
    """Return the checkpoint's extractor, with `denoise` as it is given.

    Raises:
        ValueError: Another option, which the checkpoint's weights were not trained with.
    """
    if options and not isinstance(extractor, ConformerFeatureExtractor):
        raise ValueError(
            f"feature_extractor: {', '.join(options)}: a checkpoint of {config.model_type} has its own features, "
            f"{type(extractor).__name__}'s; leave it out"
        )
    changed = {name: value for name, value in options.items() if getattr(extractor, name, None) != value}
    if "denoise" in changed:
        extractor.denoise = changed.pop("denoise")
        logger.info(f"feature_extractor: denoise {extractor.denoise}, in training and from now on")
    if changed:
        asked = ", ".join(f"{name} {value} (it has {getattr(extractor, name)})" for name, value in changed.items())
        raise ValueError(
            f"feature_extractor: {asked}: the checkpoint's weights fit the features that they were trained on; "
            "leave it out, or train from scratch"
        )
    return extractor


def _configured(config: PreTrainedConfig, options: dict) -> PreTrainedConfig:
    """With what changes only the training; tells what a recipe says of the rest and the checkpoint has otherwise."""
    is_ours = isinstance(config, ConformerConfig)
    if is_ours:
        options = checked(ConformerConfig, options)
    applied = {
        name: value for name, value in options.items() if TRAINING_SETTINGS.search(name) and hasattr(config, name)
    }
    rest = {name: value for name, value in options.items() if name not in applied}
    if unknown := [name for name in rest if not hasattr(config, name)]:
        logger.warning(f"model: {', '.join(unknown)}: {config.model_type} has no such setting")
    kept = [name for name, value in rest.items() if getattr(config, name, value) != value]
    if kept:
        told = ", ".join(f"{name} {getattr(config, name)}" for name in kept)
        logger.info(f"as the checkpoint has it, not the recipe: {told}")
    config = type(config).from_dict(config.to_dict() | applied)  # checked anew
    if not is_ours and "layerdrop" not in options and (layerdrop := disable_layerdrop(config)):
        logger.info(f"layerdrop: the checkpoint has {layerdrop}; it is set to 0")
    return config


def describe(model: torch.nn.Module, args: ConformerTrainingArguments) -> None:
    """Logs what is about to be trained, and where."""
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    total = sum(value.numel() for value in model.parameters())
    share = "" if trained == total else f", {trained / 1e6:.2f} M of them trained"
    logger.info(
        f"model: {total / 1e6:.1f} M parameters{share}, {args.precision} on {hardware(args.device)}, "
        f"{args.world_size} process(es)"
    )
