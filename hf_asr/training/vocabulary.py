"""The vocabulary of a model that is fine-tuned: kept, extended or new; tokens that stay keep their rows."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tokenizers import models
from transformers import PreTrainedModel

from ..families import CTC_HEADS, HEADS
from ..model import ConformerTokenizer
from ..model.layers_conformer import replace_rows
from ..model.spelling_conformer import HAN
from ..model.tokenization_conformer import SPACE
from .arguments import VOCABULARIES

logger = logging.getLogger("hf_asr")

# Words that English can hardly do without and that its neighbours do not have.
ENGLISH = {
    *("the", "and", "to", "that", "for", "you", "with", "this", "are", "not", "have", "from", "they", "she", "what"),
    *("would", "there", "which", "when", "your", "it", "his", "my", "of"),
}


def choose_text_normalization(texts: Sequence[str]) -> str:
    """The rule that `auto` stands for: one that spells numbers where the transcripts are Mandarin or English.

    What is written with other letters, or in a language that none of the rules can count in, is left as it is: `basic`.
    """
    letters = Counter(character for character in "".join(texts) if character.isalpha())
    han = sum(count for character, count in letters.items() if HAN.match(character))
    ascii_letters = sum(count for character, count in letters.items() if character.isascii())
    others = letters.total() - han - ascii_letters
    words = Counter(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    is_english = sum(words[word] for word in ENGLISH) >= 0.05 * max(1, words.total())
    if not letters or others > 0.005 * letters.total():
        return "basic"
    if han > words.total():  # Mandarin, whatever names are in it
        return "zh-en" if words else "zh"
    if is_english:
        return "zh-en" if han else "en"
    return "basic"


def unknown_characters(tokenizer: ConformerTokenizer, texts: Sequence[str]) -> list[str]:
    """Characters of normalised transcripts that the tokenizer has no token for, sorted; the space as `▁`."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # as in labels: a transcript holds none
    unknown: set[str] = set()
    for start in range(0, len(texts), 1000):
        normalized = [tokenizer.normalize(text) for text in texts[start : start + 1000]]
        for text, encoding in zip(normalized, backend.encode_batch(normalized, add_special_tokens=False), strict=True):
            if tokenizer.unk_token_id in encoding.ids:
                for number, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
                    unknown.update(text[first:last] if number == tokenizer.unk_token_id else "")
    if unknown and SPACE not in tokenizer.get_vocab():
        unknown.add(" ")  # which BPE puts before the first word, too
    return sorted(SPACE if character == " " else character for character in unknown)


def check_spells(tokenizer: ConformerTokenizer) -> None:
    """Raises ValueError for a vocabulary of pieces or phonemes that nothing here cuts transcripts into."""
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
            f"the checkpoint's vocabulary has tokens of several characters ({', '.join(several[:5])} …), and the model "
            "that cuts transcripts into them is not with it. It transcribes; to fine-tune it, learn a new vocabulary "
            "with --vocabulary new (or, if it comes from WeNet, import it again with its sentencepiece .model beside "
            "units.txt)"
        )


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
    """The tokenizer to train with; the model's head is fitted to it, and the change logged.

    Args:
        tokenizer: The checkpoint's; None if it has none.
        choice: `"keep"`; `"auto"`, which adds the characters that it lacks; or `"new"`, learnt from `texts` alone.

    Raises:
        ValueError: Another choice, `"keep"` without a tokenizer, or one that cannot spell transcripts.
    """
    if choice not in VOCABULARIES:
        raise ValueError(f"vocabulary is auto, keep or new, not {choice!r}")
    if tokenizer is None and choice == "keep":
        raise ValueError("the checkpoint has no vocabulary to keep: leave out --vocabulary")
    lacking: list[str] = []
    if tokenizer is None or choice == "new":
        fitted = ConformerTokenizer.from_texts(
            texts, kind=kind, text_normalization=text_normalization, vocab_size=bpe_vocab_size
        )
        gone = [] if tokenizer is None else sorted(set(tokenizer.get_vocab()) - set(fitted.get_vocab()))
        if gone:
            logger.warning(
                f"--vocabulary new discards {len(gone)} of the checkpoint's {len(tokenizer)} tokens and what it learnt "
                f"of them: {_some(gone)} (--vocabulary keep and auto leave them)"
            )
    else:
        check_spells(tokenizer)
        lacking = unknown_characters(tokenizer, texts)
        if lacking and choice == "keep":
            logger.warning(
                f"the vocabulary lacks {_some(lacking)}: they count as unknown (--vocabulary auto adds them)"
            )
        fitted = tokenizer.extended(lacking) if lacking and choice == "auto" else tokenizer
        if fitted is tokenizer and not _needs_rows(model, tokenizer, texts):
            return tokenizer
    kept = replace_vocabulary(model, tokenizer, fitted)
    added = f"; added: {_some(lacking)}" if lacking and choice == "auto" else ""
    logger.info(f"vocabulary: {len(fitted)} tokens, {kept} of them the checkpoint's{added}")
    return fitted


def _some(tokens: Sequence[str]) -> str:
    return " ".join(tokens[:20]) + (" …" if len(tokens) > 20 else "")


def _head_rows(model: PreTrainedModel) -> int:
    """Tokens that the model's head has rows for; a tokenizer may have more, such as wav2vec2's `<s>`."""
    for name in CTC_HEADS:
        if hasattr(model, name):
            return len(getattr(model, name).weight)
    return model.config.vocab_size


def _needs_rows(model: PreTrainedModel, tokenizer: ConformerTokenizer, texts: Sequence[str]) -> bool:
    """Whether a label of these transcripts has no row in the head."""
    rows = _head_rows(model)
    if len(tokenizer) <= rows:
        return False
    places = range(0, len(texts), 1000)
    return any(max(ids, default=0) >= rows for at in places for ids in tokenizer(texts[at : at + 1000])["input_ids"])


def replace_vocabulary(model: PreTrainedModel, old: ConformerTokenizer | None, new: ConformerTokenizer) -> int:
    """Gives `model` a row for each token of `new`, the old one where `old` had the token; returns how many those are.

    Upper case gives its rows to lower case where there is none: vocabularies of wav2vec2 are upper case.
    """
    shared = _shared_ids(old, new, blank_id=model.config.pad_token_id)
    rows_there = _head_rows(model)
    shared = {number: before for number, before in shared.items() if before < rows_there}
    for name in HEADS:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue
        replace_rows(module, len(new), kept=shared)
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
