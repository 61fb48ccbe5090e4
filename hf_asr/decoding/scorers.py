"""What adds to the scores of a beam search's hypotheses while they grow: language models and hotwords."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch


class Scorer(Protocol):
    """Adds to the score of a hypothesis for each of its tokens, and at the end of the recording.

    A hypothesis has a state of D numbers: all that the scorer knows of its tokens. Each method is a few operations of
    torch on the device of `states`, without a loop over hypotheses or tokens, because `step` is called in each frame.
    """

    def start(self) -> torch.Tensor:
        """Return the state of an empty hypothesis, int64 (D,)."""

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what each token adds to a hypothesis, and the state after it.

        Args:
            states: Of M hypotheses, int64 (M, D).
            tokens: K token ids for each hypothesis, int64 (M, K).

        Returns:
            Natural logarithms, already weighted, float32 (M, K), and states, int64 (M, K, D).
        """

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """Return what the end of the recording adds to hypotheses with these states (M, D), float32 (M,)."""


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """A scorer whose constants are tensors, also those of inner dataclasses, which are copied to each device once."""

    _copies: dict[torch.device, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def on(self, device: torch.device) -> Self:
        """Return the scorer with its tensors on a device."""
        if device not in self._copies:
            self._copies[device] = _moved(self, device)
        return self._copies[device]


def _moved(value: Any, device: torch.device) -> Any:
    """Return a dataclass with its tensors on a device, also those of inner dataclasses; itself if they are there."""
    changed = {}
    for item in dataclasses.fields(value):
        inner = getattr(value, item.name)
        if isinstance(inner, torch.Tensor):
            changed[item.name] = inner.to(device)
        elif dataclasses.is_dataclass(inner):
            changed[item.name] = _moved(inner, device)
    is_there = all(getattr(value, name) is inner for name, inner in changed.items())
    return value if is_there else dataclasses.replace(value, **changed)
