"""Align known transcripts to log-probabilities: the most probable CTC path that spells them (Viterbi).

A transcript of N tokens has 2 N + 1 states: a blank, the first token, a blank, and so on. In each frame a path stays in
its state, moves to the next one, or moves from a token to another token without the blank between them. For a long
transcript only a band of states is computed around the best one. The result is that of all states unless a better path
leaves the band; a path that comes near an edge of its band is computed again in a band of twice the width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..families import ctc_frames
from .transcript import Hypothesis, from_path

BAND = 4096  # states; shorter transcripts are computed in full
BLOCK = 64  # frames between two moves of the band, a multiple of 4; the band is wider than four times as many states
CELLS = 2**26  # greatest number of frames of a batch times the band or the vocabulary, whichever is larger
IMPOSSIBLE = -1e4  # instead of minus infinity, so that a path through an impossible frame is still the best one


class AlignmentError(ValueError):
    """Report a transcript that cannot be aligned to its recording."""


@dataclass
class Alignment:
    """The most probable path of a transcript.

    Attributes:
        hypothesis: The transcript's tokens and their frames; its score is the log-probability of the path.
        best_score: Log-probability of the best path of any text.
    """

    hypothesis: Hypothesis
    best_score: float

    @property
    def plausibility(self) -> float:
        """Log-probability of the transcript's path minus that of the best path, for each token; at most 0."""
        return (self.hypothesis.score - self.best_score) / len(self.hypothesis.tokens)

    @property
    def confidences(self) -> list[float]:
        """Mean probability of each token in its frames."""
        probabilities = self.hypothesis.probabilities
        return [float(probabilities[start:end].mean()) for start, end in self.hypothesis.frames]


def check_alignable(tokens: Sequence[int], frames: int) -> None:
    """Raise AlignmentError if a transcript is empty or has more tokens than its recording has frames for."""
    if not len(tokens):
        raise AlignmentError("the transcript is empty")
    if (needed := ctc_frames(tokens)) > frames:
        raise AlignmentError(
            f"the transcript is longer than the recording allows: its {len(tokens)} tokens need {needed} frames, and "
            f"the recording has {frames}"
        )


def align(
    log_probs: Sequence[torch.Tensor], targets: Sequence[Sequence[int]], *, blank: int = 0, band: int = BAND
) -> list[Alignment]:
    """Return the most probable path of each recording that spells its transcript.

    Time and memory are proportional to the frames times the band: a quarter of a byte for each of their products.

    Args:
        log_probs: Of each recording, (frames, vocabulary), on one device.
        targets: Token ids of each transcript, without blanks.
        blank: Token id of CTC's blank.
        band: States that are computed in each frame, at least 512. A transcript with more states than `band` is exact
            unless a better path leaves the band; see above.

    Raises:
        AlignmentError: A transcript is empty or longer than its recording allows.
    """
    if band <= 4 * BLOCK:
        raise ValueError(f"band must be more than {4 * BLOCK} states, not {band}")
    for values, tokens in zip(log_probs, targets, strict=True):
        check_alignable(tokens, len(values))
    results: list[Alignment | None] = [None] * len(targets)
    waiting = list(range(len(targets)))
    states = [_states(tokens, blank=blank) for tokens in targets]
    frames = [len(values) for values in log_probs]
    while waiting:
        left = []
        widths = [max(min(band, len(own)), values.shape[1]) for own, values in zip(states, log_probs, strict=True)]
        for batch in _batches(waiting, frames, widths):
            paths, offsets, width = _viterbi([log_probs[i] for i in batch], [states[i] for i in batch], band=band)
            for path, of_band, i in zip(paths, offsets.T, batch, strict=True):
                path = path[: frames[i]]
                if _touches_edge(path, of_band, states=len(states[i]), width=width):
                    left.append(i)
                else:
                    results[i] = _alignment(log_probs[i], path, states[i], blank=blank)
        waiting, band = left, 2 * band
    return results


def _batches(waiting: Sequence[int], frames: Sequence[int], widths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of recordings of similar length: one, or as many as have `CELLS` frames times widths."""
    batch: list[int] = []
    for i in sorted(waiting, key=lambda i: (frames[i], widths[i])):
        if batch and (len(batch) + 1) * frames[i] * max(widths[j] for j in (*batch, i)) > CELLS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _states(tokens: Sequence[int], *, blank: int) -> torch.Tensor:
    """Return the token of each state, (2 tokens + 1,)."""
    states = torch.full((2 * len(tokens) + 1,), blank)
    states[1::2] = torch.as_tensor(tokens)
    return states


def _viterbi(
    log_probs: Sequence[torch.Tensor], lattices: Sequence[torch.Tensor], *, band: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the states of the best paths (batch, frames), the first state of the band in each block, and its width.

    Args:
        lattices: The token of each state, of each recording.
    """
    device = log_probs[0].device
    lengths = torch.tensor([len(values) for values in log_probs], device=device)
    counts = torch.tensor([len(states) for states in lattices], device=device)
    batch = torch.nn.utils.rnn.pad_sequence(log_probs, batch_first=True) if len(log_probs) > 1 else log_probs[0][None]
    tokens = torch.nn.utils.rnn.pad_sequence(lattices, batch_first=True).to(device)  # (B, S)
    skips = torch.full(tokens.shape, -torch.inf, device=device)
    skips[:, 3::2] = torch.where(tokens[:, 3::2] == tokens[:, 1:-2:2], -torch.inf, 0.0)
    skips[:, 1] = 0.0  # from the state before the first one, in which every path begins
    width = min(band, tokens.shape[1])
    columns, places = torch.arange(width + 2, device=device), torch.arange(width, device=device)
    offsets, pointers = [torch.zeros_like(lengths)], []
    scores = torch.full((len(batch), width + 2), -torch.inf, device=device)  # the first two are states before the band
    scores[:, 1] = 0.0
    final = torch.zeros_like(lengths)
    for start in range(0, batch.shape[1], BLOCK):
        if start:
            offsets.append(_moved(offsets[-1], scores, lengths - start, counts, width))
            source = columns + (offsets[-1] - offsets[-2])[:, None]
            scores = scores.gather(1, source.clamp(max=width + 1)).masked_fill(source > width + 1, -torch.inf)
        scores = scores - scores.amax(1, keepdim=True).clamp(min=-1e30)  # small numbers are exact
        here = (places + offsets[-1][:, None]).clamp(max=tokens.shape[1] - 1)  # (B, W)
        block = batch[:, start : start + BLOCK].float().clamp(min=IMPOSSIBLE)
        emissions = block.gather(2, tokens.gather(1, here)[:, None].expand(-1, block.shape[1], -1))  # (B, K, W)
        history = _advance(scores, emissions, skips.gather(1, here))
        pointers.append(_pointers(history, skips.gather(1, here)))
        scores = history[-1]
        final = torch.where(lengths > start, _final(history, lengths - start, counts, offsets[-1]), final)
    paths = _traced(pointers, torch.stack(offsets), final, lengths)
    return paths.cpu().numpy(), torch.stack(offsets).cpu().numpy(), width


def _moved(
    offsets: torch.Tensor, scores: torch.Tensor, left: torch.Tensor, counts: torch.Tensor, width: int
) -> torch.Tensor:
    """Return the first states of the bands (batch,), moved so that their best states are in the middle.

    Args:
        left: Frames that are left, in which a path moves by at most two states each.
        counts: Number of states.
    """
    best = offsets + scores[:, 2:].argmax(1)
    least = counts - width - 2 * (left - BLOCK).clamp(min=0)
    moved = torch.maximum(torch.maximum(best - width // 2, least), offsets)
    return torch.minimum(moved, (counts - width).clamp(min=0))


def _advance(scores: torch.Tensor, emissions: torch.Tensor, skips: torch.Tensor) -> torch.Tensor:
    """Return the scores of the states before a block and after each of its frames, (frames + 1, batch, width + 2)."""
    history = scores.new_full((emissions.shape[1] + 1, *scores.shape), -torch.inf)
    history[0] = scores
    for before, after, emission in zip(history, history[1:], emissions.unbind(1), strict=False):
        best = torch.maximum(before[:, 2:], before[:, 1:-1])
        torch.maximum(best, before[:, :-2] + skips, out=best)
        torch.add(best, emission, out=after[:, 2:])
    return history


def _pointers(history: torch.Tensor, skips: torch.Tensor) -> torch.Tensor:
    """Return by how many states the best paths have moved, for four frames in a byte, (frames / 4, batch, width)."""
    stay, step, skip = history[:-1, :, 2:], history[:-1, :, 1:-1], history[:-1, :, :-2] + skips
    moves = torch.where(skip > torch.maximum(stay, step), 2, step > stay).to(torch.uint8)
    moves = torch.nn.functional.pad(moves, (0, 0, 0, 0, 0, -len(moves) % 4)).unflatten(0, (-1, 4))
    return moves[:, 0] | moves[:, 1] << 2 | moves[:, 2] << 4 | moves[:, 3] << 6


def _final(history: torch.Tensor, frames: torch.Tensor, counts: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return the state in which each path ends after so many frames of a block: the last blank or the last token."""
    rows = torch.arange(len(frames), device=frames.device)
    at_end = history[frames.clamp(1, len(history) - 1), rows]  # (B, W + 2)
    blank, token = ((counts - i - offsets + 2).clamp(0, at_end.shape[1] - 1) for i in (1, 2))
    return counts - 1 - (at_end[rows, token] > at_end[rows, blank]).long()


def _traced(
    pointers: Sequence[torch.Tensor], offsets: torch.Tensor, final: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return the states of each path (batch, frames); those after its end are `final`."""
    rows, frames = torch.arange(len(final), device=final.device), int(lengths.max())
    path, states = final.repeat(frames, 1), final  # (T, B)
    for frame in reversed(range(frames)):
        block, place = divmod(frame, BLOCK)
        states = torch.where(lengths - 1 <= frame, final, states)
        path[frame] = states
        packed = pointers[block][place // 4]
        column = (states - offsets[block]).clamp(0, packed.shape[1] - 1)
        states = states - (packed[rows, column] >> 2 * (place % 4) & 3)
    return path.T


def _touches_edge(path: np.ndarray, offsets: np.ndarray, *, states: int, width: int) -> bool:
    """Return whether a path comes near an edge of its band that is not an end of the transcript."""
    if states <= width:
        return False
    margin, first = width // 8, np.repeat(offsets, BLOCK)[: len(path)]
    is_low = (path < first + margin) & (first > 0)
    is_high = (path >= first + width - margin) & (first + width < states)
    return bool((is_low | is_high).any())


def _alignment(log_probs: torch.Tensor, path: np.ndarray, states: torch.Tensor, *, blank: int) -> Alignment:
    """Return the alignment of a path (frames,) through states whose tokens are `states`."""
    chosen = states[torch.from_numpy(path)]  # (T,)
    values = log_probs.gather(1, chosen.to(log_probs.device)[:, None])[:, 0].float().clamp(min=IMPOSSIBLE).cpu()
    score, best_score = float(values.double().sum()), float(log_probs.amax(1).double().sum())
    return Alignment(from_path(chosen.numpy(), values.numpy(), blank=blank, score=score), best_score)
