"""Start dropout, SpecAugment, label smoothing and the consistency loss when they help, instead of at the first step."""

import logging

import torch
from transformers import PreTrainedModel, TrainerCallback

from ..model.layers_conformer import set_regularization
from .plateau import Plateau

logger = logging.getLogger("hf_asr")

LEVELS = 20  # at each of which torch.compile compiles the model again


class ScheduleRegularization(TrainerCallback):
    """Set the strength of a model's regularisation before each optimiser step, see `strength_at`.

    Args:
        start: Number of steps without regularisation, or "plateau": until the plateau is left.
        ramp_steps: Steps from no regularisation to full strength.
    """

    def __init__(self, model: PreTrainedModel, plateau: Plateau, *, start: str, ramp_steps: int):
        self.model, self.plateau, self.start, self.ramp_steps = model, plateau, start, ramp_steps

    def on_train_begin(self, args, state, control, **kwargs):
        if args.torch_compile:  # PyTorch's limit is 8; above it, the model would run without compilation
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 3 * (LEVELS + 1))

    def on_step_begin(self, args, state, control, **kwargs):
        start = self.plateau.left_at if self.start == "plateau" else int(self.start)
        set_regularization(self.model, strength_at(state.global_step, start=start, ramp_steps=self.ramp_steps))
        if state.global_step == start:
            logger.info(f"step {start}: regularisation grows from here to full strength in {self.ramp_steps} steps")

    def on_train_end(self, args, state, control, **kwargs):
        set_regularization(self.model, 1.0)


def strength_at(step: int, *, start: int | None, ramp_steps: int) -> float:
    """Return the strength of the regularisation after `step` optimiser steps, 0 to 1, in `LEVELS` levels.

    It grows linearly from 0 at `start` to 1 at `start + ramp_steps`; with `start` None it is 0.
    """
    if start is None or step < start:
        return 0.0
    if step >= start + ramp_steps:
        return 1.0
    return LEVELS * (step - start) // ramp_steps / LEVELS
