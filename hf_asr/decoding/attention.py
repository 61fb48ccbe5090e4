"""Decode with the attention decoder alone: a beam search over its next tokens, as in WeNet's `attention` mode.

CTC's log-probabilities only place the tokens in time. Letters in shape comments: N hypotheses, U tokens, S encoder
frames, D hidden size, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..model import ConformerForCTC
from .alignment import AlignmentError, align
from .greedy import GreedyDecoder
from .hotwords import Hotword
from .segments import SegmentedSearch, ends_segment
from .transcript import Hypothesis, from_path


@dataclass(frozen=True)
class EncodedWindow:
    """Log-probabilities (frames, vocabulary) of a window, and its encoder states (S, D)."""

    log_probs: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True)
class AttentionDecoder:
    """Beam search with the attention decoder.

    Args:
        blank: Token id of CTC's blank.
        model: With an attention decoder.
        seconds_per_frame: Of the encoder.
        beam_size, vocab_size: See `search_tokens`.
    """

    blank: int
    model: ConformerForCTC
    seconds_per_frame: float
    beam_size: int = 10
    vocab_size: int | None = None
    name: str = "attention"
    needs_states: bool = True

    def keep(self, log_probs: torch.Tensor, states: torch.Tensor) -> EncodedWindow:
        """Return a window with copies of both, without the memory of its batch."""
        return EncodedWindow(log_probs[:, : self.vocab_size].clone(), states.clone())

    def begin(self, hotwords: Iterable[Hotword] | None = None) -> SegmentedSearch:
        """Begin a recording.

        Raises:
            ValueError: There are hotwords, which only a beam search of CTC can use.
        """
        if hotwords:
            raise ValueError("attention decoding does not use hotwords: choose --decoding attention_rescoring")
        return SegmentedSearch()

    def advance(self, searches: Sequence[SegmentedSearch], kept: Sequence[EncodedWindow]) -> None:
        """Add one more window to each recording, in place, and end the segments that are long enough."""
        for search, window in zip(searches, kept, strict=True):
            search.segment = [*(search.segment or ()), window]
            search.frames += len(window.log_probs)
            blank = window.log_probs[:, self.blank]
            if ends_segment(blank, frames=search.frames, seconds_per_frame=self.seconds_per_frame):
                search.end_segment(self._decoded(search.segment)[0])

    def finish(self, searches: Sequence[SegmentedSearch], *, is_partial: bool = False) -> list[list[Hypothesis]]:
        """Return the hypotheses of each recording so far, the best one first; the searches can go on.

        Args:
            is_partial: The greedy text of CTC is enough, because the segment goes on.
        """
        last = [self._decoded(search.segment or [], is_partial=is_partial) for search in searches]
        return [search.hypotheses(own) for search, own in zip(searches, last, strict=True)]

    def _decoded(self, windows: Sequence[EncodedWindow], *, is_partial: bool = False) -> list[Hypothesis]:
        """Return the hypotheses of a segment, the best one first."""
        states = [window.states for window in windows if len(window.states)]
        if not states or is_partial:
            return self._greedy(windows)
        log_probs = torch.cat([window.log_probs for window in windows])
        options = {"beam_size": self.beam_size, "vocab_size": self.vocab_size}
        found = search_tokens(self.model, torch.cat(states), **options)
        hypotheses = [placed(tokens, score, log_probs, blank=self.blank) for tokens, score in found]
        return [hypothesis for hypothesis in hypotheses if hypothesis] or self._greedy(windows)

    def _greedy(self, windows: Sequence[EncodedWindow]) -> list[Hypothesis]:
        """Return CTC's greedy hypothesis of a segment."""
        greedy = GreedyDecoder(self.blank)
        search = [greedy.keep(window.log_probs) for window in windows]
        return greedy.finish([search])[0]


def placed(tokens: Sequence[int], score: float, log_probs: torch.Tensor, *, blank: int) -> Hypothesis | None:
    """Return tokens with their most probable frames; None if there are more of them than frames.

    Args:
        score: Of the tokens.
        log_probs: Of CTC, (frames, vocabulary).
    """
    tokens = [token for token in tokens if token != blank]
    if not tokens:
        return from_path(np.full(len(log_probs), blank), log_probs[:, blank].cpu().numpy(), blank=blank, score=score)
    try:
        (alignment,) = align([log_probs], [tokens], blank=blank)
    except AlignmentError:
        return None
    return replace(alignment.hypothesis, score=score)


@torch.inference_mode()
def search_tokens(
    model: ConformerForCTC, states: torch.Tensor, *, beam_size: int, vocab_size: int | None = None
) -> list[tuple[list[int], float]]:
    """Return token sequences of the attention decoder and their log-probabilities, the best one first.

    A sequence has at most as many tokens as there are encoder frames.

    Args:
        states: Of one recording, (S, D).
        beam_size: Sequences that are kept, and next tokens of each that are tried.
        vocab_size: Of the tokenizer; tokens that only the model has are never tried. None for all of the model's.
    """
    end, states = model.config.eos_token_id, states.to(model.dtype)
    beam_size = min(beam_size, vocab_size or beam_size, model.config.vocab_size)
    sequences = torch.full((1, 1), model.config.bos_token_id, device=states.device)  # (N, 1 + U)
    scores, is_done = torch.zeros(1, device=states.device), torch.zeros(1, dtype=torch.bool, device=states.device)
    for _ in range(len(states)):
        logits = model.decoder(sequences, states.expand(len(sequences), -1, -1))[:, -1, :vocab_size]  # (N, V)
        values, tokens = F.log_softmax(logits, dim=-1, dtype=torch.float32).topk(beam_size)  # (N, beam_size) each
        # A sequence that has ended stays as it is, so it has one successor.
        tokens = tokens.masked_fill(is_done[:, None], end)
        values = values.masked_fill(is_done[:, None], -torch.inf)
        values[:, 0].masked_fill_(is_done, 0.0)
        scores, order = (scores[:, None] + values).flatten().topk(beam_size)
        sequences = torch.cat([sequences[order // beam_size], tokens.flatten()[order, None]], dim=1)
        is_done = sequences[:, -1] == end
        if is_done.all():
            break
    rows = sequences[:, 1:].tolist()
    tokens = [row[: row.index(end)] if end in row else row for row in rows]
    return list(zip(tokens, scores.tolist(), strict=True))
