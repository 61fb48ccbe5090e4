"""The decoders of log-probabilities: what a decoder is, and the one that the arguments name.

A new decoder is a class in a file of its own beside `greedy.py`, and a name in `DECODERS`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..model import ConformerForCTC
from .attention import AttentionDecoder
from .beam import BeamDecoder
from .greedy import GreedyDecoder
from .hotwords import Hotword, HotwordCompiler
from .rescoring import RescoringDecoder
from .scorers import Scorer
from .token_texts import token_texts
from .transcript import Hypothesis

DECODERS = ("greedy", "beam", "attention_rescoring", "attention")
ATTENTION = DECODERS[2:]  # these need a checkpoint with an attention decoder


class Decoder(Protocol):
    """Turns log-probabilities into hypotheses.

    A recording comes as one window or more, all at once or as live audio. `keep` reduces the log-probabilities of a
    window to what the decoder needs of them, so that no frames × vocabulary values stay in memory. `advance` decodes
    one more window of each recording of a batch, whatever came before it.
    """

    name: str
    needs_states: bool

    def keep(self, log_probs: torch.Tensor, states: torch.Tensor | None = None) -> Any:
        """Return what is needed of a window.

        Args:
            log_probs: (frames, vocabulary).
            states: Of the encoder, (frames, hidden_size), if `needs_states`. Frames that were not encoded have none.
        """

    def begin(self, hotwords: Iterable[Hotword] | None = None) -> Any:
        """Return the search of a recording that begins.

        Raises:
            ValueError: There are hotwords, and the decoder takes none.
        """

    def advance(self, searches: Sequence[Any], kept: Sequence[Any]) -> None:
        """Decode one more window of each recording, in place."""

    def finish(self, searches: Sequence[Any], *, is_partial: bool = False) -> list[list[Hypothesis]]:
        """Return the hypotheses of each recording so far, the best one first; the searches can go on.

        Args:
            is_partial: The text is shown while the recordings go on, so a second pass is not needed.
        """


def build_decoder(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    *,
    beam_size: int = 10,
    blank_penalty: float = 0.0,
    scorers: Sequence[Scorer] = (),
    ctc_weight: float = 0.5,
    reverse_weight: float | None = None,
    seconds_per_frame: float = 0.04,
) -> Decoder:
    """Return the decoder of this name for a model and its tokenizer; greedy decoding has no options.

    Args:
        reverse_weight: That of the model's configuration if None.

    Raises:
        ValueError: The decoder needs an attention decoder, which the model lacks.
    """
    blank, vocab_size = tokenizer.pad_token_id, len(token_texts(tokenizer))
    if name == "greedy":
        return GreedyDecoder(blank, vocab_size)
    if name in ATTENTION and not (isinstance(model, ConformerForCTC) and model.config.decoder_layers):
        raise ValueError(
            f"{name} needs a checkpoint of our Conformer with an attention decoder: train one with decoder_layers, or "
            "choose --decoding beam"
        )
    if name == "attention":
        return AttentionDecoder(blank, model, seconds_per_frame, beam_size=beam_size, vocab_size=vocab_size)
    options = {"beam_size": beam_size, "blank_penalty": blank_penalty, "scorers": scorers, "vocab_size": vocab_size}
    beam = BeamDecoder(blank, **options, compiler=HotwordCompiler(tokenizer))
    if name == "beam":
        return beam
    if not model.config.reverse_decoder_layers:
        if reverse_weight:
            raise ValueError(f"reverse_weight is {reverse_weight:g}, but the checkpoint has no right-to-left decoder")
        reverse_weight = 0.0
    elif reverse_weight is None:
        reverse_weight = model.config.reverse_weight
    beam = replace(beam, nbest=beam_size)
    return RescoringDecoder(beam, model, seconds_per_frame, ctc_weight=ctc_weight, reverse_weight=reverse_weight)
