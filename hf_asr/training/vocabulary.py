"""The vocabulary of a model that is fine-tuned: kept, extended or new; tokens that stay keep their rows."""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from ..model import ConformerTokenizer

logger = logging.getLogger("hf_asr")

HEADS = (
    "ctc_head",
    "lm_head",
    "decoder.lm_head",
    "decoder.embed_tokens",
)  # Parakeet's and ours; wav2vec2's; our decoder's


def unknown_characters(tokenizer: ConformerTokenizer, texts: Sequence[str]) -> list[str]:
    """Characters of normalised transcripts that the tokenizer has no token for, sorted."""
    characters = {character for text in texts for character in tokenizer.normalize(text)} - {" "}
    ids = tokenizer(sorted(characters))["input_ids"]
    unknown = tokenizer.unk_token_id
    return [character for character, tokens in zip(sorted(characters), ids, strict=True) if unknown in tokens]


def fit_vocabulary(
    model: PreTrainedModel,
    tokenizer: ConformerTokenizer | None,
    texts: Sequence[str],
    *,
    choice: str,
    kind: str,
    text_normalization: str,
    bpe_vocab_size: int,
) -> ConformerTokenizer:
    """The tokenizer to train with; the model's head is fitted to it, and the change told.

    Args:
        tokenizer: The checkpoint's; None if it has none.
        choice: `"keep"`; `"new"`, learnt from `texts` alone; or `"auto"`, which keeps a vocabulary that spells all of
            them, adds the characters that one of ours lacks, and learns a new one otherwise.

    Raises:
        ValueError: Another choice, or `"keep"` without a tokenizer.
    """
    if choice not in ("auto", "keep", "new"):
        raise ValueError(f"vocabulary is auto, keep or new, not {choice!r}")
    if tokenizer is None and choice == "keep":
        raise ValueError("the checkpoint has no vocabulary to keep: leave out --vocabulary")
    lacking = [] if tokenizer is None or choice == "new" else unknown_characters(tokenizer, texts)
    if tokenizer is not None and choice != "new" and (choice == "keep" or not lacking):
        if lacking:
            logger.warning(f"the vocabulary lacks {' '.join(lacking[:20])}: they count as unknown")
        return tokenizer
    if lacking and tokenizer.is_extendable:
        fitted = tokenizer.extended(lacking)
    else:
        fitted = ConformerTokenizer.from_texts(
            texts, kind=kind, text_normalization=text_normalization, vocab_size=bpe_vocab_size
        )
    kept = replace_vocabulary(model, tokenizer, fitted)
    logger.info(
        f"vocabulary: {len(fitted)} tokens, {kept} of them the checkpoint's"
        + (f"; added: {' '.join(lacking[:20])}{' …' if len(lacking) > 20 else ''}" if lacking else "")
    )
    return fitted


def replace_vocabulary(model: PreTrainedModel, old: ConformerTokenizer | None, new: ConformerTokenizer) -> int:
    """Gives `model` a row for each token of `new`, the old one where `old` had the token; returns how many those are.

    Upper case gives its rows to lower case where there is none: vocabularies of wav2vec2 are upper case.
    """
    shared = _shared_ids(old, new, blank_id=model.config.pad_token_id)
    for name in HEADS:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        for attribute in ("weight", "bias"):
            rows = getattr(module, attribute, None)
            if rows is None:
                continue
            # A new row is like those there are: their mean, and half of their spread.
            fresh = rows.data.mean(0) + 0.5 * rows.data.std(0) * torch.randn(len(new), *rows.shape[1:])
            fresh = fresh.to(rows.dtype)
            fresh[list(shared)] = rows.data[list(shared.values())]
            setattr(module, attribute, nn.Parameter(fresh))
        for attribute in ("out_features", "out_channels", "num_embeddings"):
            if hasattr(module, attribute):
                setattr(module, attribute, len(new))
    model.config.vocab_size = len(new)
    model.config.pad_token_id = new.pad_token_id  # the blank
    model.config.bos_token_id, model.config.eos_token_id = new.bos_token_id, new.eos_token_id
    return len(shared)


def _shared_ids(old: ConformerTokenizer | None, new: ConformerTokenizer, *, blank_id: int) -> dict[int, int]:
    """New id: old id, of the tokens that both have; the blank always."""
    shared = {new.pad_token_id: blank_id}
    if old is None:
        return shared
    ids = old.get_vocab()
    for role in ("unk_token", "eos_token"):
        if getattr(old, role) in ids:
            shared[getattr(new, f"{role}_id")] = ids[getattr(old, role)]
    for token, number in new.get_vocab().items():
        found = ids.get(token, ids.get(token.upper()))
        if found is not None and number not in shared:
            shared[number] = found
    return shared
