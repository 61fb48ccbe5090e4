"""Means of weights over training: a moving average, and the mean of several checkpoints."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

AVERAGE_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Exponential moving average of a model's parameters in float32, updated after each optimiser step.

    The decay starts small and grows to `decay`, (1 + step) / (10 + step), so that the random weights of the beginning
    are forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        self.decay = decay
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.restart()

    def restart(self) -> None:
        """Begins with the weights as they are."""
        self.mean = {name: value.detach().float().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        now = [value.detach().float() for value in self.parameters.values()]
        torch._foreach_lerp_(list(self.mean.values()), now, 1 - decay)

    def on_train_end(self, args, state, control, **kwargs):
        """The result of a run without evaluations is the average, too."""
        if not args.load_best_model_at_end:
            self.copy_to_model()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again after."""
        own = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            self._write(own)

    def copy_to_model(self) -> None:
        """Puts the average into the model."""
        self._write(self.mean)

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def save(self, folder: str | Path) -> None:
        """Writes average.safetensors into a checkpoint."""
        save_file({name: value.contiguous().cpu() for name, value in self.mean.items()}, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> bool:
        """Takes the average of a checkpoint, if it has one."""
        if not (Path(folder) / AVERAGE_FILE).is_file():
            return False
        stored = load_file(Path(folder) / AVERAGE_FILE)
        for name, value in self.mean.items():
            value.copy_(stored[name])
        return True


def mean_of_checkpoints(folders: Sequence[str | Path]) -> dict[str, torch.Tensor]:
    """Mean of each weight over checkpoints, their moving averages where they have them; in float64, then as stored."""
    total: dict[str, torch.Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for folder in map(Path, folders):
        weights = load_file(folder / "model.safetensors")
        kinds = {name: value.dtype for name, value in weights.items()}
        if (folder / AVERAGE_FILE).is_file():
            average = load_file(folder / AVERAGE_FILE)
            # Hub checkpoints of wav2vec2 are stored under the names that torch's weight norm had before.
            renamed = {_parametrized(name): name for name in weights if _parametrized(name) in average}
            weights |= {renamed.get(name, name): value for name, value in average.items()}
        for name, value in weights.items():
            total[name] = total[name] + value.double() if name in total else value.double()
    return {name: (value / len(folders)).to(kinds[name]) for name, value in total.items()}


def _parametrized(name: str) -> str:
    return re.sub(r"weight_([gv])$", lambda match: f"parametrizations.weight.original{'gv'.index(match[1])}", name)
