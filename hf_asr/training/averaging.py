"""Average weights over training: an exponential moving average, and the mean of several checkpoints."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from ..families import parametrized_name
from ..files import WEIGHTS

AVERAGE_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Exponential moving average of a model's weights in float32, updated after each optimiser step.

    The decay is min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage, so that the random
    weights of the first steps are forgotten. Float buffers are averaged too, because batch norm's mean and variance
    must match the averaged weights. Integer buffers (batch norm's number of batches) are those of the model.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        self.model, self.decay = model, decay
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.restart()

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Return the model's parameters and buffers by name; not cached, as distributed training replaces buffers."""
        return self.parameters | float_buffers(self.model)

    def restart(self) -> None:
        """Start a new average with the current weights."""
        self.mean = {name: value.detach().float().clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        now = [value.detach().float() for value in self.weights.values()]
        torch._foreach_lerp_(list(self.mean.values()), now, 1 - decay)

    def on_train_end(self, args, state, control, **kwargs):
        """Use the average as the result if no best checkpoint is loaded, for example in a run without evaluations."""
        if not args.load_best_model_at_end or state.best_model_checkpoint is None:
            self.copy_to_model()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the model's weights by the average inside the context."""
        own = {name: value.detach().clone() for name, value in self.weights.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            self._write(own)

    def copy_to_model(self) -> None:
        """Copy the average into the model."""
        self._write(self.mean)

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in self.weights.items():
            value.copy_(values[name])

    def save(self, folder: str | Path) -> None:
        """Write average.safetensors into a checkpoint."""
        save_file({name: value.contiguous().cpu() for name, value in self.mean.items()}, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> bool:
        """Load the average of a checkpoint and return whether it has one.

        Older versions did not save buffers: these are then the model's.
        """
        if not (Path(folder) / AVERAGE_FILE).is_file():
            return False
        stored = load_file(Path(folder) / AVERAGE_FILE)
        self.restart()
        for name, value in self.mean.items():
            if name in stored or name in self.parameters:
                value.copy_(stored[name])
        return True


def float_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the float buffers that are saved in a checkpoint, by name."""
    kept = model.state_dict(keep_vars=True)
    return {name: value for name, value in model.named_buffers() if name in kept and value.is_floating_point()}


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of the first process, which saves them, to all processes.

    Each process has its own batch norm statistics until DistributedDataParallel does the same in the next step.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        for value in float_buffers(model).values():
            torch.distributed.broadcast(value, src=0)


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint that were scored: the moving average if it has one, in the stored dtypes."""
    weights = load_file(Path(folder) / WEIGHTS)
    if not (Path(folder) / AVERAGE_FILE).is_file():
        return weights
    average = load_file(Path(folder) / AVERAGE_FILE)
    names = {parametrized_name(name): name for name in weights if parametrized_name(name) in average}
    average = {names.get(name, name): value for name, value in average.items()}
    return {name: average[name].to(value.dtype) if name in average else value for name, value in weights.items()}


def mean_of_checkpoints(folders: Sequence[str | Path]) -> dict[str, torch.Tensor]:
    """Return the mean of each weight over checkpoints, computed in float64, in the stored dtypes.

    Of a checkpoint with a moving average, the average is used. Integers are those of the last checkpoint.
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
