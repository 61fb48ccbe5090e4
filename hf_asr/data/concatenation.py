"""Concatenate training utterances with noise between them, so that long recordings resemble the training examples."""

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

NOISE_DB = (-80.0, -35.0)  # level of the background, relative to full scale
DRAWS = 100  # examples from which the mean length is estimated
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
    random level and colour, and continues under the utterances; there is none where the model denoises its input.

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
        share, longest = arguments.share, arguments.max_seconds
        self.seconds = seconds = np.asarray(durations, np.float64)
        self.durations, limit = list(durations), longest - 2 * arguments.max_gap_seconds
        self.short = np.flatnonzero(seconds <= limit)
        if not len(self.short):
            logger.warning(f"concatenation has no effect: no utterance has at most {limit:g} s; increase max_seconds")
            return
        drawn = [self._draw(np.random.default_rng([seed, number])) for number in range(DRAWS)]
        gaps = sum(len(chosen) + 1 for chosen in drawn) * arguments.max_gap_seconds / 2
        mean = (sum(seconds[chosen].sum() for chosen in drawn) + gaps) / DRAWS
        self.durations += [longest] * max(1, round(share / (1 - share) * seconds.sum() / mean))

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if index < len(self.dataset):
            return self.dataset[epoch, index]
        generator = np.random.default_rng([self.seed, epoch, index])
        processor, chosen = self.dataset.processor, self._draw(generator)
        examples = [(example, i) for i in chosen if (example := self.dataset[epoch, i])["labels"]]
        rate = processor.feature_extractor.sampling_rate
        parts = [self._gap(generator, rate)]
        for example, _ in examples:
            parts += [example["waveform"], self._gap(generator, rate)]
        waveform = np.concatenate(parts)
        if not getattr(processor.feature_extractor, "denoise", False):
            waveform += _background(len(waveform), generator)
        labels = joined_labels([self.dataset.rows[i]["text"] for _, i in examples], processor.tokenizer)
        min_frames = 0
        if self.dataset.pad_to_labels is not None:
            waveform, min_frames = self.dataset.pad_to_labels(waveform, labels)
        phonemes = self.dataset.phoneme_ids(*(i for _, i in examples))
        return {"waveform": waveform, "labels": labels, "min_frames": min_frames} | phonemes

    def _draw(self, generator: np.random.Generator) -> list[int]:
        """Return the utterances of an example, which fit into it with all pauses at their longest, until none does."""
        gap = self.arguments.max_gap_seconds
        chosen, left = [], self.arguments.max_seconds - gap
        while len(fitting := self.short[self.seconds[self.short] + gap <= left]):
            chosen.append(int(generator.choice(fitting)))
            left -= self.seconds[chosen[-1]] + gap
        return chosen

    def _gap(self, generator: np.random.Generator, sampling_rate: int) -> np.ndarray:
        return np.zeros(round(generator.uniform(0, self.arguments.max_gap_seconds) * sampling_rate), np.float32)


def _background(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise of a random level and colour, or silence, float32 (samples,)."""
    if generator.random() < SILENT:
        return np.zeros(samples, np.float32)
    noise = lfilter([1.0], [1.0, -generator.uniform(0, 0.95)], generator.standard_normal(samples))  # white to brown
    level = 10 ** (generator.uniform(*NOISE_DB) / 20)
    return (level / max(rms(noise), 1e-8) * noise).astype(np.float32)
