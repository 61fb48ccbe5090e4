"""Concatenate training utterances with noise between them, so that long recordings resemble the training examples."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter

from .dataset import SpeechDataset
from .joined_texts import joined_labels
from .transforms import rms

logger = logging.getLogger("hf_asr")

NOISE_DB = (-55.0, -10.0)  # level of the background, relative to the quietest utterance
DRAWS = 100  # examples from which the mean length is estimated
WITHOUT_SPEECH = 0.05  # level of the speech that is assumed for an example without any, full scale is 1
SILENT = 0.2  # share of the examples without any background noise


@dataclass
class ConcatenationArguments:
    """Configure examples of several utterances, which are trained on beside the utterances alone.

    Args:
        share: Approximate share of these examples in the seconds of an epoch.
        max_seconds: Maximum length of an example.
        max_gap_seconds: Maximum pause before, between and after the utterances.

    Raises:
        ValueError: A value is out of its range.
    """

    share: float = 0.3
    max_seconds: float = 15.0
    max_gap_seconds: float = 1.5

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise ValueError(f"concatenation: share must be between 0 and 1, not {self.share}")
        if not 0 <= 4 * self.max_gap_seconds < self.max_seconds:
            raise ValueError(
                f"concatenation: max_gap_seconds must be 0 or more and less than a quarter of max_seconds "
                f"({self.max_seconds}), not {self.max_gap_seconds}"
            )


class ConcatenatedDataset(torch.utils.data.Dataset):
    """The utterances of a dataset, and after them examples that are concatenations of several utterances.

    The utterances, pauses and background noise of an example depend only on seed, epoch and index. The noise has a
    random level below that of the quietest utterance and a random colour, and continues under the utterances; there is
    none where the model denoises its input.

    Args:
        dataset: The utterances; its keys are (epoch, index).
        durations: Maximum duration of each utterance, in seconds.

    Attributes:
        durations: The same of all examples.
    """

    def __init__(
        self, dataset: SpeechDataset, arguments: ConcatenationArguments, *, durations: Sequence[float], seed: int
    ):
        self.dataset, self.arguments, self.seed = dataset, arguments, seed
        self.seconds = seconds = np.asarray(durations, np.float64)
        self.durations, limit = list(durations), arguments.max_seconds - 2 * arguments.max_gap_seconds
        self.short = np.flatnonzero(seconds <= limit)
        if not len(self.short):
            logger.warning(f"concatenation has no effect: no utterance has at most {limit:g} s; increase max_seconds")
            return
        self.typical = np.median(seconds[self.short])
        wanted = arguments.share / (1 - arguments.share) * seconds.sum()
        self.durations += self._bounds(max(1, round(wanted / self._mean_seconds()))).tolist()

    def _bounds(self, count: int) -> np.ndarray:
        """Return the maximum seconds of `count` examples, from one utterance with short pauses to all that fit."""
        least = self.typical + self.arguments.max_gap_seconds / 2
        return least + (self.arguments.max_seconds - least) * np.linspace(1, 0, count) ** 2  # most of them are short

    def _mean_seconds(self) -> float:
        total = 0.0
        for number, longest in enumerate(self._bounds(DRAWS)):
            chosen, gaps = self._draw(np.random.default_rng([self.seed, number]), longest)
            total += self.seconds[chosen].sum() + sum(gaps)
        return total / DRAWS

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if index < len(self.dataset):
            return self.dataset[epoch, index]
        generator = np.random.default_rng([self.seed, epoch, index])
        processor, (chosen, gaps) = self.dataset.processor, self._draw(generator, self.durations[index])
        parts, rows, rate = [], [], processor.feature_extractor.sampling_rate
        for i, gap in itertools.zip_longest(chosen, gaps):
            parts.append(np.zeros(int(gap * rate), np.float32))
            if i is not None and (example := self.dataset[epoch, i])["labels"]:
                parts.append(example["waveform"])
                rows.append(i)
        waveform = np.concatenate(parts)
        if not getattr(processor.feature_extractor, "denoise", False):
            level = min((rms(part) for part in parts if part.any()), default=WITHOUT_SPEECH)
            waveform += level * _background(len(waveform), generator)
        labels = joined_labels([self.dataset.rows[i]["text"] for i in rows], processor.tokenizer)
        min_frames = 0
        if self.dataset.pad_to_labels is not None:
            waveform, min_frames = self.dataset.pad_to_labels(waveform, labels)
        phonemes = self.dataset.phoneme_ids(*rows)
        return {"waveform": waveform, "labels": labels, "min_frames": min_frames} | phonemes

    def _draw(self, generator: np.random.Generator, longest: float) -> tuple[list[int], list[float]]:
        """Return utterances that fit into `longest` seconds, at least one, and the pauses before, between and after.

        Most pauses are short: their length is the square of a uniform number.
        """
        chosen, gaps, left = [], [], longest
        while True:
            gap = self.arguments.max_gap_seconds * generator.uniform() ** 2
            gap = gap if chosen else min(gap, longest - self.typical)
            fitting = self.short[self.seconds[self.short] <= left - gap]
            gaps.append(min(gap, left))
            if not len(fitting):
                return chosen, gaps
            chosen.append(int(generator.choice(fitting)))
            left -= gap + self.seconds[chosen[-1]]


def _background(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise of a random level below 1 and a random colour, or silence, float32 (samples,)."""
    if generator.random() < SILENT:
        return np.zeros(samples, np.float32)
    noise = lfilter([1.0], [1.0, -generator.uniform(0, 0.95)], generator.standard_normal(samples))  # white to brown
    level = 10 ** (generator.uniform(*NOISE_DB) / 20)
    return (level / max(rms(noise), 1e-8) * noise).astype(np.float32)
