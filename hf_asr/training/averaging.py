"""Means of weights over training: a moving average, and the mean of several checkpoints."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from ..files import WEIGHTS

AVERAGE_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Exponential moving average of a model's weights in float32, updated after each optimiser step.

    The decay starts small and grows to `decay`, (1 + step) / (10 + step), so that the random weights of the beginning
    are forgotten. Buffers of floats are averaged as well: batch norm's mean and variance belong to weights of the same
    age, and the average is older than the model. Integers (batch norm's count of batches) stay the model's.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        self.model, self.decay = model, decay
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.restart()

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The model's, by name; looked up anew, since a model that several processes train has other buffers then."""
        return self.parameters | float_buffers(self.model)

    def restart(self) -> None:
        """Begins with the weights as they are."""
        self.mean = {name: value.detach().float().clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        now = [value.detach().float() for value in self.weights.values()]
        torch._foreach_lerp_(list(self.mean.values()), now, 1 - decay)

    def on_train_end(self, args, state, control, **kwargs):
        """The result is the average too where no checkpoint was the best, of a run without evaluations for instance."""
        if not args.load_best_model_at_end or state.best_model_checkpoint is None:
            self.copy_to_model()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again after."""
        own = {name: value.detach().clone() for name, value in self.weights.items()}
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
        for name, value in self.weights.items():
            value.copy_(values[name])

    def save(self, folder: str | Path) -> None:
        """Writes average.safetensors into a checkpoint."""
        save_file({name: value.contiguous().cpu() for name, value in self.mean.items()}, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> bool:
        """Takes the average of a checkpoint, if it has one; buffers that an older version left out are the model's."""
        if not (Path(folder) / AVERAGE_FILE).is_file():
            return False
        stored = load_file(Path(folder) / AVERAGE_FILE)
        self.restart()
        for name, value in self.mean.items():
            if name in stored or name in self.parameters:
                value.copy_(stored[name])
        return True


def float_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers of floats that a checkpoint keeps, by name."""
    kept = model.state_dict(keep_vars=True)
    return {name: value for name, value in model.named_buffers() if name in kept and value.is_floating_point()}


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers, which are those that are saved.

    Each has its own statistics of batch norm until the next step, where DistributedDataParallel does the same.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        for value in float_buffers(model).values():
            torch.distributed.broadcast(value, src=0)


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint that were scored: its moving average where it has one, in the types stored."""
    weights = load_file(Path(folder) / WEIGHTS)
    if not (Path(folder) / AVERAGE_FILE).is_file():
        return weights
    average = load_file(Path(folder) / AVERAGE_FILE)
    # Hub checkpoints of wav2vec2 are stored under the names that torch's weight norm had before.
    names = {_parametrized(name): name for name in weights if _parametrized(name) in average}
    average = {names.get(name, name): value for name, value in average.items()}
    return {name: average[name].to(value.dtype) if name in average else value for name, value in weights.items()}


def mean_of_checkpoints(folders: Sequence[str | Path]) -> dict[str, torch.Tensor]:
    """Mean of each weight over checkpoints, their moving averages where they have them; in float64, then as stored.

    Integers, which count, are the last one's.
    """
    total: dict[str, torch.Tensor] = {}
    for folder in folders:
        weights = weights_of(folder)
        for name, value in weights.items():
            is_mean = name in total and value.is_floating_point()
            total[name] = total[name] + value.double() if is_mean else value.double()
    return {
        name: (total[name] / len(folders) if value.is_floating_point() else total[name]).to(value.dtype)
        for name, value in weights.items()
    }


def _parametrized(name: str) -> str:
    return re.sub(r"weight_([gv])$", lambda match: f"parametrizations.weight.original{'gv'.index(match[1])}", name)
