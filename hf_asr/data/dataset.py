"""Rows to training examples: what can be used, what it takes to align it, and the features of a batch."""

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import BatchFeature, PreTrainedConfig

from ..checkpoint import samples_per_frame
from ..files import write_text
from ..model.configuration_conformer import SUBSAMPLING_CONVOLUTIONS, ConformerConfig
from ..model.feature_extraction_conformer import denoise
from ..model.processing_conformer import ConformerProcessor
from .audio import AudioError, missing_bytes
from .sources import read_row, row_duration

logger = logging.getLogger("hf_asr")


@dataclass
class Finding:
    """A row (its number) that was skipped or changed, and why."""

    split: str
    row: int
    utterance_id: str
    reason: str
    detail: str = ""


@dataclass
class Inspection:
    """What inspecting `rows` found: `kept` are numbers of those to use, `durations` their seconds."""

    rows: datasets.Dataset | Sequence[dict]

    kept: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def unusable_share(self) -> float:
        """Rows that were skipped, over all."""
        return 1 - len(self.kept) / max(1, len(self.rows))

    def check(self, max_unusable_share: float) -> None:
        """Raises ValueError if more was skipped than `max_unusable_share`, with the reasons and first examples."""
        if self.unusable_share > max_unusable_share:
            examples = {}
            for finding in self.findings:
                if finding.reason != "shorter than CTC needs":
                    examples.setdefault(finding.reason, f"{finding.utterance_id}: {finding.detail}")
            told = "; ".join(f"{reason}, as {example}" for reason, example in examples.items())
            skipped = f"{len(self.rows) - len(self.kept)} of {len(self.rows)} rows"
            raise ValueError(
                f"{skipped} cannot be trained on ({self.unusable_share:.0%}, limit {max_unusable_share:.0%}): "
                f"{told}. Mend them, or go on without them: --max_unusable_share 1"
            )

    def summary(self) -> str:
        """One line: hours, and how many were skipped for which reason."""
        reasons = Counter(finding.reason for finding in self.findings)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "nothing skipped"
        return f"{len(self.kept)} utterances, {sum(self.durations) / 3600:.2f} h ({told})"


def required_samples(labels: Sequence[int], *, config: PreTrainedConfig) -> int:
    """Samples of audio that CTC needs to align `labels`: a frame each, and one between two that are equal."""
    frames = len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
    window = 400  # 25 ms: the reach of an encoder's first frame beyond its hop
    if not isinstance(config, ConformerConfig):
        # wav2vec2's SpecAugment refuses batches that are shorter than one of its masks.
        frames = max(frames, getattr(config, "mask_time_length", 0)) + 2
        return frames * samples_per_frame(config) + window
    for kernel, stride in reversed(SUBSAMPLING_CONVOLUTIONS[config.subsampling_factor]):
        frames = (frames - 1) * stride + kernel
    return frames * config.hop_length + window


def inspect(
    rows: datasets.Dataset | Sequence[dict],
    *,
    split: str,
    processor: ConformerProcessor,
    config: PreTrainedConfig,
    max_duration_seconds: float,
    decode: bool = True,
    show_progress: bool = True,
) -> Inspection:
    """Tells which rows can be trained on, and how long they are.

    Skipped are undecodable and truncated recordings, those longer than `max_duration_seconds`, empty transcripts, and
    transcripts that need more than twice the frames their audio has. Shorter lacks are padded with silence in training
    (not in evaluation, where nobody knows the transcript), and counted.

    Args:
        decode: Decode every recording. False believes a `duration` column, or the header of each file: a hundred
            thousand rows in seconds, and what cannot be decoded shows only when its turn comes.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    shortest = getattr(processor.feature_extractor, "min_duration", 0.0)

    def measure(place: int) -> float | AudioError:
        row = rows[place]
        try:
            if not decode:
                return row_duration(row)
            waveform = read_row(row, sampling_rate=sampling_rate)
            is_whole_file = row.get("start") is None and row.get("size") is None
            if is_whole_file and (lack := missing_bytes(row["audio"]["bytes"] or row["audio"]["path"])):
                raise AudioError(f"truncated: {lack} bytes of what its header promises are missing")
            return len(waveform) / sampling_rate
        except AudioError as error:
            return error

    inspection = Inspection(rows)
    names, texts = column_values(rows, "utterance_id"), column_values(rows, "text")

    def find(reason: str, detail: str) -> None:
        inspection.findings.append(Finding(split, place, names[place], reason, detail))

    told = not decode and isinstance(rows, datasets.Dataset) and {"duration", "start"} & set(rows.column_names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # By number, not by row: the pool takes all it is given at once, and rows may hold their audio.
        measured = tqdm(
            rows["duration"][:] if told == {"duration"} else pool.map(measure, range(len(rows))),
            total=len(rows),
            desc=f"Inspecting {split}",
            unit="file",
            disable=not show_progress,
        )
        for place, (labels, duration) in enumerate(zip(_labels(texts, processor), measured, strict=True)):
            if isinstance(duration, AudioError):
                find("unreadable audio", str(duration))
                continue
            if not labels:
                find("empty transcript", repr(texts[place]))
                continue
            if duration > max_duration_seconds:
                find("too long", f"{duration:.1f} s, limit {max_duration_seconds} s (--max_duration_seconds)")
                continue
            duration = max(duration, shortest)
            needed = required_samples(labels, config=config) / sampling_rate
            if needed > 2 * duration + 0.1:
                find("transcript too long for its audio", f"{len(labels)} tokens in {duration:.2f} s")
                continue
            if needed > duration:
                find("shorter than CTC needs", f"{duration:.2f} s, {len(labels)} tokens need {needed:.2f} s")
            inspection.kept.append(place)
            inspection.durations.append(max(duration, needed))
    return inspection


def column_values(rows: datasets.Dataset | Sequence[dict], name: str) -> list:
    """A column at once, not row by row."""
    return rows[name][:] if isinstance(rows, datasets.Dataset) else [row[name] for row in rows]


def _labels(texts: list[str], processor: ConformerProcessor) -> Iterator[list[int]]:
    """Token ids of each transcript; a thousand at a time are tokenised much faster than one by one."""
    for start in range(0, len(texts), 1000):
        yield from processor.tokenizer(texts[start : start + 1000])["input_ids"]


def write_findings(path: str | Path, findings: Sequence[Finding]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(asdict(finding), ensure_ascii=False) + "\n" for finding in findings))


class SpeechDataset(torch.utils.data.Dataset):
    """Decodes, denoises and augments one utterance at a time.

    An item is asked for by (epoch, index), so that augmentation is a function of both wherever a worker stands; a plain
    index is epoch 0. It holds `waveform` float32 (samples,) and `labels`, a list of token ids. A recording that cannot
    be read any more becomes half a second of silence without a word, is logged, and stops nothing.

    Args:
        augment: Function of waveform, sampling rate, epoch and utterance id.
        pad_to_labels: Append the silence without which CTC cannot align the labels (training only).
    """

    def __init__(
        self,
        rows: datasets.Dataset | Sequence[dict],
        *,
        processor: ConformerProcessor,
        config: PreTrainedConfig,
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
            waveform = read_row(row, sampling_rate=extractor.sampling_rate)
        except AudioError as error:
            logger.warning(f"skipped {row['utterance_id']} ({row['audio']['path']}): {error}")
            return {"waveform": np.zeros(extractor.sampling_rate // 2, np.float32), "labels": []}
        if getattr(extractor, "denoise", False):
            waveform = denoise(waveform, sampling_rate=extractor.sampling_rate)
        if self.augment is not None:
            waveform = self.augment(waveform, extractor.sampling_rate, epoch, row["utterance_id"])
        labels = self.processor.tokenizer(row["text"])["input_ids"]
        if self.pad_to_labels:
            lack = required_samples(labels, config=self.config) - len(waveform)
            waveform = np.pad(waveform, (0, max(0, lack)))
        return {"waveform": waveform, "labels": labels}


def extract_features(
    processor: ConformerProcessor, waveforms: Sequence[np.ndarray | torch.Tensor], *, device: str | torch.device = "cpu"
) -> BatchFeature:
    """A model's inputs, computed on `device` by our extractor and on CPU by others; nothing is denoised."""
    extractor = processor.feature_extractor
    return extractor(
        list(waveforms),
        sampling_rate=extractor.sampling_rate,
        return_tensors="pt",
        padding=True,
        return_attention_mask=True,
        denoise=False,
        device=device,
    )


@dataclass
class SpeechCollator:
    """Examples to the model's inputs; recordings were denoised before they were augmented, so not here.

    Args:
        compute_features: False leaves the `waveforms` as they are, for features on the device that trains.
    """

    processor: ConformerProcessor
    compute_features: bool = True

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        waveforms = [example["waveform"] for example in examples]
        if self.compute_features:
            inputs = extract_features(self.processor, waveforms)
        else:
            inputs = {"waveforms": [torch.from_numpy(waveform) for waveform in waveforms]}
        return {**inputs, "labels": self.processor.pad_labels([example["labels"] for example in examples])}


def feature_statistics(
    dataset: SpeechDataset, *, processor: ConformerProcessor, max_utterances: int = 500, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of the log-mel, (num_mel_bins,) each, over a seeded sample of utterances."""
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:max_utterances]
    count, total, squares = 0, 0.0, 0.0
    for index in tqdm(chosen, desc="Feature statistics", unit="file", leave=False):
        example = dataset[int(index)]
        if not example["labels"]:
            continue  # unreadable: silence would shift the mean
        features = extract_features(processor, [example["waveform"]]).input_features[0]
        count += len(features)
        total = total + features.double().sum(0)
        squares = squares + features.double().square().sum(0)
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=1e-2)
    return mean.float(), variance.rsqrt().float()
