"""Decode greedily: the most probable token of each frame, repetitions and blanks removed (Graves et al. 2006)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .transcript import Hypothesis


@dataclass(frozen=True)
class BestTokens:
    """The most probable token of each frame of a window and its log-probability, (frames,) each."""

    tokens: np.ndarray
    log_probs: np.ndarray


@dataclass(frozen=True)
class GreedyDecoder:
    """`blank` is the token id of CTC's blank."""

    blank: int
    name: str = "greedy"

    def keep(self, log_probs: torch.Tensor) -> BestTokens:
        """Return the most probable token of each frame of log-probabilities (frames, vocabulary)."""
        if log_probs.device.type != "cpu":
            values, tokens = log_probs.max(-1)  # (frames,) each
            return BestTokens(tokens.cpu().numpy(), values.float().cpu().numpy())
        array = log_probs.float().numpy()  # torch's maximum along the last dimension is ten times slower than numpy's
        tokens = array.argmax(-1)
        return BestTokens(tokens, np.take_along_axis(array, tokens[:, None], -1)[:, 0])

    def finish(self, states: Sequence[BestTokens]) -> list[Hypothesis]:
        """Return the one hypothesis of the windows of a recording."""
        path = np.concatenate([state.tokens for state in states]).tolist() if states else []
        log_probs = np.concatenate([state.log_probs for state in states]) if states else np.zeros(0, np.float32)
        tokens, frames, place = [], [], 0
        for token, run in itertools.groupby(path):
            length = len(list(run))
            if token != self.blank:
                tokens.append(token)
                frames.append((place, place + length))
            place += length
        return [Hypothesis(tokens, frames, float(log_probs.sum()), np.exp(log_probs))]
