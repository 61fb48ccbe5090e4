"""Rows to training examples: what can be used, what it takes to align it, and the features of a batch."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..model.configuration_conformer import SUBSAMPLING_CONVOLUTIONS, ConformerConfig
from ..model.feature_extraction_conformer import ConformerFeatureExtractor, denoise
from ..model.processing_conformer import ConformerProcessor
from .audio import AudioError, read_audio


@dataclass
class Finding:
    """A row that was skipped or changed, and why."""

    split: str
    utterance_id: str
    reason: str
    detail: str = ""


@dataclass
class Inspection:
    """What inspecting a split found: `kept` are row numbers, `durations` their seconds."""

    kept: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def summary(self) -> str:
        """One line: hours, and how many were skipped for which reason."""
        reasons = Counter(finding.reason for finding in self.findings)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "nothing skipped"
        return f"{len(self.kept)} utterances, {sum(self.durations) / 3600:.2f} h ({told})"


def row_audio(row: dict) -> str | bytes:
    """What `read_audio` takes: the path if there is one, else the bytes."""
    audio = row["audio"]
    return audio["bytes"] if audio["bytes"] is not None else audio["path"]


def required_samples(labels: Sequence[int], *, config: ConformerConfig, hop_length: int, window_length: int) -> int:
    """Samples of audio that CTC needs to align `labels`: a frame each, and one between two that are equal."""
    frames = len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
    for kernel, stride in reversed(SUBSAMPLING_CONVOLUTIONS[config.subsampling_factor]):
        frames = (frames - 1) * stride + kernel
    return frames * hop_length + window_length


def inspect(
    rows: datasets.Dataset,
    *,
    split: str,
    processor: ConformerProcessor,
    config: ConformerConfig,
    max_duration_seconds: float,
) -> Inspection:
    """Decodes every recording once and tells which rows can be trained on.

    Skipped are undecodable recordings, those longer than `max_duration_seconds`, empty transcripts, and transcripts
    that need more than twice the frames their audio has. Shorter lacks are padded with silence in training (not in
    evaluation, where nobody knows the transcript), and counted.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    shortest = processor.feature_extractor.min_duration

    def measure(row: dict) -> float | AudioError:
        try:
            return len(read_audio(row_audio(row), sampling_rate=sampling_rate)) / sampling_rate
        except AudioError as error:
            return error

    inspection = Inspection()

    def find(row: dict, reason: str, detail: str = "") -> None:
        inspection.findings.append(Finding(split, row["utterance_id"], reason, detail))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = tqdm(pool.map(measure, rows), total=len(rows), desc=f"Inspecting {split}", unit="file")
        for place, (row, duration) in enumerate(zip(rows, measured, strict=True)):
            labels = processor.tokenizer(row["text"])["input_ids"]
            if isinstance(duration, AudioError):
                find(row, "unreadable audio", str(duration))
                continue
            if not labels:
                find(row, "empty transcript", repr(row["text"]))
                continue
            if duration > max_duration_seconds:
                find(row, "too long", f"{duration:.1f} s, limit {max_duration_seconds} s (--max_duration_seconds)")
                continue
            duration = max(duration, shortest)
            needed = _required(labels, processor, config) / sampling_rate
            if needed > 2 * duration + 0.1:
                find(row, "transcript too long for its audio", f"{len(labels)} tokens in {duration:.2f} s")
                continue
            if needed > duration:
                find(row, "shorter than CTC needs", f"{duration:.2f} s, {len(labels)} tokens need {needed:.2f} s")
            inspection.kept.append(place)
            inspection.durations.append(max(duration, needed))
    return inspection


def _required(labels: Sequence[int], processor: ConformerProcessor, config: ConformerConfig) -> int:
    extractor = processor.feature_extractor
    return required_samples(
        labels, config=config, hop_length=extractor.hop_length, window_length=extractor.window_length
    )


def write_report(path: str | Path, findings: Sequence[Finding]) -> None:
    """One JSON object a line, written beside and renamed."""
    partial = Path(f"{path}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        for finding in findings:
            file.write(json.dumps(asdict(finding), ensure_ascii=False) + "\n")
    partial.replace(path)


class SpeechDataset(torch.utils.data.Dataset):
    """Decodes, denoises and augments one utterance at a time.

    An item is asked for by (epoch, index), so that augmentation is a function of both wherever a worker stands; a plain
    index is epoch 0. It holds `waveform` float32 (samples,) and `labels`, a list of token ids.

    Args:
        augment: Function of waveform, sampling rate, epoch and utterance id.
        pad_to_labels: Append the silence without which CTC cannot align the labels (training only).
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        *,
        processor: ConformerProcessor,
        config: ConformerConfig,
        augment: Callable[[np.ndarray, int, int, str], np.ndarray] | None = None,
        pad_to_labels: bool = False,
    ):
        self.rows, self.processor, self.config, self.augment = rows, processor, config, augment
        self.pad_to_labels = pad_to_labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        extractor = self.processor.feature_extractor
        try:
            waveform = read_audio(row_audio(row), sampling_rate=extractor.sampling_rate)
        except AudioError as error:
            raise AudioError(
                f"{row['audio']['path'] or row['utterance_id']}: {error}, since it was inspected"
            ) from None
        if extractor.denoise:
            waveform = denoise(waveform, sampling_rate=extractor.sampling_rate)
        if self.augment is not None:
            waveform = self.augment(waveform, extractor.sampling_rate, epoch, row["utterance_id"])
        labels = self.processor.tokenizer(row["text"])["input_ids"]
        if self.pad_to_labels:
            lack = _required(labels, self.processor, self.config) - len(waveform)
            waveform = np.pad(waveform, (0, max(0, lack)))
        return {"waveform": waveform, "labels": labels}


@dataclass
class SpeechCollator:
    """Examples to the model's inputs; recordings were denoised before they were augmented, so not here."""

    processor: ConformerProcessor

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        extractor = self.processor.feature_extractor
        batch = extractor(
            [example["waveform"] for example in examples],
            sampling_rate=extractor.sampling_rate,
            return_tensors="pt",
            denoise=False,
        )
        return {**batch, "labels": self.processor.pad_labels([example["labels"] for example in examples])}


def feature_statistics(
    dataset: SpeechDataset, *, extractor: ConformerFeatureExtractor, max_utterances: int = 500, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of the log-mel, (num_mel_bins,) each, over a seeded sample of utterances."""
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:max_utterances]
    count, total, squares = 0, 0.0, 0.0
    for index in tqdm(chosen, desc="Feature statistics", unit="file", leave=False):
        features = extractor(
            dataset[int(index)]["waveform"],
            sampling_rate=extractor.sampling_rate,
            return_tensors="pt",
            denoise=False,
        ).input_features[0]
        count += len(features)
        total = total + features.double().sum(0)
        squares = squares + features.double().square().sum(0)
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=1e-2)
    return mean.float(), variance.rsqrt().float()
