"""What adds to the scores of a beam search's hypotheses while they grow: language models and hotwords."""

from typing import Protocol

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
