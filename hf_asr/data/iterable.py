"""Build training batches from a stream, buffer by buffer, for data too large or too remote to inspect first."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from ..model.processing_conformer import ConformerProcessor
from .augment import Augmentation, longest_durations
from .batching import DurationBatchSampler
from .concatenation import ConcatenatedDataset, ConcatenationArguments
from .dataset import SpeechCollator, SpeechDataset
from .inspection import append_findings, inspect


class StreamedBatches(torch.utils.data.IterableDataset):
    """Yield batches without end: each buffer of the stream is inspected, bucketed and shuffled like a small dataset.

    A buffer as large as the stream gives the same batches as reading all rows at once. Processes and workers divide the
    shards of the stream among them (processes divide the rows if the number of shards does not fit). Every pass over
    the stream is an epoch, which visits the shards in a different order.

    Args:
        required_samples: See `inspect`.
        pad_to_labels: See `SpeechDataset`.
        concatenation: How utterances of a buffer are concatenated; None for utterances alone.
        max_batch_seconds: See `DurationBatchSampler`.
        buffer_size: Number of rows.
        num_replicas, rank: Number of processes that train together, and the number of this one.
        report: data_report.jsonl, to which the findings of the first pass are appended.
        max_unusable_share: Largest share of a buffer that may be skipped; more is a ValueError.
        compute_features: See `SpeechCollator`.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        *,
        split: str,
        processor: ConformerProcessor,
        required_samples: Callable[[Sequence[int]], int],
        pad_to_labels: Callable[[np.ndarray, list[int]], tuple[np.ndarray, int]] | None = None,
        max_batch_seconds: float,
        max_duration_seconds: float,
        augment: Augmentation | None = None,
        concatenation: ConcatenationArguments | None = None,
        buffer_size: int = 1000,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        report: str | Path | None = None,
        max_unusable_share: float = 0.1,
        compute_features: bool = True,
    ):
        self.rows = rows.shuffle(seed=seed, buffer_size=1) if rows.num_shards > 1 else rows  # order of shards only
        if num_replicas > 1:
            self.rows = split_dataset_by_node(self.rows, rank=rank, world_size=num_replicas)
        self.split, self.processor, self.augment, self.concatenation = split, processor, augment, concatenation
        self.required_samples, self.pad_to_labels = required_samples, pad_to_labels
        self.max_batch_seconds, self.max_duration_seconds = max_batch_seconds, max_duration_seconds
        self.buffer_size, self.seed, self.report = buffer_size, seed, report
        self.max_unusable_share = max_unusable_share
        self.num_replicas, self.rank = num_replicas, rank
        self.collate = SpeechCollator(processor, compute_features)

    def check_shares(self, workers: int) -> None:
        """Raise ValueError if this process or one of its workers has no row: the other processes would wait for it."""
        share = len(list(itertools.islice(self.rows, max(1, workers))))
        if share < max(1, workers):
            raise ValueError(
                f"{self.split}: process {self.rank} of {self.num_replicas} has {share} rows of the stream to train on: "
                f"use more rows or shards, or fewer processes or dataloader workers (there are {workers})"
            )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for epoch in itertools.count():
            self.rows.set_epoch(epoch)
            rows, count, kept = iter(self.rows), 0, 0
            while buffer := list(itertools.islice(rows, self.buffer_size)):
                count += len(buffer)
                for batch in self._batches(buffer, epoch, first_row=count - len(buffer)):
                    kept += len(batch["labels"])
                    yield batch
            if not count:  # more workers than shards: this worker has none, and `check_shares` counted the others' rows
                return
            if not kept:
                raise ValueError(f"none of {count} streamed rows can be trained on: see {self.report}")

    def _batches(self, buffer: list[dict], epoch: int, *, first_row: int) -> Iterator[dict[str, torch.Tensor]]:
        inspection = inspect(
            buffer,
            split=self.split,
            processor=self.processor,
            required_samples=self.required_samples,
            max_duration_seconds=self.max_duration_seconds,
            show_progress=False,
            first_row=first_row,
        )
        if epoch == 0 and self.report is not None and inspection.findings:
            append_findings(self.report, inspection.findings)
        inspection.check(self.max_unusable_share)
        if not inspection.kept:
            return
        dataset = SpeechDataset(
            [buffer[i] for i in inspection.kept],
            processor=self.processor,
            augment=self.augment,
            pad_to_labels=self.pad_to_labels,
            labels=inspection.labels,
        )
        durations = longest_durations(inspection.durations, self.augment)
        if self.concatenation is not None:
            seed = self.seed + first_row  # each buffer draws its own
            dataset = ConcatenatedDataset(dataset, self.concatenation, durations=durations, seed=seed)
            durations = dataset.durations
        sampler = DurationBatchSampler(durations, max_batch_seconds=self.max_batch_seconds, seed=self.seed)
        sampler.set_epoch(epoch)
        for batch in sampler:
            yield self.collate([dataset[key] for key in batch])
