"""Find the largest batch that fits into the memory of the GPU."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..files import write_text
from .devices import is_out_of_memory, keep_random_state
from .run_folder import BATCH_SECONDS
from .trainer import ConformerTrainer

logger = logging.getLogger("hf_asr")


def largest_batch(
    trainer: ConformerTrainer, durations: Sequence[float], folder: Path, *, resume_from: Path | None
) -> float:
    """Return the largest `max_batch_seconds` that fits on every process.

    The result is written into `folder`; a resumed run reads it from there instead of searching again.

    Args:
        durations: Maximum duration of each training utterance after augmentation, in seconds.

    Raises:
        ValueError: The weights are sharded (FSDP, DeepSpeed), or not even the longest utterance fits.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError("find_batch_seconds runs before the weights are sharded: choose max_batch_seconds yourself")
    path = folder / BATCH_SECONDS
    if resume_from is not None and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = find_batch_seconds(trial_step(trainer, durations), longest=max(durations))
    found = trainer.accelerator.gather(torch.tensor([found], device=trainer.args.device)).min().item()
    if trainer.is_world_process_zero():
        write_text(path, json.dumps(found))
    logger.info(f"max_batch_seconds: {found:.0f} is the largest that fits")
    return found


def trial_step(trainer: ConformerTrainer, durations: Sequence[float]) -> Callable[[float], None]:
    """Return a function that runs forward and backward on a batch of the longest utterances, of that many seconds."""
    order, rate = np.argsort(durations)[::-1], trainer.processing_class.feature_extractor.sampling_rate

    def run(seconds: float) -> None:
        count = max(1, int(seconds // durations[order[0]]))
        examples = []
        for place in np.resize(order, count).tolist():
            example = trainer.train_dataset[(0, place)]
            # Augmentation is random: use the longest waveform that it can return.
            waveform = np.resize(example["waveform"], round(durations[place] * rate))
            examples.append(example | {"waveform": waveform})
        with keep_random_state(trainer.args.device):
            batch = trainer.data_collator(examples)
            with trainer.accelerator.autocast():  # Trainer wraps the model in it only when training starts
                trainer.training_step(trainer.model, batch, num_items_in_batch=(batch["labels"] >= 0).sum())
        trainer.model.zero_grad()

    return run


def find_batch_seconds(
    try_batch: Callable[[float], None], *, longest: float, limit: float = 3600.0, margin: float = 0.9
) -> float:
    """Return the largest `max_batch_seconds` whose batch fits: doubled until it fails, then bisected to 5 %.

    Args:
        try_batch: Runs a step on a batch of that many seconds; raises an out-of-memory error if it does not fit.
        longest: Seconds of the longest utterance; a batch of one such utterance has to fit.
        limit: Most seconds to try.
        margin: Factor on the result, because other batches fragment the memory differently.

    Raises:
        ValueError: Not even the longest utterance fits.
    """

    def fits(seconds: float) -> bool:
        try:
            try_batch(seconds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
        return True

    if not fits(longest):
        raise ValueError(
            f"a batch of one utterance of {longest:.1f} s does not fit: lower max_duration_seconds, or set "
            "gradient_checkpointing to true"
        )
    good, bad = longest, 2 * longest
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit)
    while bad / good > 1.05:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return max(longest, margin * good)
