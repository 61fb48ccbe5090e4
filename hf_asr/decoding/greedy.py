"""Decode greedily: the most probable token of each frame, repetitions and blanks removed (Graves et al. 2006)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .hotwords import Hotword
from .joining import append_joined
from .transcript import Hypothesis, from_path


@dataclass(frozen=True)
class BestTokens:
    """The most probable token of each frame of consecutive windows and its log-probability, (frames,) each."""

    tokens: np.ndarray
    log_probs: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class GreedyDecoder:
    """Greedy search.

    Args:
        blank: Token id of CTC's blank.
        vocab_size: Of the tokenizer. A model may have more tokens, to which its vocabulary is padded; they are never
            written. None for all of the model's.
    """

    blank: int
    vocab_size: int | None = None
    name: str = "greedy"
    needs_states: bool = False

    def keep(self, log_probs: torch.Tensor, states: torch.Tensor | None = None) -> BestTokens:
        """Return the most probable token of each frame of log-probabilities (frames, vocabulary)."""
        log_probs = log_probs[:, : self.vocab_size]
        if log_probs.device.type != "cpu":
            values, tokens = log_probs.max(-1)  # (frames,) each
            return BestTokens(tokens.cpu().numpy(), values.float().cpu().numpy())
        array = log_probs.float().numpy()  # torch's maximum along the last dimension is ten times slower than numpy's
        tokens = array.argmax(-1)
        return BestTokens(tokens, np.take_along_axis(array, tokens[:, None], -1)[:, 0])

    def begin(self, hotwords: Iterable[Hotword] | None = None) -> list[BestTokens]:
        """Begin a recording, whose search is its windows in few parts.

        Raises:
            ValueError: There are hotwords, which only a beam search can use.
        """
        if hotwords:
            raise ValueError("greedy decoding does not use hotwords: choose --decoding beam")
        return []

    def advance(self, searches: Sequence[list[BestTokens]], kept: Sequence[BestTokens]) -> None:
        """Add one more window to each recording, in place."""
        for search, window in zip(searches, kept, strict=True):
            append_joined(search, window, join=joined_tokens)

    def finish(self, searches: Sequence[list[BestTokens]], *, is_partial: bool = False) -> list[list[Hypothesis]]:
        """Return the one hypothesis of each recording so far; the searches can go on."""
        return [[self._hypothesis(windows)] for windows in searches]

    def _hypothesis(self, windows: Sequence[BestTokens]) -> Hypothesis:
        best = joined_tokens([BestTokens(np.zeros(0, np.int64), np.zeros(0, np.float32)), *windows])
        return from_path(best.tokens, best.log_probs, blank=self.blank)


def joined_tokens(windows: Sequence[BestTokens]) -> BestTokens:
    """Return consecutive windows as one."""
    parts = zip(*((window.tokens, window.log_probs) for window in windows), strict=True)
    return BestTokens(*map(np.concatenate, parts))
