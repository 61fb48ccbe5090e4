"""Find phrases in token sequences: an Aho-Corasick automaton (1975) whose transitions are one table.

The automaton reads the pieces of tokens, and the boundaries of words as a piece of their own. A phrase has a boundary
at each end, so it matches whole words. A character of a script without spaces has boundaries at both sides, so a phrase
matches anywhere in Mandarin.
"""

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.languages import writes_spaces
from ..model.tokenization_conformer import SPACE

BOUNDARY = ""  # the piece of a token that is only a space
INSIDE, BEGIN = 0, 1  # the states without a phrase: inside a word, and at a boundary
TRIES = 20  # places at which a row of the table is tried before it gets one at the end

_IN_WORDS = "'’·"


def stands_alone(character: str) -> bool:
    """Return whether a character has a word boundary at both sides: Han and the like, and punctuation."""
    if not writes_spaces(character):
        return True
    category = unicodedata.category(character)
    return category[0] not in "LMN" and category != "Cf" and character not in _IN_WORDS


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens of a vocabulary as the automaton reads them: a piece of text, and boundaries before and after it.

    Attributes:
        texts: For each token id, its piece; None for a special token, which is in no phrase.
        begins, ends: For each token id, whether a boundary is before and after it. A space is one boundary, before.
        tokens: For each piece, the ids of its tokens: `▁art` and `art` have the same piece.
    """

    texts: list[str | None]
    begins: np.ndarray
    ends: np.ndarray
    tokens: dict[str, list[int]] = field(repr=False)

    def read(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the pieces of a phrase, and one boundary at each end of a word."""
        read = [BOUNDARY]
        for token in tokens:
            read += [BOUNDARY] * bool(self.begins[token]) + [self.texts[token]] + [BOUNDARY] * bool(self.ends[token])
        read.append(BOUNDARY)
        return tuple(piece for i, piece in enumerate(read) if piece != BOUNDARY or i == 0 or read[i - 1] != BOUNDARY)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """Return the tokens of a tokenizer as pieces. In a vocabulary without a space, each token stands alone."""
    vocabulary = tokenizer.get_vocab()
    size, special = max(vocabulary.values()) + 1, set(tokenizer.all_special_ids)
    has_spaces = any(SPACE in token for token in vocabulary)
    pieces = Pieces([None] * size, np.zeros(size, bool), np.zeros(size, bool), {BOUNDARY: []})
    for token, i in vocabulary.items():
        if i in special:
            continue
        text = token.strip(SPACE)
        pieces.texts[i] = text
        pieces.tokens.setdefault(text, []).append(i)
        pieces.begins[i] = token.startswith(SPACE) or not has_spaces or stands_alone(text[0])
        pieces.ends[i] = text != BOUNDARY and (token.endswith(SPACE) or not has_spaces or stands_alone(text[-1]))
    return pieces


@dataclass
class Trie:
    """Phrases that share their beginnings; for each node (N,) in a list, parents before their children.

    Attributes:
        children: The node after each piece.
        fail: The node of the longest suffix that is also the beginning of a phrase.
        is_boundary: Whether the last piece is a boundary.
        pending: What the pieces gave since the last complete phrase that begins here.
        complete: What all phrases give that end here.
    """

    children: list[dict[str, int]]
    fail: list[int]
    is_boundary: list[bool]
    pending: list[float]
    complete: list[float]

    def next(self, node: int, piece: str) -> int:
        """Return the node after a piece."""
        while node != INSIDE and piece not in self.children[node]:
            node = self.fail[node]
        return self.children[node].get(piece, INSIDE)

    def after_boundary(self, node: int) -> int:
        """Return the node after a boundary; two boundaries are one."""
        return node if self.is_boundary[node] else self.next(node, BOUNDARY)


def build_trie(phrases: Mapping[tuple[str, ...], float]) -> Trie:
    """Return the trie of phrases, each in pieces, and their boosts.

    The beginning that phrases share gives the largest of their boosts for each piece. A phrase with a negative boost
    takes all of it when it is complete: its beginning may be that of another word.
    """
    children, is_boundary = [{BOUNDARY: BEGIN}, {}], [False, True]
    boosts: dict[int, float] = defaultdict(float)
    ends: dict[int, float] = {}
    for phrase, boost in phrases.items():
        node = INSIDE
        for piece in phrase:
            node = children[node].setdefault(piece, len(children))
            if node == len(children):
                children.append({})
                is_boundary.append(piece == BOUNDARY)
            if piece != BOUNDARY:
                boosts[node] = max(boosts[node], boost)
        ends[node] = boost * sum(piece != BOUNDARY for piece in phrase)
    size = len(children)
    trie = Trie(children, [INSIDE] * size, is_boundary, [0.0] * size, [ends.get(node, 0.0) for node in range(size)])
    waiting = [BEGIN]
    for node in waiting:  # in the order of their depth, as the suffixes of a node need
        trie.complete[node] += trie.complete[trie.fail[node]]
        for piece, child in children[node].items():
            trie.fail[child] = trie.next(trie.fail[node], piece)
            trie.pending[child] = 0.0 if child in ends else trie.pending[node] + boosts[child]
        waiting += children[node].values()
    return trie


@dataclass(frozen=True)
class Table:
    """The transitions of an automaton of S states over a vocabulary of V tokens, without what many states share.

    State and token have their place at `rows[state] + token` if `owner` has the state there, and otherwise at
    `shared[state] + token`: most transitions of a state are those of the two states without a phrase, whose rows are
    the first 2 V places. So the table has about as many places as the phrases have tokens, where a full one has S × V.

    Attributes:
        rows, shared: int64 (S,).
        owner: The state of each place, int64 (P,); -1 in the shared rows and where none is.
        target: The state after the token, int64 (P,).
    """

    rows: np.ndarray
    shared: np.ndarray
    owner: np.ndarray
    target: np.ndarray


def build_table(trie: Trie, pieces: Pieces) -> Table:
    """Return the transitions of a trie over the tokens of a vocabulary."""
    size = len(pieces.texts)
    is_space = np.zeros(size, bool)
    is_space[pieces.tokens[BOUNDARY]] = True
    target = np.tile(np.where(pieces.ends | is_space, BEGIN, INSIDE), 2)  # the two shared rows
    for token in _tokens(trie.children[BEGIN], pieces):
        target[size + token] = _after(trie, BEGIN, token, pieces=pieces)
        if pieces.begins[token]:
            target[token] = target[size + token]
    shared = np.where(trie.is_boundary, size, 0)
    own: list[dict[int, int]] = []
    for state, start in enumerate(shared.tolist()):
        # A token can begin with a boundary and go on with a piece that is possible after it. A space is a boundary.
        nodes = {state, trie.after_boundary(state)}
        found = {BOUNDARY}.union(*(_pieces_on_failure_path(trie, node) for node in nodes))
        after = {token: _after(trie, state, token, pieces=pieces) for token in _tokens(found, pieces)}
        own.append({token: next for token, next in after.items() if next != target[start + token]})
    rows = place_rows(own, first=2 * size)
    owner = np.full(max([2 * size, *(rows + size)]), -1)
    target = np.pad(target, (0, len(owner) - len(target)))
    for state, start in enumerate(rows.tolist()):
        places = start + np.fromiter(own[state], int)
        owner[places], target[places] = state, list(own[state].values())
    return Table(rows, shared, owner, target)


def _tokens(texts: Iterable[str], pieces: Pieces) -> list[int]:
    return [token for text in texts for token in pieces.tokens[text]]


def _after(trie: Trie, node: int, token: int, *, pieces: Pieces) -> int:
    """Return the node after a token of a phrase."""
    if pieces.begins[token]:
        node = trie.after_boundary(node)
    if pieces.texts[token] != BOUNDARY:
        node = trie.next(node, pieces.texts[token])
    return trie.after_boundary(node) if pieces.ends[token] else node


def _pieces_on_failure_path(trie: Trie, node: int) -> set[str]:
    """Return the pieces with which a node, or a suffix of it, goes on; not those of the nodes without a phrase."""
    found: set[str] = set()
    while node not in (INSIDE, BEGIN):
        found |= trie.children[node].keys()
        node = trie.fail[node]
    return found


def place_rows(rows: Sequence[Collection[int]], *, first: int) -> np.ndarray:
    """Return where each row of a sparse table begins (rows,), so that no two entries have the same place.

    Rows with many entries come first, each at the first of a few free places (Tarjan and Yao 1979). An empty row begins
    at 0.

    Args:
        rows: Columns of the entries of each row.
        first: The first free place.
    """
    begins, taken, end = np.zeros(len(rows), int), set(), first
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if not rows[i]:
            continue
        least = min(rows[i])
        free = itertools.islice((place for place in itertools.count(first) if place not in taken), TRIES)
        fits = (place - least for place in free if taken.isdisjoint(place - least + column for column in rows[i]))
        begins[i] = next(fits, end - least)
        taken |= {int(begins[i]) + column for column in rows[i]}
        end = max(end, int(begins[i]) + max(rows[i]) + 1)
        while first in taken:
            first += 1
    return begins
