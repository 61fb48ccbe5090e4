"""Score hypotheses with an n-gram language model from an ARPA file, by shallow fusion (Gulcehre et al. 2015).

The units of the language model are the tokens of the vocabulary (characters or BPE pieces), or words. A hypothesis's
unfinished word is a hash of its characters, and is scored when it ends: at a space, or at the end of the recording. As
for WER, a Han character is a word.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..model.spelling_conformer import HAN
from ..model.tokenization_conformer import SPACE
from .arpa import Arpa, read_arpa
from .ngram_table import NgramTable, build_table
from .scorers import OnDevice, Scorer
from .token_texts import token_texts

logger = logging.getLogger("hf_asr")

_SPACES = (SPACE, "<space>", "|")  # how character language models spell the space
_TAG = re.compile(r"<.+>|\[.+\]")
_PART = re.compile(f" +|{HAN.pattern}|[^ {HAN.pattern[1:-1]}]+")
_NO_CHARACTER = "\ufffd"  # what the unknown token adds to a word
_HASH_BASE = 0x9E3779B97F4A7C15  # odd, so that no bit of a hash is lost
_CHUNK = 1000  # words that are hashed at once


def read_language_model(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, *, weight: float = 0.5, bonus: float | None = None
) -> Scorer:
    """Read an n-gram language model from an ARPA file, plain or gzip, for the tokens of a vocabulary.

    Whether its units are the vocabulary's tokens or words is decided from its unigrams.

    Args:
        weight: Factor of the natural logarithms of the language model's probabilities.
        bonus: Added for each unit (a word; a character or piece, if these are the units), not weighted. None is the
            weight times the entropy of the unigrams: a unit of mean information then neither raises nor lowers the
            score, so that short hypotheses have no advantage.

    Raises:
        ValueError: The file is no ARPA file, is damaged, or does not fit the vocabulary.
    """
    arpa = read_arpa(path)
    texts = token_texts(tokenizer)
    spelled = _spell_units(arpa, tokenizer, alphabet=set("".join(filter(None, texts))))
    table = build_table(arpa)
    options = {"table": table, "weight": weight, "bonus": weight * table.entropy if bonus is None else bonus}
    sizes = "+".join(str(len(ngrams.lines)) for ngrams in arpa.orders)
    if _are_tokens(spelled, texts):
        tokens = {text for text in texts if text}
        logger.info(
            f"{path}: {sizes} n-grams of tokens, {len(tokens & set(spelled))} of {len(tokens)} tokens are known"
        )
        return TokenLanguageModel(units=_token_units(texts, spelled, unknown=table.unknown), **options)
    words = _words(arpa, spelled)
    logger.info(f"{path}: {sizes} n-grams of words, {len(words)} words can be recognised")
    hashes, places = hash_words(list(words)).sort()
    return WordLanguageModel(
        hashes=hashes, units=torch.tensor(list(words.values()))[places], tokens=_token_words(texts), **options
    )


# Vocabularies


def _spell_units(arpa: Arpa, tokenizer: PreTrainedTokenizerBase, *, alphabet: set[str]) -> dict[str, int]:
    """Return {text: place} of the units that the vocabulary's characters can spell, with " " for a space.

    Other units are normalised as transcripts: THE becomes "the". A unit that needs no normalisation has precedence.

    Raises:
        ValueError: There is no such unit.
    """
    spelled, others = {}, {}
    for place, unit in enumerate(arpa.units):
        if unit in _SPACES:
            spelled[" "] = place
        elif not _TAG.fullmatch(unit):
            text = unit.replace(SPACE, " ")
            if alphabet.issuperset(text):
                spelled[text] = place
            elif alphabet.issuperset(text := " " * text.startswith(" ") + tokenizer.normalize(text).strip(f" {SPACE}")):
                others.setdefault(text, place)
    if not alphabet.intersection("".join(spelled | others)) - {" "}:
        raise ValueError(f"{arpa.path}: it has no unit in common with the vocabulary, neither a token nor a word")
    return others | spelled


def _are_tokens(spelled: dict[str, int], texts: Sequence[str | None]) -> bool:
    """Return whether the units of a language model are tokens of the vocabulary, and not words."""
    tokens = {text for text in texts if text and not _TAG.fullmatch(text)}
    longer = [text for text in spelled if len(text) > 1]
    if len(longer) > 0.01 * len(spelled):
        return sum(text in tokens for text in longer) > 0.9 * len(longer)
    # Its units are characters.
    if any(len(text) > 1 for text in tokens):
        return False
    # If it lacks most of the vocabulary's letters, its Han characters are words, so that a word of letters is one
    # unknown unit and not many.
    letters = [text for text in tokens if text.isalpha() and not HAN.match(text)]
    has_han = any(HAN.match(text) for text in spelled)
    return not has_han or sum(text in spelled for text in letters) >= 0.5 * len(letters)


def _token_units(texts: Sequence[str | None], spelled: dict[str, int], *, unknown: int) -> torch.Tensor:
    """Return the unit of each token id, -1 for tokens without text, and for a space that the language model lacks."""
    return torch.tensor([-1 if text == "" else spelled.get(text, -1 if text == " " else unknown) for text in texts])


def _words(arpa: Arpa, spelled: dict[str, int]) -> dict[str, int]:
    """Return {word: place} of the units that can be words of a transcript.

    Raises:
        ValueError: All units are letters, or most are pieces of another vocabulary or words of several Han characters.
    """
    words = {text: place for text, place in spelled.items() if " " not in text and len(_PART.findall(text)) == 1}
    if sum(text.startswith(" ") for text in spelled) > 0.1 * len(spelled):
        raise ValueError(f"{arpa.path}: its units are pieces with {SPACE}, and most are no tokens of this vocabulary")
    if sum(len(HAN.findall(text)) > 1 for text in spelled) > 0.5 * len(spelled):
        raise ValueError(
            f"{arpa.path}: most of its units are words of several Han characters, which transcripts do not separate: "
            "give a language model over Han characters (hf-asr lm trains one)"
        )
    if not any(len(word) > 1 or HAN.match(word) for word in words):
        raise ValueError(
            f"{arpa.path}: its units are letters, and the vocabulary has longer pieces: give one over words"
        )
    return words


@dataclass(frozen=True)
class TokenWords:
    """What each token does to the words of a hypothesis, in one or more steps; the tensors are (tokens, steps).

    In a step the unfinished word ends, if `ends`; then its hash becomes hash × `factors` + `terms`, which appends
    characters.
    """

    ends: torch.Tensor
    factors: torch.Tensor
    terms: torch.Tensor


def _token_words(texts: Sequence[str | None]) -> TokenWords:
    """Return the steps of each token id: a space ends a word, and a Han character is a word."""
    steps = []
    for text in texts:
        parts = [(False, "")]
        for part in _PART.findall(_NO_CHARACTER if text is None else text):
            if part.startswith(" "):
                parts.append((True, ""))
            elif HAN.match(part):
                parts += [(True, part), (True, "")]
            else:
                parts[-1] = (parts[-1][0], part)
        steps.append([part for part in parts if part != (False, "")])
    width = max(1, *map(len, steps))
    ends, parts = zip(
        *(part for token in steps for part in [*token, *[(False, "")] * (width - len(token))]), strict=True
    )
    factors = [pow(_HASH_BASE, len(part), 1 << 64) for part in parts]
    return TokenWords(
        ends=torch.tensor(ends).view(-1, width),
        factors=torch.from_numpy(np.array(factors, np.uint64).view(np.int64)).view(-1, width),
        terms=hash_words(parts).view(-1, width),
    )


def hash_words(words: Sequence[str]) -> torch.Tensor:
    """Return a hash of each word, int64 (words,): a polynomial in random codes of its characters; 0 for none."""
    hashes = np.zeros(len(words), np.uint64)
    order = sorted(range(len(words)), key=lambda place: len(words[place]))
    for first in range(0, len(order), _CHUNK):
        places = order[first : first + _CHUNK]  # of about the same length
        chunk = np.array([words[place] for place in places], dtype=np.str_)
        for column in chunk.view(np.uint32).reshape(len(places), -1).T.astype(np.uint64) if chunk.itemsize else ():
            appended = hashes[places] * np.uint64(_HASH_BASE) + _mix(column)
            hashes[places] = np.where(column > 0, appended, hashes[places])
    return torch.from_numpy(hashes.view(np.int64))


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Return pseudo-random numbers for uint64 numbers (the output function of SplitMix64, Steele et al. 2014)."""
    numbers = numbers * np.uint64(_HASH_BASE)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


# Scorers


@dataclass(frozen=True, kw_only=True)
class LanguageModel(OnDevice):
    """What language models over tokens and over words have in common.

    Attributes:
        table: The n-grams.
        weight: Factor of the natural log-probabilities.
        bonus: Added for each unit.
    """

    table: NgramTable
    weight: float
    bonus: float

    def _end(self, contexts: torch.Tensor) -> torch.Tensor:
        """Return the weighted log-probabilities of the end of the sentence after contexts, float32."""
        if self.table.end is None:
            return torch.zeros(contexts.shape, device=contexts.device)
        return self.weight * self.table.extend(contexts, torch.full_like(contexts, self.table.end))[0]


@dataclass(frozen=True, kw_only=True)
class TokenLanguageModel(LanguageModel):
    """A language model over tokens. The state of a hypothesis is its context, (1,).

    Attributes:
        units: The unit of each token id, int64 (tokens,); -1 for tokens that add nothing and leave the context.
    """

    units: torch.Tensor

    def start(self) -> torch.Tensor:
        return torch.tensor([self.table.start])

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model = self.on(states.device)
        before, units = states.expand_as(tokens), model.units[tokens]  # (M, K) each
        scores, contexts = model.table.extend(before, units.clamp(min=0))
        is_silent = units < 0
        scores = (scores * self.weight + self.bonus).masked_fill_(is_silent, 0.0)
        return scores, torch.where(is_silent, before, contexts)[..., None]

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        return self.on(states.device)._end(states[:, 0])


@dataclass(frozen=True, kw_only=True)
class WordLanguageModel(LanguageModel):
    """A language model over words. The state is the context and the hash of the unfinished word (0 for none), (2,).

    Attributes:
        hashes: Hashes of the words, ascending, int64 (words,).
        units: The unit of each of these words, int64 (words,).
        tokens: What each token does to the words of a hypothesis.
    """

    hashes: torch.Tensor
    units: torch.Tensor
    tokens: TokenWords

    def start(self) -> torch.Tensor:
        return torch.tensor([self.table.start, 0])

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model = self.on(states.device)
        contexts, hashes = (column[:, None].expand_as(tokens) for column in states.unbind(1))  # (M, K) each
        scores = torch.zeros(tokens.shape, device=tokens.device)
        for ends, factors, terms in zip(*(part.unbind(1) for part in vars(model.tokens).values()), strict=True):
            ends = ends[tokens]
            added, contexts = model._end_words(contexts, hashes, ends)
            scores += added
            hashes = hashes.masked_fill(ends, 0) * factors[tokens] + terms[tokens]
        return scores, torch.stack([contexts, hashes], -1)

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        model = self.on(states.device)
        contexts, hashes = states.unbind(1)
        scores, contexts = model._end_words(contexts, hashes, torch.ones_like(hashes, dtype=torch.bool))
        return scores + model._end(contexts)

    def _end_words(
        self, contexts: torch.Tensor, hashes: torch.Tensor, ends: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the words add that end where `ends`, and the contexts after them; no word ends where none is."""
        scores = torch.zeros(ends.shape, device=ends.device)
        places = (ends & (hashes != 0)).nonzero(as_tuple=True)  # few, so that only these are looked up
        if not len(places[0]):
            return scores, contexts
        wanted = hashes[places]
        found = torch.searchsorted(self.hashes, wanted).clamp_(max=len(self.hashes) - 1)
        units = self.units[found].masked_fill_(self.hashes[found] != wanted, self.table.unknown)
        log_probs, after = self.table.extend(contexts[places], units)
        return scores.index_put_(places, self.weight * log_probs + self.bonus), contexts.index_put(places, after)
