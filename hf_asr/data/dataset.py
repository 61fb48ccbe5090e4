"""Rows to training examples: what it takes to align them, and the features of a batch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import BatchFeature

from ..model.feature_extraction_conformer import denoise
from ..model.processing_conformer import ConformerProcessor
from .audio import AudioError
from .sources import read_row

logger = logging.getLogger("hf_asr")


class SpeechDataset(torch.utils.data.Dataset):
    """Decodes, augments and denoises one utterance at a time.

    An item is asked for by (epoch, index), so that augmentation is a function of both wherever a worker stands; a plain
    index is epoch 0. It holds `waveform` float32 (samples,), `labels`, a list of token ids, and `min_frames`, the
    frames that its features are filled up to with silence. A recording that cannot be read any more becomes half a
    second of silence without a word, is logged, and stops nothing.

    A model that denoises does so after augmentation: noise that is added here stands for noise that is there when the
    model is used, and the denoiser gets that too.

    Args:
        augment: Function of waveform, sampling rate, epoch and utterance id.
        pad_to_labels: Function of waveform and labels that adds the silence without which CTC cannot align them, and
            returns the waveform and `min_frames` (training only; see `families.pad_to_labels`).
    """

    def __init__(
        self,
        rows: datasets.Dataset | Sequence[dict],
        *,
        processor: ConformerProcessor,
        augment: Callable[[np.ndarray, int, int, str], np.ndarray] | None = None,
        pad_to_labels: Callable[[np.ndarray, list[int]], tuple[np.ndarray, int]] | None = None,
    ):
        self.rows, self.processor, self.augment, self.pad_to_labels = rows, processor, augment, pad_to_labels

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
            silence = np.zeros(extractor.sampling_rate // 2, np.float32)
            return {"waveform": silence, "labels": [], "min_frames": 0}
        if self.augment is not None:
            waveform = self.augment(waveform, extractor.sampling_rate, epoch, row["utterance_id"])
        if getattr(extractor, "denoise", False):
            waveform = denoise(waveform, sampling_rate=extractor.sampling_rate)
        labels, min_frames = self.processor.tokenizer(row["text"])["input_ids"], 0
        if self.pad_to_labels is not None:
            waveform, min_frames = self.pad_to_labels(waveform, labels)
        return {"waveform": waveform, "labels": labels, "min_frames": min_frames}


def extract_features(
    processor: ConformerProcessor,
    waveforms: Sequence[np.ndarray | torch.Tensor],
    *,
    min_frames: torch.Tensor | None = None,
    device: str | torch.device = "cpu",
) -> BatchFeature:
    """A model's inputs, computed on `device` by our extractor and on CPU by others; nothing is denoised.

    `min_frames` (batch,) are those of the examples, which other families' extractors do not know.
    """
    extractor = processor.feature_extractor
    return extractor(
        list(waveforms),
        sampling_rate=extractor.sampling_rate,
        return_tensors="pt",
        padding=True,
        return_attention_mask=True,
        denoise=False,
        min_frames=min_frames,
        device=device,
    )


@dataclass
class SpeechCollator:
    """Examples to the model's inputs; recordings are denoised already.

    Args:
        compute_features: False leaves `waveforms` and `min_frames` as they are, for features on the device that trains.
    """

    processor: ConformerProcessor
    compute_features: bool = True

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        waveforms = [example["waveform"] for example in examples]
        min_frames = torch.tensor([example["min_frames"] for example in examples])  # (B,)
        if self.compute_features:
            inputs = extract_features(self.processor, waveforms, min_frames=min_frames)
        else:
            inputs = {"waveforms": [torch.from_numpy(waveform) for waveform in waveforms], "min_frames": min_frames}
        return {**inputs, "labels": self.processor.pad_labels([example["labels"] for example in examples])}


def feature_statistics(
    dataset: SpeechDataset, *, processor: ConformerProcessor, max_utterances: int = 500, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of the log-mel, (num_mel_bins,) each, over a seeded sample of utterances.

    Raises:
        ValueError: None of them can be read.
    """
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
    if not count:
        raise ValueError(f"none of {len(chosen)} utterances that were tried for the statistics of features can be read")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=1e-2)
    return mean.float(), variance.rsqrt().float()
