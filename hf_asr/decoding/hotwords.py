"""Hotwords: phrases that a beam search prefers, or avoids, with a boost for each of their tokens.

A hypothesis gains the boost of a phrase with each token of it, and loses it again if the phrase is not completed,
except for what the longest end of it still matches. A complete phrase keeps its boosts, and each complete phrase
counts, also one inside another one, as in icefall's ContextGraph. Phrases match whole words, see `phrase_automaton.py`,
and spaces gain nothing.
"""

import functools
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.encodings import EncodingError, read_lines
from .phrase_automaton import BEGIN, build_table, build_trie, read_vocabulary
from .token_texts import unknown_characters

DEFAULT_BOOST = 1.0
MAX_BOOST = 100.0
# Of a request from the network
MAX_HOTWORDS, MAX_HOTWORD_CHARACTERS, MAX_CHARACTERS = 1000, 100, 10_000
SETS_KEPT = 64  # compiled sets that a compiler remembers


@dataclass(frozen=True)
class Hotword:
    """A phrase, and what each of its tokens adds to the logarithm of a hypothesis; less than 0 suppresses it."""

    phrase: str
    boost: float = DEFAULT_BOOST

    def __post_init__(self):
        check_boost(self.boost)


def check_boost(boost: float) -> None:
    """Raise ValueError for a boost that is not finite, or larger than any sensible one."""
    if not abs(boost) <= MAX_BOOST:
        raise ValueError(f"the boost of a hotword must be a number from -{MAX_BOOST:g} to {MAX_BOOST:g}, not {boost:g}")


def parse_hotwords(hotwords: str | Path | Iterable[str | Hotword], boost: float = DEFAULT_BOOST) -> list[Hotword]:
    """Return hotwords from text, `"a,b"`; from a file, one in a line; or from a list, which can have `Hotword` objects.

    A phrase can be followed by a tab and its boost. Empty lines and lines that begin with # are skipped in a file.

    Args:
        boost: Of the phrases that have none of their own.

    Raises:
        ValueError: The file cannot be read, or a boost is not a number; with the file and the line.
    """
    if isinstance(hotwords, Path):
        return _read_file(hotwords, boost)
    entries = re.split("[,，]", hotwords) if isinstance(hotwords, str) else hotwords
    return [
        entry if isinstance(entry, Hotword) else _parse_entry(entry, boost)
        for entry in entries
        if isinstance(entry, Hotword) or entry.strip()
    ]


def named_hotwords(name: str, boost: float = DEFAULT_BOOST) -> list[Hotword]:
    """Return the hotwords of a command's option: a file, or "a,b".

    Raises:
        ValueError: As `parse_hotwords`; a name that ends as that of a text file is one, even if it does not exist.
    """
    return parse_hotwords(Path(name) if names_a_file(name) else name, boost)


def names_a_file(name: str) -> bool:
    """Return whether the value of an option is a file of phrases and not a list of them, "a,b"."""
    return Path(name).suffix.lower() in (".txt", ".tsv") or ("," not in name and os.path.isfile(name))


def _read_file(path: Path, boost: float) -> list[Hotword]:
    try:
        lines = read_lines(path)
    except (OSError, EncodingError) as error:
        raise ValueError(f"the hotwords of {path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            found.append(_parse_entry(line, boost))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return found


def _parse_entry(entry: str, boost: float) -> Hotword:
    phrase, tab, own = entry.partition("\t")
    if not phrase.strip():
        raise ValueError("there is a boost without a phrase")
    try:
        boost = float(own) if tab else boost
    except ValueError:
        raise ValueError(f"the boost of {phrase.strip()!r} must be a number, not {own!r}") from None
    return Hotword(phrase.strip(), boost)


def check_limits(hotwords: Sequence[Hotword]) -> None:
    """Raise ValueError for more or longer hotwords than a server accepts in a request."""
    if len(hotwords) > MAX_HOTWORDS:
        raise ValueError(f"at most {MAX_HOTWORDS} hotwords are accepted, not {len(hotwords)}")
    for hotword in hotwords:
        if len(hotword.phrase) > MAX_HOTWORD_CHARACTERS:
            raise ValueError(
                f"a hotword must have at most {MAX_HOTWORD_CHARACTERS} characters, not {len(hotword.phrase)}: "
                f"{hotword.phrase[:20]!r}…"
            )
    if (total := sum(len(hotword.phrase) for hotword in hotwords)) > MAX_CHARACTERS:
        raise ValueError(f"hotwords must have at most {MAX_CHARACTERS} characters together, not {total}")


def spell(
    hotwords: Iterable[Hotword], tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[tuple[int, ...], float], list[str]]:
    """Return {tokens: boost}, and remarks on the hotwords that are left out because the vocabulary cannot spell them.

    Phrases are normalised as transcripts are. If two become the same tokens, the last one counts.
    """
    spelled: dict[tuple[int, ...], float] = {}
    remarks = []
    for hotword in hotwords:
        tokens = tuple(tokenizer(hotword.phrase, add_special_tokens=False).input_ids)
        if not tokens:
            remarks.append(f"the hotword {hotword.phrase!r} is left out: nothing of it is left after normalisation")
        elif tokenizer.unk_token_id in tokens:
            characters = "".join(unknown_characters(hotword.phrase, tokenizer))
            remarks.append(f"the hotword {hotword.phrase!r} is left out: the vocabulary has no {characters!r}")
        else:
            spelled.pop(tokens, None)
            spelled[tokens] = hotword.boost
    return spelled, remarks


@dataclass(frozen=True, eq=False)
class HotwordSet:
    """The hotwords of a recording as an automaton of S states over V tokens; `HotwordCompiler.compile` makes it.

    The transitions are those of `phrase_automaton.Table`, whose rows have P places.

    Attributes:
        remarks: Which hotwords are left out, and why.
        is_empty: Whether no hotword is left.
        begins: 1 for each token with a word boundary before it, otherwise 0; float32 (V,).
        pending: What a state gave that is lost if the phrase goes on otherwise, float32 (S,).
        at_boundary: What the phrases give that a boundary completes, float32 (S,).
        rows, shared, owner, target: The table, int64.
        given: `pending` of the target, and what its phrases give that the token completes, float32 (P,).
    """

    remarks: tuple[str, ...]
    is_empty: bool
    begins: torch.Tensor = field(repr=False)
    pending: torch.Tensor = field(repr=False)
    at_boundary: torch.Tensor = field(repr=False)
    rows: torch.Tensor = field(repr=False)
    shared: torch.Tensor = field(repr=False)
    owner: torch.Tensor = field(repr=False)
    target: torch.Tensor = field(repr=False)
    given: torch.Tensor = field(repr=False)

    def start(self) -> torch.Tensor:
        """Return the state of an empty hypothesis, without other sets, int64 (1,)."""
        return torch.tensor([BEGIN])


class HotwordCompiler:
    """Makes the automata of hotwords for a tokenizer, and remembers the last ones."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer, self._pieces = tokenizer, read_vocabulary(tokenizer)
        self._remembered = functools.lru_cache(maxsize=SETS_KEPT)(self._compile)
        self._last: tuple[tuple[Hotword, ...], HotwordSet] | None = None

    def __reduce__(self) -> tuple[type["HotwordCompiler"], tuple[PreTrainedTokenizerBase]]:
        """Pickle the tokenizer only: a cache of functools cannot be pickled."""
        return type(self), (self._tokenizer,)

    def compile(self, hotwords: Iterable[Hotword]) -> HotwordSet:
        """Return the automaton of hotwords; the same tuple again is not even compared."""
        hotwords, last = tuple(hotwords), self._last
        if last is None or last[0] is not hotwords:
            self._last = last = hotwords, self._remembered(hotwords)
        return last[1]

    def _compile(self, hotwords: tuple[Hotword, ...]) -> HotwordSet:
        pieces = self._pieces
        spelled, remarks = spell(hotwords, self._tokenizer)
        trie = build_trie({pieces.read(tokens): boost for tokens, boost in spelled.items()})
        table = build_table(trie, pieces)
        pending, complete = np.array(trie.pending), np.array(trie.complete)
        after = np.array([trie.after_boundary(state) for state in range(len(pending))])
        place = np.arange(len(table.owner))
        token = np.where(table.owner < 0, place, place - table.rows[table.owner]) % len(pieces.texts)
        values = {
            "begins": pieces.begins,
            "pending": pending,
            "at_boundary": np.where(trie.is_boundary, 0.0, complete[after]),
            "given": pending[table.target] + pieces.ends[token] * complete[table.target],
        }
        return HotwordSet(
            remarks=tuple(remarks),
            is_empty=not spelled,
            **{name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()},
            **{name: torch.from_numpy(getattr(table, name)) for name in ("rows", "shared", "owner", "target")},
        )


class Hotwords:
    """The hotwords of the recordings of a batch as one Scorer, whose states are the places in their automata (M, 1).

    Each set has states of its own, so the recordings do not change one another's scores. A state less `offset` is the
    state of the set alone, which a search keeps while the batch around it changes.
    """

    def __init__(self, sets: Iterable[HotwordSet], *, device: torch.device | str = "cpu"):
        sets = list(dict.fromkeys(sets))
        states = [0, *itertools.accumulate(len(each.rows) for each in sets)]
        places = [0, *itertools.accumulate(len(each.owner) for each in sets)]
        self._offsets = dict(zip(sets, states, strict=False))

        def join(name: str, offsets: Sequence[int] | None = None) -> torch.Tensor:
            parts = [getattr(each, name) for each in sets]
            parts = parts if offsets is None else [part + offset for part, offset in zip(parts, offsets, strict=False)]
            return torch.cat(parts).to(device)

        self._begins = sets[0].begins.to(device)
        self._pending, self._at_boundary, self._given = join("pending"), join("at_boundary"), join("given")
        self._rows, self._shared = join("rows", places), join("shared", places)
        self._owner, self._target = join("owner", states), join("target", states)

    def offset(self, hotwords: HotwordSet) -> int:
        """Return what the states of a set are higher here than alone."""
        return self._offsets[hotwords]

    def start(self, hotwords: HotwordSet) -> torch.Tensor:
        """Return the state of an empty hypothesis of a recording with this set of the batch, int64 (1,)."""
        return (hotwords.start() + self._offsets[hotwords]).to(self._rows.device)

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what tokens (M, K) add to hypotheses in states (M, 1), float32 (M, K), and the states (M, K, 1)."""
        places = tokens + self._rows.take(states)
        is_own = _at(self._owner, places) == states
        places = torch.where(is_own, places, tokens + self._shared.take(states))
        gains = _at(self._given, places).sub_(self._pending.take(states))
        gains.addcmul_(_at(self._begins, tokens), self._at_boundary.take(states))
        return gains, _at(self._target, places)[..., None]

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """Return what the end adds, float32 (M,): it completes a phrase, or takes back what an incomplete one gave."""
        return (self._at_boundary - self._pending)[states[:, 0]]


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return `values[places]`, several times faster than indexing and twice as fast as `take`."""
    return values.index_select(0, places.flatten()).view_as(places)
