"""Turn rows into training examples, and examples into the inputs of a model."""

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
    """Read, augment and denoise one utterance at a time.

    The key of an item is (epoch, index), so that augmentation depends on these alone and not on the worker; a plain
    index means epoch 0. An item holds `waveform`, float32 (samples,), `labels`, a list of token ids, and `min_frames`:
    the number of feature frames that the processor pads with silence to. If a recording has become unreadable, the
    dataset logs a warning and returns 0.5 s of silence with no labels.

    If the model denoises its input, so does the dataset, after augmentation: added noise represents the noise of real
    recordings, which the denoiser also processes.

    Args:
        augment: Function of waveform, sampling rate in Hz, epoch and utterance id that returns a waveform.
        pad_to_labels: Function of waveform and labels that adds the silence that CTC needs to align them, and returns
            the waveform and `min_frames` (for training only; see `families.pad_to_labels`).
        labels: Token ids of each row, from `Inspection.labels`. None tokenises a transcript whenever it is read.
        phonemes: Phoneme ids of each row, from `phonemes.encode`; with them, an item also holds `phoneme_ids`.

    Raises:
        ValueError: There are not as many labels as rows.
    """

    def __init__(
        self,
        rows: datasets.Dataset | Sequence[dict],
        *,
        processor: ConformerProcessor,
        augment: Callable[[np.ndarray, int, int, str], np.ndarray] | None = None,
        pad_to_labels: Callable[[np.ndarray, list[int]], tuple[np.ndarray, int]] | None = None,
        labels: Sequence[list[int]] | None = None,
        phonemes: Sequence[list[int]] | None = None,
    ):
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"{len(labels)} labels for {len(rows)} rows")
        self.rows, self.processor, self.augment, self.pad_to_labels = rows, processor, augment, pad_to_labels
        self.labels, self.phonemes = labels, phonemes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        extractor = self.processor.feature_extractor
        try:
            waveform = read_row(row, sampling_rate=extractor.sampling_rate)
        except AudioError as error:
            logger.warning(f"skipped {row['utterance_id']} ({(row['audio'] or {}).get('path')}): {error}")
            silence = np.zeros(extractor.sampling_rate // 2, np.float32)
            return {"waveform": silence, "labels": [], "min_frames": 0} | self.phoneme_ids()
        labels = self.processor.tokenizer(row["text"])["input_ids"] if self.labels is None else self.labels[index]
        phonemes = self.phoneme_ids(index).get("phoneme_ids", [])
        return self.example(waveform, labels, phonemes, epoch=epoch, index=index)

    def example(self, waveform: np.ndarray, labels: list[int], phonemes: list[int], *, epoch: int, index: int) -> dict:
        """Return an item of a waveform (samples,), augmented as the row `index` is in an epoch."""
        extractor = self.processor.feature_extractor
        if self.augment is not None:
            waveform = self.augment(waveform, extractor.sampling_rate, epoch, self.rows[index]["utterance_id"])
        if getattr(extractor, "denoise", False):
            waveform = denoise(waveform, sampling_rate=extractor.sampling_rate)
        min_frames = 0
        if self.pad_to_labels is not None:
            waveform, min_frames = self.pad_to_labels(waveform, labels)
        example = {"waveform": waveform, "labels": labels, "min_frames": min_frames}
        return example if self.phonemes is None else example | {"phoneme_ids": phonemes}

    def phoneme_ids(self, *places: int) -> dict[str, list[int]]:
        """Return `phoneme_ids` of an item that consists of these rows; nothing without phonemes."""
        if self.phonemes is None:
            return {}
        return {"phoneme_ids": [number for place in places for number in self.phonemes[place]]}


class JoinedDataset(torch.utils.data.Dataset):
    """Join two datasets: the indices of the second one follow those of the first. Keys are (epoch, index)."""

    def __init__(self, first: SpeechDataset, second: SpeechDataset):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if index < len(self.first):
            return self.first[epoch, index]
        return self.second[epoch, index - len(self.first)]


def extract_features(
    processor: ConformerProcessor,
    waveforms: Sequence[np.ndarray | torch.Tensor],
    *,
    min_frames: torch.Tensor | None = None,
    device: str | torch.device = "cpu",
) -> BatchFeature:
    """Return the inputs of a model, computed on `device` by our extractor and on the CPU by others, without denoising.

    Args:
        min_frames: Least number of feature frames of each example, int (batch,); other families ignore it.
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
    """Collate examples of `SpeechDataset` into a batch.

    Args:
        compute_features: Compute the features here. False returns `waveforms` and `min_frames`, so that the features
            are computed on the device that trains.
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
        names = [name for name in ("labels", "phoneme_ids") if name in examples[0]]
        labels = {name: self.processor.pad_labels([example[name] for example in examples]) for name in names}
        return {**inputs, **labels}


def feature_statistics(
    dataset: SpeechDataset, *, processor: ConformerProcessor, max_utterances: int = 500, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and inverse standard deviation of the log-mel features, (num_mel_bins,) each.

    They are computed over a sample of at most `max_utterances`, drawn with `seed`.

    Raises:
        ValueError: No utterance of the sample can be read.
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
        raise ValueError(f"no feature statistics: none of {len(chosen)} sampled utterances can be read")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=1e-2)
    return mean.float(), variance.rsqrt().float()
