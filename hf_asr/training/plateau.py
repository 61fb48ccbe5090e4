"""Recognise CTC's plateau, where a model ignores the audio: most frames are blanks, and the loss does not fall.

The loss of the best model that ignores the audio, `constant_loss`, is the plateau (see `prior.py`). The loss is well
below it only when the model has begun to recognise speech.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback
from transformers.trainer_callback import ExportableState

from ..families import output_mask
from ..model.losses_conformer import ctc_loss
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments

logger = logging.getLogger("hf_asr")

LEFT_PLATEAU = 0.85  # the plateau is left when the mean loss is below this share of `constant_loss`
# Optimiser steps; a prime number, because with a constant share of synthetic batches every tenth may be synthetic
MEASURED_EVERY = 11
NUM_MEASUREMENTS = 10  # whose mean decides
# Options of the configuration that `regularization_start` delays
REGULARIZERS = ("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop", "apply_spec_augment")
REGULARIZERS += ("consistency_weight", "delay_penalty")


class Plateau(TrainerCallback, ExportableState):
    """Measure the batches of training until the plateau is left, and log whether it is.

    The trainer adds `measure_batch` of each micro-batch of every `MEASURED_EVERY`th optimiser step. The measurements
    are part of each checkpoint, so that a resumed run decides like an uninterrupted one.

    Args:
        constant_loss: Loss per token of the best model that ignores the audio.
        remedies: What helps, and is not in use, for the warning.

    Attributes:
        measurements: Loss per token and share of blanks of the last `NUM_MEASUREMENTS` measured steps.
        left_at: Optimiser step at which the plateau was left; None before.
    """

    def __init__(self, constant_loss: float, *, remedies: Sequence[str] = ()):
        self.constant_loss, self.remedies = constant_loss, remedies
        self.measurements: list[tuple[float, float]] = []
        self.left_at: int | None = None
        self._sums: torch.Tensor | None = None

    def state(self) -> dict:
        attributes = {"measurements": list(self.measurements), "left_at": self.left_at}
        return {"args": {"constant_loss": self.constant_loss}, "attributes": attributes}

    def on_train_begin(self, args, state, control, **kwargs):
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        self.measurements, self.left_at = list(stored["measurements"]), stored["left_at"]

    def measures(self, step: int) -> bool:
        """Return whether the micro-batches of this optimiser step, counted from 1, are to be added."""
        return self.left_at is None and step % MEASURED_EVERY == 0

    def add(self, sums: torch.Tensor) -> None:
        """Add the sums that `measure_batch` returned for a micro-batch."""
        self._sums = sums if self._sums is None else self._sums + sums

    def on_step_end(self, args, state, control, **kwargs):
        if self._sums is None:
            return
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._sums)  # all processes get the same sums, and decide alike
        loss, tokens, blanks, frames = self._sums.tolist()
        self._sums = None
        self.measurements.append((loss / max(tokens, 1), blanks / max(frames, 1)))
        del self.measurements[:-NUM_MEASUREMENTS]
        loss, _ = self._means()
        if self._is_full() and loss < LEFT_PLATEAU * self.constant_loss:
            self.left_at = state.global_step
            state.stateful_callbacks[type(self).__name__] = self.state()  # where other callbacks find it
            logger.info(f"step {state.global_step}: off CTC's plateau: {self._compared()}")

    def on_evaluate(self, args, state, control, **kwargs):
        is_warm = state.global_step >= args.get_warmup_steps(state.max_steps)
        if state.is_world_process_zero and self.left_at is None and self._is_full() and is_warm:
            advice = f". What helps: {'; '.join(self.remedies)}" if self.remedies else ""
            blanks = f"{self._means()[1]:.0%} of the frames are blanks"
            logger.warning(
                f"step {state.global_step}: still on CTC's plateau: {blanks}, and {self._compared()}. "
                f"More steps may not help{advice}"
            )

    def _is_full(self) -> bool:
        return len(self.measurements) == NUM_MEASUREMENTS

    def _means(self) -> tuple[float, float]:
        """Return the means of the loss per token and of the share of blanks."""
        losses, blanks = zip(*self.measurements, strict=True)
        return sum(losses) / len(losses), sum(blanks) / len(blanks)

    def _compared(self) -> str:
        return (
            f"the loss is {self._means()[0]:.2f} per token, where the frequencies of the tokens alone give "
            f"{self.constant_loss:.2f}"
        )


@torch.no_grad()
def measure_batch(
    model: PreTrainedModel, logits: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return four sums over a batch: the CTC loss without smoothing, tokens, frames whose best token is blank, frames.

    Args:
        logits: (batch, frames, vocabulary).
        attention_mask: Mask of the inputs, (batch, frames or samples).
        labels: (batch, tokens), padded with -100.
    """
    blank, mask = model.config.pad_token_id, output_mask(model, attention_mask, frames=logits.shape[1])
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss = ctc_loss(log_probs, mask.sum(-1), labels, blank=blank)
    blanks = (log_probs.argmax(-1) == blank) & mask
    return torch.stack([loss, (labels >= 0).sum(), blanks.sum(), mask.sum()])


def remedies(
    config: PreTrainedConfig, model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments
) -> list[str]:
    """Return what helps a model off the plateau and is not in use in this run."""
    found, is_new = [], model_args.model_name_or_path is None
    layers = getattr(config, "num_hidden_layers", 0)
    if is_new and layers > 3 and not config.intermediate_ctc_layers:
        found.append(f"model: {{intermediate_ctc_layers: {list(range(3, layers, 3))}}}")
    if data_args.warm_start is None and not data_args.streaming:
        found.append("warm_start (synthetic speech of your transcripts)")
    if is_new:
        found.append("a checkpoint of another language (--model_name_or_path)")
    is_regularized = args.label_smoothing_factor or any(getattr(config, name, 0) for name in REGULARIZERS)
    if is_new and is_regularized and args.regularization_start != "plateau":
        found.append("regularization_start: plateau")
    return found
