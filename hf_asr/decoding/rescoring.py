"""Decode in two passes: the attention decoder chooses among the hypotheses of a beam search.

This is the attention rescoring of U2 (Zhang et al. 2020, https://arxiv.org/abs/2012.05481), and with a right-to-left
decoder that of U2++ (Wu et al. 2021, https://arxiv.org/abs/2106.05642). Letters in shape comments: N hypotheses, U
tokens, S encoder frames, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..model import ConformerForCTC
from ..model.decoder_conformer import reverse_labels, shift_labels
from .beam import BeamDecoder, BeamSearch, TopTokens
from .hotwords import Hotword, HotwordCompiler
from .segments import SegmentedSearch, ends_segment
from .transcript import Hypothesis

CELLS = 2**25  # greatest size of the logits of a forward of the attention decoder


@dataclass(frozen=True)
class KeptWindow:
    """What the beam search needs of a window, and its encoder states, (S, D)."""

    top: TopTokens
    states: torch.Tensor


@dataclass(eq=False)
class Segment:
    """The beam search of a segment, and the encoder states of its windows, (S, D) each."""

    search: BeamSearch
    states: list[torch.Tensor]


@dataclass(frozen=True)
class RescoringDecoder:
    """Attention rescoring.

    Args:
        beam: Its `nbest` hypotheses of each segment are rescored.
        model: With an attention decoder.
        seconds_per_frame: Of the encoder.
        ctc_weight: Factor of the beam search's score, which is added to the attention decoder's.
        reverse_weight: Share of the right-to-left decoder in the latter, from 0 to 1.
    """

    beam: BeamDecoder
    model: ConformerForCTC
    seconds_per_frame: float
    ctc_weight: float = 0.5
    reverse_weight: float = 0.0
    name: str = "attention_rescoring"
    needs_states: bool = True

    @property
    def compiler(self) -> HotwordCompiler | None:
        """The compiler of the beam search's hotwords."""
        return self.beam.compiler

    def keep(self, log_probs: torch.Tensor, states: torch.Tensor) -> KeptWindow:
        """Return what is needed of log-probabilities (frames, vocabulary) and encoder states (S, D)."""
        return KeptWindow(self.beam.keep(log_probs), states.clone())  # not the memory of a whole batch

    def begin(self, hotwords: Sequence[Hotword] | None = None) -> SegmentedSearch:
        """Begin a recording."""
        return SegmentedSearch(tuple(hotwords or ()))

    def advance(self, searches: Sequence[SegmentedSearch], kept: Sequence[KeptWindow]) -> None:
        """Search one more window of each recording, in place, and end the segments that are long enough."""
        for search, window in zip(searches, kept, strict=True):
            search.segment = search.segment or Segment(self.beam.begin(search.hotwords), [])
            search.segment.states.append(window.states)
            search.frames += len(window.top.blank)
        self.beam.advance([search.segment.search for search in searches], [window.top for window in kept])
        ended = [
            search
            for search, window in zip(searches, kept, strict=True)
            if ends_segment(window.top.blank, frames=search.frames, seconds_per_frame=self.seconds_per_frame)
        ]
        for search, hypotheses in zip(ended, self._rescored(ended), strict=True):
            search.end_segment(hypotheses[0])

    def finish(self, searches: Sequence[SegmentedSearch], *, is_partial: bool = False) -> list[list[Hypothesis]]:
        """Return the hypotheses of each recording so far, the best one first; the searches can go on.

        Args:
            is_partial: The order of the beam search is enough, because the segment goes on.
        """
        for search in searches:
            search.segment = search.segment or Segment(self.beam.begin(search.hotwords), [])
        last = (
            self.beam.finish([search.segment.search for search in searches]) if is_partial else self._rescored(searches)
        )
        return [search.hypotheses(own) for search, own in zip(searches, last, strict=True)]

    @torch.inference_mode()
    def _rescored(self, searches: Sequence[SegmentedSearch]) -> list[list[Hypothesis]]:
        """Return the hypotheses of the segments that go on, with new scores and in their order."""
        segments = [search.segment for search in searches]
        rescored = []
        for segment, found in zip(segments, self.beam.finish([each.search for each in segments]), strict=True):
            scores = [self.ctc_weight * hypothesis.score for hypothesis in found]
            if states := [part for part in segment.states if len(part)]:
                tokens = [hypothesis.tokens for hypothesis in found]
                added = attention_scores(self.model, torch.cat(states), tokens, reverse_weight=self.reverse_weight)
                scores = [score + attention for score, attention in zip(scores, added, strict=True)]
            replaced = [replace(each, score=score) for each, score in zip(found, scores, strict=True)]
            rescored.append(sorted(replaced, key=lambda hypothesis: -hypothesis.score))
        return rescored


@torch.inference_mode()
def attention_scores(
    model: ConformerForCTC,
    states: torch.Tensor,
    hypotheses: Sequence[Sequence[int]],
    *,
    reverse_weight: float = 0.0,
) -> list[float]:
    """Return the log-probabilities that the attention decoder gives to hypotheses of a recording.

    Args:
        states: Of the encoder, (S, D).
        hypotheses: Token ids of each, without blanks.
        reverse_weight: Share of the right-to-left decoder, from 0 to 1.
    """
    rows = [torch.tensor(tokens, dtype=torch.long, device=states.device) for tokens in hypotheses]
    labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)  # (N, U)
    sos_eos, states = model.config.eos_token_id, states.to(model.dtype)
    scores = (1 - reverse_weight) * label_log_probs(model.decoder, states, labels, sos_eos=sos_eos)
    if reverse_weight:
        from_right = label_log_probs(model.reverse_decoder, states, reverse_labels(labels), sos_eos=sos_eos)
        scores = scores + reverse_weight * from_right
    return scores.tolist()


def label_log_probs(decoder: nn.Module, states: torch.Tensor, labels: torch.Tensor, *, sos_eos: int) -> torch.Tensor:
    """Return the log-probability of each row of labels (N, U), padded with -100, and of the end after it, (N,)."""
    inputs, targets = shift_labels(labels, sos_eos=sos_eos)  # (N, U + 1) each
    size = max(1, CELLS // (inputs.shape[1] * decoder.config.vocab_size))
    parts = []
    for own, wanted in zip(inputs.split(size), targets.split(size), strict=True):
        logits = decoder(own, states.expand(len(own), -1, -1))  # (N, U + 1, V)
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        values = log_probs.gather(2, wanted.clamp(min=0)[:, :, None])[:, :, 0]  # (N, U + 1)
        parts.append(values.masked_fill(wanted == -100, 0.0).sum(-1))
    return torch.cat(parts)
