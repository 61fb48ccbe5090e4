"""Keep, extend or replace the vocabulary of a model that is fine-tuned; tokens that stay keep their rows."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tokenizers import models
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.languages import are_english
from ..families import HEADS
from ..model import ConformerTokenizer
from ..model.layers_conformer import replace_rows
from ..model.spelling_conformer import HAN
from ..model.tokenization_conformer import SPACE
from .arguments import VOCABULARIES

logger = logging.getLogger("hf_asr")


def choose_text_normalization(texts: Sequence[str]) -> str:
    """Return the normalisation that `auto` chooses: zh, en or zh-en for Mandarin and English, else basic.

    Those three also spell out numbers. Texts with other letters, or in a language whose numbers cannot be spelled out,
    get `basic`.
    """
    letters = Counter(character for character in "".join(texts) if character.isalpha())
    han = sum(count for character, count in letters.items() if HAN.match(character))
    ascii_letters = sum(count for character, count in letters.items() if character.isascii())
    others = letters.total() - han - ascii_letters
    words = sum(len(re.findall("[a-z]+", text.lower())) for text in texts)
    if not letters or others > 0.005 * letters.total():
        return "basic"
    if han > words:  # Mandarin, even with foreign names
        return "zh-en" if words else "zh"
    if are_english(texts):
        return "zh-en" if han else "en"
    return "basic"


def unknown_characters(tokenizer: ConformerTokenizer, texts: Sequence[str]) -> list[str]:
    """Return the characters of normalised transcripts that the tokenizer has no token for, sorted; the space as `▁`."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # as for labels: a transcript has no special tokens
    unknown: set[str] = set()
    for start in range(0, len(texts), 1000):
        normalized = [tokenizer.normalize(text) for text in texts[start : start + 1000]]
        for text, encoding in zip(normalized, backend.encode_batch(normalized, add_special_tokens=False), strict=True):
            if tokenizer.unk_token_id in encoding.ids:
                for number, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
                    unknown.update(text[first:last] if number == tokenizer.unk_token_id else "")
    if unknown and SPACE not in tokenizer.get_vocab():
        unknown.add(" ")  # BPE also writes it before the first word
    return sorted(SPACE if character == " " else character for character in unknown)


def check_spells(tokenizer: ConformerTokenizer) -> None:
    """Raise ValueError if the vocabulary consists of pieces or phonemes that transcripts cannot be split into."""
    if not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
        return
    ordinary = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    several = sorted(
        token
        for token in ordinary
        if sum(unicodedata.category(character)[0] != "M" for character in token) > 1
        and not re.fullmatch(r"<.+>|\[.+\]", token)
    )
    if several:
        raise ValueError(
            f"the checkpoint's vocabulary has tokens of several characters ({', '.join(several[:5])} …), but not the "
            "model that splits transcripts into them. It can transcribe; to fine-tune it, learn a new vocabulary with "
            "vocabulary new (or, if it comes from WeNet, import it again with its sentencepiece .model beside "
            "units.txt)"
        )


def fit_vocabulary(
    tokenizer: ConformerTokenizer | None,
    texts: Sequence[str],
    config: PreTrainedConfig,
    *,
    choice: str,
    kind: str,
    text_normalization: str,
    bpe_vocab_size: int,
) -> tuple[ConformerTokenizer, dict[int, int] | None]:
    """Return the tokenizer to fine-tune with, and which rows of the checkpoint's head its tokens keep.

    The rows are {new id: old id}, see `replace_vocabulary`; None if the head stays as it is. The change is logged.

    Args:
        tokenizer: The checkpoint's tokenizer; None if it has none.
        texts: Transcripts of the training set.
        config: The checkpoint's configuration.
        choice: `"keep"`; `"auto"`, which adds the characters that the tokenizer lacks; or `"new"`, which learns a
            vocabulary from `texts` alone.
        kind: Tokens of a new vocabulary: `"char"` or `"bpe"`.

    Raises:
        ValueError: An unknown choice, `"keep"` without a tokenizer, or a tokenizer that cannot spell transcripts.
    """
    if choice not in VOCABULARIES:
        raise ValueError(f"vocabulary must be auto, keep or new, not {choice!r}")
    if tokenizer is None and choice == "keep":
        raise ValueError("vocabulary: the checkpoint has none to keep; choose auto or new")
    lacking: list[str] = []
    if tokenizer is None or choice == "new":
        fitted = ConformerTokenizer.from_texts(
            texts, kind=kind, text_normalization=text_normalization, vocab_size=bpe_vocab_size
        )
        _log_discarded(tokenizer, fitted)
    else:
        check_spells(tokenizer)
        lacking = unknown_characters(tokenizer, texts)
        if lacking and choice == "keep":
            logger.warning(
                f"the vocabulary lacks {_some(lacking)}: they count as unknown (vocabulary auto would add them)"
            )
        fitted = tokenizer.extended(lacking) if lacking and choice == "auto" else tokenizer
        if fitted is tokenizer and not _needs_rows(tokenizer, texts, head_rows=config.vocab_size):
            return tokenizer, None
    shared = _shared_ids(tokenizer, fitted, blank_id=config.pad_token_id)
    kept = {new: old for new, old in shared.items() if old < config.vocab_size}
    added = f"; added: {_some(lacking)}" if lacking and choice == "auto" else ""
    logger.info(f"vocabulary: {len(fitted)} tokens, {len(kept)} of them from the checkpoint{added}")
    return fitted, kept


def _log_discarded(old: ConformerTokenizer | None, new: ConformerTokenizer) -> None:
    discarded = [] if old is None else sorted(set(old.get_vocab()) - set(new.get_vocab()))
    if discarded:
        logger.warning(
            f"vocabulary new discards {len(discarded)} of the checkpoint's {len(old)} tokens and what it learned about "
            f"them: {_some(discarded)} (vocabulary keep and auto keep them)"
        )


def _some(tokens: Sequence[str]) -> str:
    return " ".join(tokens[:20]) + (" …" if len(tokens) > 20 else "")


def _needs_rows(tokenizer: ConformerTokenizer, texts: Sequence[str], *, head_rows: int) -> bool:
    """Return whether a label of these transcripts has no row in the head.

    A tokenizer may have more tokens than the head has rows, as wav2vec2's has, which adds `<s>` and `</s>`.
    """
    if len(tokenizer) <= head_rows:
        return False
    starts = range(0, len(texts), 1000)
    return any(
        max(ids, default=0) >= head_rows for at in starts for ids in tokenizer(texts[at : at + 1000])["input_ids"]
    )


def replace_vocabulary(model: PreTrainedModel, tokenizer: ConformerTokenizer, *, kept: dict[int, int]) -> None:
    """Give the heads of `model` a row for each token of `tokenizer`.

    Args:
        kept: {new id: old id} of the rows that are kept; the other rows are initialised.
    """
    for name in HEADS:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        replace_rows(module, len(tokenizer), kept=kept)
    model.config.vocab_size = len(tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id  # the blank
    model.config.bos_token_id, model.config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id


def _shared_ids(old: ConformerTokenizer | None, new: ConformerTokenizer, *, blank_id: int) -> dict[int, int]:
    """Return {new id: old id} of the blank and of the tokens that both vocabularies have.

    A lower-case token that is new takes the row of the upper-case one: vocabularies of wav2vec2 are upper case.
    """
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
