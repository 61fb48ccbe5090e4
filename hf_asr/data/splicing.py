"""Splice training examples from words of several recordings, so that a model meets each word in new contexts.

With a few hours of recordings, a model learns its training sentences by heart instead of the sounds of their words. A
spliced example has words of several sentences (Lam et al. 2021, On-the-Fly Aligned Data Augmentation for
Sequence-to-Sequence ASR, https://arxiv.org/abs/2104.01393). The recordings are cut where an alignment says that words
end.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerBase

from .audio import AudioError
from .concatenation import ConcatenatedDataset
from .dataset import SpeechDataset
from .joined_texts import joined_labels
from .sources import read_row

FADE = 0.005  # seconds at both ends of a piece, against clicks
MISSES = 3  # pieces drawn that are too long for the rest of an example, after which it is complete
NO_CUTS = np.zeros((0, 3), np.int32)
FILE = "word_cuts.safetensors"  # in a checkpoint


@dataclass
class SplicingArguments:
    """Configure examples of words from several utterances, which replace utterances.

    Args:
        share: Share of the utterances of an epoch that are replaced.
        min_words: Minimum number of consecutive words (or Han characters) that are taken from one recording.
        max_words: Maximum number of them.
        rarity: A piece is drawn around a word with a probability that is proportional to the number of times that the
            word occurs, to the power of 1 - rarity: 0 draws words as often as they occur, 1 draws all words equally.
        after_steps: The first epoch that begins this many optimiser steps after CTC's plateau was left aligns the
            recordings and begins to splice.

    Raises:
        ValueError: A value is out of its range.
    """

    share: float = 0.6
    min_words: int = 2
    max_words: int = 6
    rarity: float = 0.5
    after_steps: int = 300

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"splicing: share must be more than 0 and at most 1, not {self.share}")
        if not 1 <= self.min_words <= self.max_words:
            raise ValueError(
                f"splicing: min_words must be 1 or more and at most max_words ({self.max_words}), not {self.min_words}"
            )
        if not 0 <= self.rarity <= 1:
            raise ValueError(f"splicing: rarity must be from 0 to 1, not {self.rarity}")
        if self.after_steps < 0:
            raise ValueError(f"splicing: after_steps must be 0 or more, not {self.after_steps}")


def words_of(labels: list[int], tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """Return the words of a transcript, with the numbers of their first token and of the token after their last one."""
    return tokenizer.decode(labels, group_tokens=False, output_word_offsets=True)["word_offsets"]


@dataclass
class Cuts:
    """Where recordings can be cut.

    Attributes:
        rows: A row of three numbers for each cut of each recording, int32 (cuts, 3): the sample, and how many labels
            and how many phonemes are before it. The first cut of a recording is at its beginning, the last one at its
            end. A recording that cannot be cut has none.
    """

    rows: list[np.ndarray]

    def save(self, folder: Path) -> None:
        """Write the cuts into a checkpoint."""
        counts = np.array([len(cuts) for cuts in self.rows], np.int32)
        save_file({"cuts": np.concatenate(self.rows, dtype=np.int32), "counts": counts}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, labels: Sequence[list[int]]) -> "Cuts | None":
        """Return the cuts of a checkpoint; None if it has none, or those of recordings with other labels."""
        if not (folder / FILE).is_file():
            return None
        stored = load_file(folder / FILE)
        rows = np.split(stored["cuts"], np.cumsum(stored["counts"])[:-1])
        fits = len(rows) == len(labels) and all(
            not len(cuts) or cuts[-1, 1] == len(own) for cuts, own in zip(rows, labels, strict=True)
        )
        return cls(rows) if fits else None


class SplicedDataset(torch.utils.data.Dataset):
    """A training set in which a share of the utterances is replaced with spliced examples after `start`.

    The pieces of an example depend only on seed, epoch, index and the cuts. An example is not longer than the utterance
    that it replaces.

    Args:
        dataset: The training set; its keys are (epoch, index).
        utterances: Its first examples, or all of them.
        durations: Duration of each utterance before augmentation, in seconds.

    Attributes:
        cuts: Where the utterances can be cut; None before `start`.
        words: Row and number of each word that a piece can be drawn around, int32 (words, 2).
        chances: The sum of the probabilities of each word and of those before it.
    """

    def __init__(
        self,
        dataset: SpeechDataset | ConcatenatedDataset,
        arguments: SplicingArguments,
        *,
        utterances: SpeechDataset,
        durations: Sequence[float],
        seed: int,
    ):
        self.dataset, self.arguments, self.utterances, self.seed = dataset, arguments, utterances, seed
        self.durations = durations
        self.cuts: Cuts | None = None
        self.words, self.chances = np.zeros((0, 2), np.int32), np.zeros(0)

    def __len__(self) -> int:
        return len(self.dataset)

    def start(self, cuts: Cuts) -> None:
        """Splice from now on."""
        rows = [row for row, own in enumerate(cuts.rows) if len(own) > self.arguments.min_words]
        words = [(row, word) for row in rows for word in range(len(cuts.rows[row]) - 1)]
        self.cuts, self.words = cuts, np.array(words, np.int32).reshape(-1, 2)
        chances = self._counts(rows) ** -self.arguments.rarity
        self.chances = np.cumsum(chances / chances.sum())

    def _counts(self, rows: Sequence[int]) -> np.ndarray:
        """Return how often each of `words` occurs in these rows; of several words without a cut, the rarest counts."""
        spoken = [words_of(self.utterances.labels[row], self.utterances.processor.tokenizer) for row in rows]
        occurrences = Counter(word["word"] for words in spoken for word in words)
        found = []
        for row, words in zip(rows, spoken, strict=True):
            starts = self.cuts.rows[row][:-1, 1]
            counts = np.full(len(starts), np.inf)
            places = np.searchsorted(starts, [word["start_offset"] for word in words], side="right") - 1
            np.minimum.at(counts, places, [occurrences[word["word"]] for word in words])
            found.append(counts)
        return np.concatenate(found) if found else np.zeros(0)

    @property
    def num_sources(self) -> int:
        """Number of recordings that pieces are taken from."""
        return len(np.unique(self.words[:, 0]))

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if index >= len(self.utterances) or not len(self.words):
            return self.dataset[key]
        generator = np.random.default_rng([self.seed, epoch, index])
        if generator.random() >= self.arguments.share:
            return self.dataset[key]
        rate = self.utterances.processor.feature_extractor.sampling_rate
        pieces = self._draw(generator, samples=int(self.durations[index] * rate))
        if not pieces:  # all of them are longer than the utterance
            return self.dataset[key]
        try:
            waveform = np.concatenate([self._audio(*piece, fade=int(FADE * rate)) for piece in pieces])
        except AudioError:  # a recording has become unreadable; reported when the row itself is read
            return self.dataset[key]
        return self.utterances.example(waveform, *self._labels(pieces), epoch=epoch, index=index)

    def _draw(self, generator: np.random.Generator, *, samples: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return pieces that are not longer than `samples` together: a row's number, and the cuts at both ends."""
        pieces, misses = [], 0
        while misses < MISSES:
            source, word = self.words[np.searchsorted(self.chances[:-1], generator.random(), side="right")].tolist()
            cuts = self.cuts.rows[source]
            words = int(generator.integers(self.arguments.min_words, self.arguments.max_words + 1))
            words = min(words, len(cuts) - 1)
            start = int(generator.integers(max(0, word - words + 1), min(word, len(cuts) - 1 - words) + 1))
            first, last = cuts[start], cuts[start + words]
            if (length := int(last[0] - first[0])) > samples:
                misses += 1
                continue
            pieces.append((source, first, last))
            samples -= length
        return pieces

    def _audio(self, source: int, first: np.ndarray, last: np.ndarray, *, fade: int) -> np.ndarray:
        """Return the samples of a piece, faded in and out."""
        rate = self.utterances.processor.feature_extractor.sampling_rate
        piece = read_row(self.utterances.rows[source], sampling_rate=rate)[first[0] : last[0]].copy()
        ramp = np.linspace(0, 1, min(fade, len(piece) // 2), dtype=np.float32)
        piece[: len(ramp)] *= ramp
        piece[len(piece) - len(ramp) :] *= ramp[::-1]
        return piece

    def _labels(self, pieces: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[list[int], list[int]]:
        """Return labels and phonemes of an example."""
        tokenizer, texts, phonemes = self.utterances.processor.tokenizer, [], []
        for source, first, last in pieces:
            texts.append(tokenizer.decode(self.utterances.labels[source][first[1] : last[1]], group_tokens=False))
            if self.utterances.phonemes is not None:
                phonemes += self.utterances.phonemes[source][first[2] : last[2]]
        return joined_labels(texts, tokenizer), phonemes
