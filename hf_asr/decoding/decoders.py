"""The decoders of log-probabilities: what a decoder is, and the one that the arguments name.

A new decoder is a class in a file of its own beside `greedy.py`, and a name in `DECODERS`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from .beam import BeamDecoder
from .greedy import GreedyDecoder
from .hotwords import Hotword, HotwordCompiler
from .scorers import Scorer
from .transcript import Hypothesis

DECODERS = ("greedy", "beam")


class Decoder(Protocol):
    """Turns log-probabilities into hypotheses.

    A recording comes as one window or more, all at once or as live audio. `keep` reduces the log-probabilities of a
    window to what the decoder needs of them, so that no frames × vocabulary values stay in memory. `advance` decodes
    one more window of each recording of a batch, whatever came before it.
    """

    name: str

    def keep(self, log_probs: torch.Tensor) -> Any:
        """Return what is needed of a window's log-probabilities (frames, vocabulary)."""

    def begin(self, hotwords: Iterable[Hotword] | None = None) -> Any:
        """Return the search of a recording that begins.

        Raises:
            ValueError: There are hotwords, and the decoder takes none.
        """

    def advance(self, searches: Sequence[Any], kept: Sequence[Any]) -> None:
        """Decode one more window of each recording, in place."""

    def finish(self, searches: Sequence[Any]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each recording so far, the best one first; the searches can go on."""


def build_decoder(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    beam_size: int = 10,
    blank_penalty: float = 0.0,
    scorers: Sequence[Scorer] = (),
) -> Decoder:
    """Return the decoder of this name for a tokenizer's vocabulary; greedy decoding has no options."""
    blank = tokenizer.pad_token_id
    if name == "greedy":
        return GreedyDecoder(blank)
    options = {"beam_size": beam_size, "blank_penalty": blank_penalty, "scorers": scorers}
    return BeamDecoder(blank, **options, compiler=HotwordCompiler(tokenizer))
