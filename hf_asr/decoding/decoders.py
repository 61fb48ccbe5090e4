"""The decoders of log-probabilities: what a decoder is, and the one that the arguments name.

A new decoder is a class in a file of its own beside `greedy.py`, and an entry in `DECODERS`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from .greedy import GreedyDecoder
from .transcript import Hypothesis


class Decoder(Protocol):
    """Turns log-probabilities into hypotheses.

    A recording comes as one or more windows. `keep` reduces the log-probabilities of a window to what the decoder
    needs of them, so that a long recording does not keep frames × vocabulary values in memory. `finish` decodes the
    windows of one recording together.
    """

    name: str

    def keep(self, log_probs: torch.Tensor) -> Any:
        """Return the state of a window from its log-probabilities (frames, vocabulary)."""

    def finish(self, states: Sequence[Any]) -> list[Hypothesis]:
        """Return the hypotheses of a recording from the states of its windows in their order, the best one first."""


DECODERS: dict[str, type] = {"greedy": GreedyDecoder}


def build_decoder(name: str, tokenizer: PreTrainedTokenizerBase) -> Decoder:
    """Return the decoder of this name for a tokenizer's vocabulary."""
    return DECODERS[name](blank=tokenizer.pad_token_id)
