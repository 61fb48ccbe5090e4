"""Prepare the synthetic speech of `warm_start` for training, beside the recordings."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from ..data.augment import build_augmentation, longest_durations
from ..data.batching import MixedBatchSampler
from ..data.concatenation import ConcatenatedDataset
from ..data.dataset import SpeechCollator, SpeechDataset
from ..data.inspection import Finding, Inspection, column_values, inspect
from ..data.phonemes import encode
from ..data.spoken import SPLIT, Spoken, WarmStartArguments
from ..families import pad_to_labels, required_samples
from .arguments import ConformerTrainingArguments, DataArguments


@dataclass
class WarmStart:
    """Synthetic speech that can be trained on.

    Attributes:
        dataset: The usable rows, augmented, and with `concatenation` examples of several of them.
        durations: Maximum duration of each example after augmentation, in seconds.
        inspection: Result of inspecting all rows.
        findings: Sentences that could not be spoken, and rows that are skipped or have a defect.
    """

    arguments: WarmStartArguments
    voice: str
    dataset: SpeechDataset | ConcatenatedDataset
    durations: list[float]
    inspection: Inspection
    findings: list[Finding]

    def figures(self) -> dict[str, Any]:
        """Return how much synthetic speech there is, for training.json and the model card."""
        rows, kept = self.inspection.rows, self.inspection.kept
        texts, speakers = column_values(rows, "text"), column_values(rows, "speaker")
        return {
            "voice": self.voice,
            "hours": round(sum(self.inspection.durations) / 3600, 4),
            "utterances": len(kept),
            "sentences": len({texts[place] for place in kept}),
            "speakers": len({speakers[place] for place in kept}),
        }

    def summary(self) -> str:
        """Return the figures as a line of the data report."""
        return "{hours:.2f} hours, {sentences} sentences, {speakers} voices ({voice})".format(**self.figures())


def prepare_warm_start(
    spoken: Spoken,
    collator: SpeechCollator,
    *,
    config: PreTrainedConfig,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
) -> WarmStart:
    """Inspect synthetic speech as recordings are inspected, and return what can be trained on.

    Raises:
        ValueError: No row can be trained on, or fewer than there are processes; or an augmentation is unknown.
    """
    arguments = data_args.warm_start_arguments()
    inspection = inspect(
        spoken.rows,
        split=SPLIT,
        processor=collator.processor,
        required_samples=partial(required_samples, config=config),
        max_duration_seconds=data_args.max_duration_seconds,
        decode=False,  # their durations are known
        is_shared=True,
    )
    inspection.check_any("trained on")
    if len(inspection.kept) < args.world_size:
        raise ValueError(f"warm_start: {len(inspection.kept)} utterances for {args.world_size} processes: add texts")
    usable = spoken.rows.select(inspection.kept)
    augment = build_augmentation(arguments.augmentations, seed=args.seed, rows=usable)
    dataset = SpeechDataset(
        usable,
        processor=collator.processor,
        augment=augment,
        pad_to_labels=partial(pad_to_labels, config=config),
        labels=inspection.labels,
        phonemes=encode(usable, config),
    )
    durations = longest_durations(inspection.durations, augment)
    if (concatenation := data_args.concatenation_arguments()) is not None:
        dataset = ConcatenatedDataset(dataset, concatenation, durations=durations, seed=args.seed)
        durations = dataset.durations
    return WarmStart(arguments, spoken.voice, dataset, durations, inspection, spoken.findings + inspection.findings)


def check_epochs(sampler: MixedBatchSampler, args: ConformerTrainingArguments) -> None:
    """Raise ValueError if a run that is counted in epochs ends before it trains on a recording."""
    if args.max_steps <= 0 and sampler.are_synthetic(math.ceil(args.num_train_epochs)).all():
        raise ValueError(
            f"warm_start: its steps ({sampler.steps}) are the whole training (num_train_epochs "
            f"{args.num_train_epochs:g}): set fewer steps, or more epochs"
        )
