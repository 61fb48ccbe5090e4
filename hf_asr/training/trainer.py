"""transformers' Trainer over batches bounded by seconds, scored by CER."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerCallback

from ..data.batching import DurationBatchSampler
from ..data.streaming import StreamedBatches
from ..model.tokenization_conformer import ConformerTokenizer
from ..scoring.metrics import error_rates


class _SetEpoch(TrainerCallback):
    """Trainer tells the epoch to accelerate's data loaders only, and ours is a plain one."""

    def __init__(self, sampler: DurationBatchSampler, updates_per_epoch: int):
        self.sampler, self.updates_per_epoch = sampler, updates_per_epoch

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(state.global_step // self.updates_per_epoch)


class ConformerTrainer(Trainer):
    """
    Args:
        train_durations: Seconds of each training utterance.
    """

    def __init__(self, *args, train_durations: Sequence[float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.train_durations = train_durations

    def get_train_dataloader(self) -> DataLoader:
        """Already split over the ranks, so accelerate does not prepare it: it would shard, repeat or drop batches."""
        workers = self.args.dataloader_num_workers
        options = {
            "num_workers": workers,
            "persistent_workers": workers > 0 and self.args.dataloader_persistent_workers,
            "prefetch_factor": 4 if workers else None,
            "pin_memory": self.args.dataloader_pin_memory and torch.cuda.is_available(),
            "worker_init_fn": _one_thread,
        }
        if isinstance(self.train_dataset, StreamedBatches):
            return DataLoader(self.train_dataset, batch_size=None, **options)
        sampler = DurationBatchSampler(
            self.train_durations,
            max_batch_seconds=self.args.max_batch_seconds,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            num_replicas=self.args.world_size,
            rank=self.args.process_index,
        )
        updates_per_epoch = -(-len(sampler) // self.args.gradient_accumulation_steps)
        self.remove_callback(_SetEpoch)
        self.add_callback(_SetEpoch(sampler, updates_per_epoch))
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator, **options)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # workers share the cores with the training process


def best_path(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`preprocess_logits_for_metrics`: keeps (batch, frames') ids, not (batch, frames', vocab) logits."""
    return logits.argmax(-1)


def decode_paths(tokenizer: ConformerTokenizer, paths: np.ndarray) -> list[str]:
    """Normalised transcripts of best paths (utterances, frames'), padded with -100."""
    return [tokenizer.normalize(tokenizer.decode(path.tolist())) for path in paths]


def scorer(tokenizer: ConformerTokenizer, references: list[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` against the normalised transcripts themselves, never against decoded label ids."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        rates = error_rates(references, decode_paths(tokenizer, prediction.predictions))
        return {"cer": rates["cer"], "wer": rates["wer"]}

    return compute_metrics
