"""Hold the n-grams of a language model as a trie in sorted arrays, and look up batches of n-grams in it.

An n-gram that the model does not have backs off: the weight of its context is added, and the context is shortened by
its first unit (Katz 1987). So `order` binary searches score any batch.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .arpa import LOWEST, Arpa, Ngrams

START, END, UNKNOWN = ("<s>", "<S>"), ("</s>", "</S>"), ("<unk>", "<UNK>")
_LN_10 = math.log(10)
_BATCH = 1024  # sentences


@dataclass(frozen=True)
class NgramTable:
    """The trie of the n-grams. Node 0 is the empty n-gram; the others are in the order of their keys.

    Attributes:
        keys: Node of the context × number of units + last unit, of each node but 0; ascending, int64 (nodes - 1,).
        log_probs: Natural logarithms of the probabilities of the last units, float32 (nodes,).
        back_offs: Natural logarithms of the back-off weights, float32 (nodes,).
        shorter: Node of the longest proper suffix that is in the table, int64 (nodes,).
        units: Number of units.
        unknown: The unit of everything that is no other unit.
        start: The context at the beginning of a sentence.
        end: The unit that ends a sentence; None if the model has none.
        order: Length of the longest n-grams.
        longest: The first node of the longest n-grams, which are no contexts.
        entropy: Of the unigrams, in nats.
    """

    keys: torch.Tensor
    log_probs: torch.Tensor
    back_offs: torch.Tensor
    shorter: torch.Tensor
    units: int
    unknown: int
    start: int
    end: int | None
    order: int
    longest: int
    entropy: float

    def find(self, contexts: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """Return the nodes of contexts, each followed by a unit; 0 where the table has no such n-gram."""
        keys = contexts * self.units + units
        places = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[places] == keys, places + 1, 0)

    def extend(self, contexts: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the natural log-probabilities of units after contexts, float32, and the contexts with these units."""
        nodes, scores = self.find(contexts, units), torch.zeros(contexts.shape, device=contexts.device)
        for _ in range(self.order - 1):  # every unit has a unigram, so that nothing is missing after so many
            missing = nodes == 0
            scores += self.back_offs[contexts * missing]  # the weight of node 0 is 0
            contexts = torch.where(missing, self.shorter[contexts], contexts)
            nodes = torch.where(missing, self.find(contexts, units), nodes)
        scores += self.log_probs[nodes]
        return scores, torch.where(nodes < self.longest, nodes, self.shorter[nodes])


def build_table(arpa: Arpa) -> NgramTable:
    """Return the trie of an ARPA file.

    If the file has no unknown unit, one is added whose probability is a tenth of that of the rarest unigram.

    Raises:
        ValueError: An n-gram occurs twice, or its context is no n-gram of the file.
    """
    unigrams = arpa.orders[0]
    probs, back_offs = [[0.0], unigrams.log10_probs], [[0.0], unigrams.log10_back_offs]
    units, unknown = len(arpa.units), place_of(arpa.units, UNKNOWN)
    if unknown is None:
        possible = unigrams.log10_probs[unigrams.log10_probs > LOWEST]
        probs.append([possible.min(initial=0.0) - 1])
        back_offs.append([0.0])
        units, unknown = units + 1, units
    shorter = torch.zeros(units + 1, dtype=torch.int64)
    nothing = torch.zeros(0)
    start = place_of(arpa.units, START)
    table = NgramTable(
        *(torch.arange(units), nothing, nothing, shorter),
        units=units,
        unknown=unknown,
        start=0 if start is None or len(arpa.orders) == 1 else 1 + start,
        end=place_of(arpa.units, END),
        order=1,
        longest=1,
        entropy=_entropy(unigrams.log10_probs * _LN_10),
    )
    for order, ngrams in enumerate(arpa.orders[1:], 2):
        keys, places = _keys(arpa, ngrams, table)
        shorter = _find_longest(table, table.shorter[keys // units], keys % units)
        table = dataclasses.replace(
            table,
            keys=torch.cat([table.keys, keys]),
            shorter=torch.cat([table.shorter, shorter]),
            order=order,
            longest=len(table.shorter),
        )
        probs.append(ngrams.log10_probs[places])
        back_offs.append(ngrams.log10_back_offs[places])
    probs, back_offs = (torch.from_numpy(np.concatenate(values) * _LN_10).float() for values in (probs, back_offs))
    return dataclasses.replace(table, log_probs=probs, back_offs=back_offs)


def _entropy(log_probs: np.ndarray) -> float:
    """Return the entropy of a distribution, in nats; the probabilities are divided by their sum."""
    log_probs = log_probs[log_probs > LOWEST * _LN_10]
    log_probs = log_probs - np.logaddexp.reduce(log_probs, initial=-np.inf)
    return float(-np.sum(np.exp(log_probs) * log_probs))


def _keys(arpa: Arpa, ngrams: Ngrams, table: NgramTable) -> tuple[torch.Tensor, np.ndarray]:
    """Return the sorted keys of the n-grams of an order, and the places of the n-grams in this order."""
    *context, last = torch.from_numpy(ngrams.units).unbind(1)
    nodes = torch.zeros_like(last)
    for units in context:
        nodes = table.find(nodes, units)
        if (missing := nodes == 0).any():
            arpa.refuse(int(ngrams.lines[int(missing.int().argmax())]), "the n-gram without its last unit is missing")
    keys, places = (nodes * table.units + last).sort()
    if (repeated := keys[1:] == keys[:-1]).any():
        arpa.refuse(int(ngrams.lines[int(places[1:][repeated].max())]), "the n-gram occurs a second time")
    return keys, places.numpy()


def _find_longest(table: NgramTable, contexts: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Return the nodes of the longest n-grams that end the contexts followed by the units."""
    nodes = table.find(contexts, units)
    while (missing := nodes == 0).any():
        contexts = torch.where(missing, table.shorter[contexts], contexts)
        nodes = torch.where(missing, table.find(contexts, units), nodes)
    return nodes


def place_of(units: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the place of the first unit that has one of the names."""
    return next((place for place, unit in enumerate(units) if unit in names), None)


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of texts. Unknown units are left out, the ends of the sentences are counted, as SRILM does it.

    Attributes:
        value: The perplexity.
        units: Number of units of the texts, without the ends of the sentences.
        unknown: How many of the units are unknown to the model.
    """

    value: float
    units: int
    unknown: int


def perplexity(arpa: Arpa, sentences: Sequence[Sequence[str]]) -> Perplexity:
    """Return the perplexity of sentences, which are sequences of units."""
    table = build_table(arpa)
    places = {unit: place for place, unit in enumerate(arpa.units)}
    ends = [] if table.end is None else [table.end]
    encoded = [
        torch.tensor([*(places.get(unit, table.unknown) for unit in sentence), *ends], dtype=torch.int64)
        for sentence in sorted(sentences, key=len)
    ]
    total, known = 0.0, 0
    for first in range(0, len(encoded), _BATCH):
        units = pad_sequence(encoded[first : first + _BATCH], padding_value=-1)  # (units, sentences)
        contexts = torch.full(units.shape[1:], table.start)
        for column in units:
            scores, contexts = table.extend(contexts, column.clamp(min=0))
            counted = (column >= 0) & (column != table.unknown)
            total, known = total + scores[counted].double().sum().item(), known + int(counted.sum())
    length = sum(map(len, sentences))
    return Perplexity(
        value=math.exp(-total / known) if known else math.inf,
        units=length,
        unknown=length + len(ends) * len(sentences) - known,
    )
