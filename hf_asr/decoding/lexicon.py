"""A lexicon: the only words and phrases that a beam search writes, for commands, digits or product names.

A hypothesis is a sequence of entries in any order. A word that is nearly an entry becomes the most probable one, as in
the lexicon of a Kaldi graph or a list of phrases for Vosk. The states of the search are sets of places in the entries
(the subset construction of Rabin and Scott 1959), because an entry can be the beginning of another one.
"""

import functools
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from ..data.encodings import EncodingError, read_lines
from .hotwords import names_a_file
from .phrase_automaton import stands_alone
from .prefix_search import IMPOSSIBLE
from .scorers import OnDevice
from .token_texts import token_texts

INCOMPLETE = -1e4  # logarithm that the last entry costs if the recording ends inside it
_START, _BEGIN = 0, 1  # places: the beginning of a transcript, and after a space


def named_lexicon(name: str) -> list[str]:
    """Return the entries of a command's option: a file with an entry in each line, or "a,b".

    What follows a tab in a line, such as a frequency, is not used. Empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: The file cannot be read; a name that ends as that of a text file is one, even if it does not exist.
    """
    if not names_a_file(name):
        return [entry.strip() for entry in re.split("[,，]", name) if entry.strip()]
    try:
        lines = read_lines(name)
    except (OSError, EncodingError) as error:
        raise ValueError(f"the lexicon {name} cannot be read: {error}") from error
    entries = [line.split("\t")[0].strip() for line in lines if not line.startswith("#")]
    return [entry for entry in entries if entry]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lexicon(OnDevice):
    """Allows a beam search only entries of a lexicon; a `Scorer` whose state is one number, (1,).

    Attributes:
        tokens: The token ids that occur in entries, ascending, int64.
        keys: Transitions inside entries, ascending: state * V + token, int64 (T,).
        targets: The state after each of them, int64 (T,).
        first: The state after each token at the beginning of a transcript, -1 for none, int64 (V,). After a complete
            entry it is the same, so that entries do not need a transition to each other entry.
        begins: Whether each token can begin an entry directly after another one, bool (V,).
        is_complete: Whether a transcript can end in each state, bool (S,).
        is_open: Whether any token can follow these directly, as after a Han character, bool (S,).
        num_entries: Number of different entries.
        remarks: Which entries are left out, and why.
    """

    tokens: torch.Tensor
    keys: torch.Tensor
    targets: torch.Tensor
    first: torch.Tensor
    begins: torch.Tensor
    is_complete: torch.Tensor
    is_open: torch.Tensor
    num_entries: int
    remarks: tuple[str, ...] = ()

    def start(self) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.int64)

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lexicon = self.on(states.device)
        wanted = states * len(lexicon.first) + tokens  # (M, K)
        places = torch.searchsorted(lexicon.keys, wanted).clamp_(max=len(lexicon.keys) - 1)
        can_begin = lexicon.is_complete[states] & (lexicon.is_open[states] | lexicon.begins[tokens])
        after = torch.where(can_begin, lexicon.first[tokens], -1)
        after = torch.where(lexicon.keys[places] == wanted, lexicon.targets[places], after)
        is_impossible = after < 0
        gains = torch.zeros(after.shape, device=after.device).masked_fill_(is_impossible, IMPOSSIBLE)
        return gains, torch.where(is_impossible, states, after)[..., None]

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        is_complete = self.on(states.device).is_complete[states[:, 0]]
        return torch.zeros(is_complete.shape, device=states.device).masked_fill_(~is_complete, INCOMPLETE)

    def complete(self, tokens: Sequence[int]) -> int:
        """Return how many tokens of a hypothesis are complete entries, so that what a recording cuts can be removed."""
        inside, first, begins, is_complete, is_open = self._lists
        state, complete = 0, 0
        for number, token in enumerate(tokens, start=1):
            can_begin = is_complete[state] and (is_open[state] or begins[token])
            state = inside.get(state * len(first) + token, first[token] if can_begin else -1)
            if state < 0:
                break
            complete = number if is_complete[state] else complete
        return complete

    @functools.cached_property
    def _lists(self) -> tuple[dict[int, int], list[int], list[bool], list[bool], list[bool]]:
        """The transitions and the other tensors for one hypothesis: many times faster than tensors."""
        inside = dict(zip(self.keys.tolist(), self.targets.tolist(), strict=True))
        return inside, *(tensor.tolist() for tensor in (self.first, self.begins, self.is_complete, self.is_open))


def build_lexicon(entries: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Lexicon:
    """Return the lexicon of entries, which are normalised as transcripts are.

    Raises:
        ValueError: There is no entry, or the vocabulary can spell none.
    """
    entries, texts = list(entries), token_texts(tokenizer)
    if not entries:
        raise ValueError("the lexicon is empty")
    spelled, remarks = _spell(entries, tokenizer, texts)
    if not spelled:
        raise ValueError("; ".join(["the lexicon has no entry that the vocabulary can spell", *remarks[:5]]))
    places = _Places(spelled, texts=[text for text in texts if text])
    starting = defaultdict(list)  # {first character: tokens}
    for token, text in enumerate(texts):
        if text:
            starting[text[0]].append(token)
    numbers, waiting, transitions = {(_START,): 0}, deque([(_START,)]), []
    while waiting:
        state = waiting.popleft()
        candidates = [token for character in places.next_characters(state) for token in starting[character]]
        for token in [*candidates, *(token for token in starting[" "] if texts[token] == " ")]:
            if after := places.walk(state, texts[token]):
                if after not in numbers:
                    numbers[after] = len(numbers)
                    waiting.append(after)
                transitions.append((numbers[state] * len(texts) + token, numbers[after]))
    keys, targets = torch.tensor(sorted(set(transitions))).unbind(1)
    first = torch.full((len(texts),), -1)
    first[keys[keys < len(texts)]] = targets[keys < len(texts)]
    return Lexicon(
        tokens=(keys % len(texts)).unique(),
        keys=keys.contiguous(),
        targets=targets.contiguous(),
        first=first,
        begins=torch.tensor([places.can_follow("", text or "") for text in texts]),
        is_complete=torch.tensor([places.is_complete(state) for state in numbers]),
        is_open=torch.tensor([places.is_open(state) for state in numbers]),
        num_entries=len(spelled),
        remarks=tuple(remarks),
    )


def _spell(
    entries: Iterable[str], tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    """Return the entries as transcripts, each once, and remarks on those that are left out."""
    spelled: dict[str, None] = {}
    remarks = []
    for entry in entries:
        parts = [texts[token] for token in tokenizer(entry, add_special_tokens=False).input_ids]
        if None in parts:
            remarks.append(f"the entry {entry!r} is left out: the vocabulary lacks a character of it")
        elif text := "".join(parts).strip():
            spelled[text] = None
        else:
            remarks.append(f"the entry {entry!r} is left out: nothing of it is left after normalisation")
    return list(spelled), remarks


@dataclass
class _Places:
    """The places in the entries: a trie of characters, whose entries can follow one another.

    In a vocabulary without a space, entries follow one another directly. A transcript begins with a space only if the
    vocabulary has pieces that do.

    Args:
        texts: Of the vocabulary's tokens.
    """

    entries: Sequence[str]
    texts: Sequence[str]
    children: list[dict[str, int]] = field(default_factory=lambda: [{}, {}])
    characters: list[str] = field(default_factory=lambda: ["", ""])  # the last one before each place
    ends: list[bool] = field(default_factory=lambda: [True, False])

    def __post_init__(self):
        self.has_spaces = any(" " in text for text in self.texts)
        self.begins_with_space = any(text.startswith(" ") and len(text) > 1 for text in self.texts)
        for entry in self.entries:
            place = _BEGIN
            for character in entry:
                if character not in self.children[place]:
                    self.children[place][character] = len(self.children)
                    self.children.append({})
                    self.characters.append(character)
                    self.ends.append(False)
                place = self.children[place][character]
            self.ends[place] = True
        self.children[_START] = self.children[_BEGIN]

    def next_characters(self, state: Sequence[int]) -> set[str]:
        """Return the characters with which an entry goes on, or a transcript begins."""
        spaces = {" "} if _START in state else set()
        return spaces.union(*(self.children[place] for place in state))

    def walk(self, state: Sequence[int], text: str) -> tuple[int, ...]:
        """Return the places after a text, ascending; none where it is not possible."""
        for character in text:
            state = self._after(state, character)
        return tuple(sorted(state))

    def is_complete(self, state: Sequence[int]) -> bool:
        """Return whether a transcript can end here."""
        return any(self.ends[place] for place in state)

    def is_open(self, state: Sequence[int]) -> bool:
        """Return whether any entry can follow without a space."""
        return any(self.ends[place] and self.can_follow(self.characters[place], "") for place in state)

    def can_follow(self, before: str, text: str) -> bool:
        """Return whether a text can follow the character before it, if an entry ends between them."""
        return (
            not self.has_spaces
            or (before != "" and stands_alone(before))
            or (text != "" and (text[0] == " " or stands_alone(text[0])))
        )

    def _after(self, state: Iterable[int], character: str) -> set[int]:
        after = {self.children[place][character] for place in state if character in self.children[place]}
        for place in state:
            if not self.ends[place]:
                continue
            if character == " " and (place != _START or self.begins_with_space):
                after.add(_BEGIN)
            elif character in self.children[_BEGIN] and self.can_follow(self.characters[place], character):
                after.add(self.children[_BEGIN][character])
        return after
