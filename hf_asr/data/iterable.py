"""Build training batches from a stream, buffer by buffer, for data too large or too remote to inspect first."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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

STATE = "stream_state"  # of a batch
# Batches of this worker; number of the epoch, state of the rows and number of the row at which the current buffer
# starts; batches of that buffer.
START = {"batches": 0, "epoch": 0, "rows": None, "first_row": 0, "used": 0}


class StreamedBatches(torch.utils.data.IterableDataset):
    """Yield batches without end: each buffer of the stream is inspected, bucketed and shuffled like a small dataset.

    A buffer as large as the stream gives the same batches as reading all rows at once. Processes and workers divide the
    shards of the stream among them (processes divide the rows if the number of shards does not fit). Every pass over
    the stream is an epoch, which visits the shards in a different order.

    Each batch has an entry `STATE` beside its tensors: the place after it in the stream of its worker. A stream that is
    given the last state of each worker (`resume`) goes on there. It reads the current buffer again, and not the rows
    before it. In a random mixture of several sources, only the batches of an epoch's first buffer have a state.

    Args:
        required_samples: See `inspect`.
        pad_to_labels: See `SpeechDataset`.
        encode_phonemes: Function that returns the `phonemes` of rows; None for a model without phonemes.
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
        encode_phonemes: Callable[[Sequence[dict]], Sequence[list[int]] | None] | None = None,
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
        # Shards are visited one after the other, because a worker of datasets 5.2 cannot resume a mixture of them.
        order = {"seed": seed, "buffer_size": 1, "max_buffer_input_shards": 1}
        self.rows = rows.shuffle(**order) if rows.num_shards > 1 else rows
        if num_replicas > 1:
            self.rows = split_dataset_by_node(self.rows, rank=rank, world_size=num_replicas)
        self.split, self.processor, self.augment, self.concatenation = split, processor, augment, concatenation
        self.required_samples, self.pad_to_labels = required_samples, pad_to_labels
        self.encode_phonemes = encode_phonemes
        self.max_batch_seconds, self.max_duration_seconds = max_batch_seconds, max_duration_seconds
        self.buffer_size, self.seed, self.report = buffer_size, seed, report
        self.max_unusable_share = max_unusable_share
        self.num_replicas, self.rank = num_replicas, rank
        self.collate = SpeechCollator(processor, compute_features)
        self.states: dict[int, dict] = {}

    def resume(self, states: Sequence[dict]) -> None:
        """Go on after the last batches of an earlier training, given the last state of each worker.

        Each worker first yields an empty batch for each one that it has yielded before, so that the order of the
        workers is the same. Trainer skips them.
        """
        self.states = {state["worker"]: state for state in states}

    def check_shares(self, workers: int) -> None:
        """Raise ValueError if this process or one of its workers has no row: the other processes would wait for it."""
        share = len(list(itertools.islice(self.rows, max(1, workers))))
        if share < max(1, workers):
            raise ValueError(
                f"{self.split}: process {self.rank} of {self.num_replicas} has {share} rows of the stream to train on: "
                f"use more rows or shards, or fewer processes or dataloader workers (there are {workers})"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number = worker.id if worker else 0
        place = START | {"worker": number} | self.states.get(number, {})
        yield from ({} for _ in range(place["batches"]))
        while True:
            rows, is_kept = self._rows_from(place), place["used"] > 0
            while buffer := list(itertools.islice(rows, self.buffer_size)):
                for batch in self._batches(buffer, **{name: place[name] for name in ("epoch", "first_row", "used")}):
                    is_kept = True
                    place |= {"batches": place["batches"] + 1, "used": place["used"] + 1}
                    # datasets 5.2 may draw other rows if a random mixture of sources is resumed twice in an epoch.
                    is_random = "bit_generator_state" in str(place["rows"])
                    yield batch if is_random else batch | {STATE: dict(place)}
                place |= {"rows": self.rows.state_dict(), "first_row": place["first_row"] + len(buffer), "used": 0}
            count = place["first_row"]
            if not count:  # more workers than shards: this worker has none, and `check_shares` counted the others' rows
                return
            if not is_kept:
                raise ValueError(f"none of {count} streamed rows can be trained on: see {self.report}")
            place |= {"epoch": place["epoch"] + 1, "rows": None, "first_row": 0}

    def _rows_from(self, place: dict) -> Iterator[dict]:
        """Return an iterator over the rows of an epoch, from the current buffer."""
        self.rows.set_epoch(place["epoch"])
        self.rows.load_state_dict(place["rows"])
        return iter(self.rows)

    def _batches(
        self, buffer: list[dict], *, epoch: int, first_row: int, used: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of a buffer except for the first `used` ones."""
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
        usable = [buffer[i] for i in inspection.kept]
        dataset = SpeechDataset(
            usable,
            processor=self.processor,
            augment=self.augment,
            pad_to_labels=self.pad_to_labels,
            labels=inspection.labels,
            phonemes=self.encode_phonemes and self.encode_phonemes(usable),
        )
        durations = longest_durations(inspection.durations, self.augment)
        if self.concatenation is not None:
            seed = self.seed + first_row  # each buffer draws its own
            dataset = ConcatenatedDataset(dataset, self.concatenation, durations=durations, seed=seed)
            durations = dataset.durations
        sampler = DurationBatchSampler(durations, max_batch_seconds=self.max_batch_seconds, seed=self.seed)
        sampler.set_epoch(epoch)
        for batch in itertools.islice(sampler, used, None):
            yield self.collate([dataset[key] for key in batch])
