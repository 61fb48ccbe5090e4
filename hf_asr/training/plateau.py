"""Recognise CTC's plateau, where a model ignores the audio: most frames are blanks, and the loss does not fall.

A model from scratch first learns how frequent the blank and the tokens are. The loss of this knowledge alone,
`constant_loss`, is the plateau. The loss is well below it only when the model has begun to recognise speech.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback
from transformers.trainer_callback import ExportableState

from ..families import ctc_frames, output_mask, samples_per_frame
from ..model.losses_conformer import ctc_loss
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments

logger = logging.getLogger("hf_asr")

LEFT_PLATEAU = 0.85  # the plateau is left when the mean loss is below this share of `constant_loss`
# Optimiser steps; a prime number, because with a constant share of synthetic batches every tenth may be synthetic
MEASURED_EVERY = 11
NUM_MEASUREMENTS = 10  # whose mean decides
# Options of the configuration that `regularization_start` delays
REGULARIZERS = ("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop", "apply_spec_augment")
REGULARIZERS += ("consistency_weight",)


class Plateau(TrainerCallback, ExportableState):
    """Measure the batches of training until the plateau is left, and log whether it is.

    The trainer adds `measure_batch` of each micro-batch of every `MEASURED_EVERY`th optimiser step. The measurements
    are part of each checkpoint, so that a resumed run decides like an uninterrupted one.

    Args:
        constant_loss: See the function of this name.
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


def constant_loss(frames: Sequence[int], labels: Sequence[Sequence[int]], *, max_utterances: int = 20) -> float:
    """Return the CTC loss per token of the best model that ignores the audio.

    This model gives every frame the same distribution: the blank has the probability that minimises the loss, and the
    tokens share the rest in proportion to their frequencies in all labels. The loss is computed over a sample of at
    most `max_utterances`, evenly spaced.

    Args:
        frames: Frames of logits of each utterance.
        labels: Token ids of each utterance, without blanks; at least one token in all.
    """
    counts = Counter(itertools.chain.from_iterable(labels))
    chosen = range(0, len(labels), -(-len(labels) // max_utterances))
    sample = [labels[i] for i in chosen]
    lengths = torch.tensor([max(frames[i], ctc_frames(labels[i])) for i in chosen])
    # Only the tokens of the sample need a place in the vocabulary, which makes it small. The blank is 0.
    places = {token: place for place, token in enumerate(set(itertools.chain.from_iterable(sample)), start=1)}
    frequencies = torch.tensor([counts[token] for token in places], dtype=torch.float64) / counts.total()
    targets = [torch.tensor([places[token] for token in ids], dtype=torch.long) for ids in sample]
    padded = pad_sequence(targets, batch_first=True, padding_value=-100)

    def loss(blank: float) -> float:
        log_probs = torch.cat([torch.tensor([blank], dtype=torch.float64), (1 - blank) * frequencies]).log()
        log_probs = log_probs.expand(len(sample), int(lengths.max()), -1)
        return (ctc_loss(log_probs, lengths, padded, blank=0) / (padded >= 0).sum()).item()

    low, high, points = 0.0, 1.0, 10
    for _ in range(4):  # each grid is (points + 1) / 2 times finer than the previous one
        step = (high - low) / (points + 1)
        best = min((low + step * place for place in range(1, points + 1)), key=loss)
        low, high = best - step, best + step
    return loss(best)


def frames_of(durations: Sequence[float], *, sampling_rate: int, config: PreTrainedConfig) -> list[int]:
    """Return about how many frames of logits recordings of these seconds have."""
    return [int(seconds * sampling_rate / samples_per_frame(config)) for seconds in durations]


def remedies(
    config: PreTrainedConfig, model_args: ModelArguments, data_args: DataArguments, args: ConformerTrainingArguments
) -> list[str]:
    """Return what helps a model off the plateau and is not in use in this run."""
    found, is_new = [], model_args.model_name_or_path is None
    layers = getattr(config, "num_hidden_layers", 0)
    if is_new and layers > 1 and not config.intermediate_ctc_layers:
        lower = sorted({max(1, layers // 4), layers // 2})
        found.append(f"model: {{intermediate_ctc_layers: {lower}}}")
    if data_args.warm_start is None and not data_args.streaming:
        found.append("warm_start (synthetic speech of your transcripts)")
    if is_new:
        found.append("a checkpoint of another language (--model_name_or_path)")
    is_regularized = args.label_smoothing_factor or any(getattr(config, name, 0) for name in REGULARIZERS)
    if is_new and is_regularized and args.regularization_start != "plateau":
        found.append("regularization_start: plateau")
    return found
