"""The frames of CTC prefix beam search, for many recordings at once: `beam.py` is the decoder around it.

A prefix is a token sequence. Its score sums the probabilities of its alignments: of those that end in a blank, and of
those that end in its last token. Beside each sum is the maximum, the score of the best alignment (Viterbi).

Shapes: B recordings, R frames of all of them, P prefixes (the beam), K tokens of a frame, N = P + P * (K + 1)
candidates: each prefix as it is, then each prefix with one more token. The token K never occurs: what has no place
points there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from .scorers import Scorer

FACTOR = 6364136223846793005  # of the polynomial hash of a prefix modulo 2^64 (Knuth's, odd)
INVERSE = pow(FACTOR, -1, 2**64) - 2**64  # FACTOR * INVERSE is 1 modulo 2^64
ROOT = 1  # the hash of the empty prefix
IMPOSSIBLE = -1e30  # the log-probability of what cannot be; it is finite, so a maximum finds its place


class State(NamedTuple):
    """The prefixes of B beams. A dimension of size 2 has the sum over alignments and the best alignment.

    Attributes:
        blank_ends: Log-probabilities of the alignments that end in a blank, (B, 2, P).
        token_ends: The same for those that end in the last token.
        totals: The same for all of them.
        hashes: The hash of a prefix is `FACTOR` times its parent's hash plus its last token, int64 (B, P).
        tokens: The last tokens, int64 (B, P).
        gains: What the scorers added, (B, P).
        scorer_states: The states of all scorers side by side, int64 (B, P, D).
    """

    blank_ends: torch.Tensor
    token_ends: torch.Tensor
    totals: torch.Tensor
    hashes: torch.Tensor
    tokens: torch.Tensor
    gains: torch.Tensor
    scorer_states: torch.Tensor


class ScorerColumns(NamedTuple):
    """A scorer and the columns of its states in `State.scorer_states`."""

    scorer: Scorer
    columns: slice


class Frames(NamedTuple):
    """The frames of a batch: first the first frame of each recording, then the second frame of each, and so on.

    Attributes:
        counts: How many recordings have a first frame, a second frame, and so on.
        order: For each frame, its place where the recordings follow one another, int64 (R,).
        tokens, log_probs: int64 and float32 (R, 1, K + 1).
        blank: Log-probability of blank, (R, 1, 1).
        after_gap: Whether frames that are surely blank precede, (R, 1, 1).
    """

    counts: list[int]
    order: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor
    blank: torch.Tensor
    after_gap: torch.Tensor


class Choices(NamedTuple):
    """What was chosen in a frame, (B, P) if nothing else is said.

    Attributes:
        candidates: The candidates that became the new prefixes.
        new_tokens: The last tokens of the new prefixes.
        tokens: The last tokens of the prefixes before the frame.
        parents: The place of each prefix without its last token, for a prefix that has it in the beam.
        blank_ends, token_ends: Of the state before the frame, (B, 2, P).
        repeated, merged: Log-probabilities of the alignments that repeat the last token, and of those in which it
            begins, for prefixes that stay as they are, (B, 2, P).
    """

    candidates: torch.Tensor
    new_tokens: torch.Tensor
    tokens: torch.Tensor
    parents: torch.Tensor
    blank_ends: torch.Tensor
    token_ends: torch.Tensor
    repeated: torch.Tensor
    merged: torch.Tensor


def dead_hashes(size: int) -> torch.Tensor:
    """Return hashes (P,) of places without a prefix, which are neither equal nor parents of one another."""
    return -torch.arange(2, size + 2) * (FACTOR // 3)


def first_state(size: int, scorer_states: torch.Tensor, *, blank: int) -> State:
    """Return the state before the first frame of a recording, without the dimension of recordings."""
    token_ends = torch.full((2, size), -torch.inf)
    blank_ends, hashes, tokens = token_ends.clone(), dead_hashes(size), torch.full((size,), blank)
    blank_ends[:, 0], hashes[0] = 0.0, ROOT
    return State(blank_ends, token_ends, blank_ends, hashes, tokens, torch.zeros(size), scorer_states.expand(size, -1))


class PrefixSearch:
    """The constants of a search, and its frames.

    Args:
        beam_size, top_tokens: P and K.
    """

    def __init__(self, beam_size: int, top_tokens: int, scorers: Sequence[ScorerColumns], *, device: torch.device):
        self.beam_size, self.top_tokens, self.scorers = beam_size, top_tokens, scorers
        self.places = torch.arange(beam_size, device=device)
        rows = self.places.repeat_interleave(top_tokens + 1)
        self.sources = torch.cat([self.places, rows])  # the prefix of each candidate
        columns = torch.arange(top_tokens + 1, device=device).repeat(beam_size)
        self.columns = torch.cat([torch.full_like(self.places, top_tokens), columns])  # and its place among the tokens
        self.floor = torch.full((top_tokens + 1,), -torch.inf, device=device)
        self.floor[-1] = IMPOSSIBLE
        self.dead = dead_hashes(beam_size).to(device)
        self.nothing = torch.tensor(-torch.inf, device=device)

    def run(self, state: State, frames: Frames) -> tuple[State, torch.Tensor, torch.Tensor]:
        """Return the state after all frames, the pointers (R, 2P) of `trace` and the last tokens (R, P).

        The recordings follow one another in the last two.
        """
        finished: list[State] = []
        history: list[Choices] = []
        for frame in zip(*(values.split(frames.counts) for values in frames[2:]), strict=True):
            count = len(frame[0])
            if count < len(state.gains):  # recordings with more frames come first
                finished.append(State(*(values[count:] for values in state)))
                state = State(*(values[:count] for values in state))
            state, choices = self.step(state, *frame)
            history.append(choices)
        state = State(*(torch.cat(parts) for parts in zip(state, *reversed(finished), strict=True)))
        choices = Choices(*(torch.cat(parts) for parts in zip(*history, strict=True)))
        back = frames.order.argsort()
        return state, self.pointers(choices, frames.after_gap[:, 0])[back], choices.new_tokens[back].int()

    def step(
        self, state: State, tokens: torch.Tensor, log_probs: torch.Tensor, blank: torch.Tensor, after_gap: torch.Tensor
    ) -> tuple[State, Choices]:
        """Return the state after one more frame of each recording; see `Frames` for the frame."""
        size, hashes, last = self.beam_size, state.hashes, state.tokens
        blank_ends = torch.where(after_gap, state.totals, state.blank_ends)
        token_ends = torch.where(after_gap, self.nothing, state.token_ends)
        is_last = tokens == last.unsqueeze(2)  # (B, P, K + 1)
        last_log_probs, columns = torch.where(is_last, log_probs, self.floor).max(2)  # (B, P) each
        last_log_probs = last_log_probs.unsqueeze(1)

        candidates = blank_ends.new_empty(len(last), 2, len(self.sources))
        longer = candidates[..., size:].unflatten(2, (size, -1))  # (B, 2, P, K + 1)
        torch.add(state.totals.unsqueeze(3), log_probs.unsqueeze(1), out=longer)
        again = blank_ends + last_log_probs  # the last token once more needs a blank before it
        longer.scatter_(3, columns[:, None, :, None].expand(-1, 2, -1, 1), again.unsqueeze(3))
        # A prefix whose parent is in the beam is also the parent with one more token: both are merged.
        parent_hashes = (hashes - last) * INVERSE
        has_parent, parents = (parent_hashes.unsqueeze(2) == hashes.unsqueeze(1)).max(2)
        same = torch.where(has_parent, columns.add(parents, alpha=self.top_tokens + 1), self.top_tokens) + size
        merged = candidates.gather(2, same.unsqueeze(1).expand(-1, 2, -1))
        repeated = token_ends + last_log_probs
        stay_in_token = torch.maximum(repeated, merged)
        torch.logaddexp(repeated[:, 0], merged[:, 0], out=stay_in_token[:, 0])
        stay_in_blank = state.totals + blank

        scores = candidates[:, 0]
        scores.scatter_(1, same, -torch.inf)
        torch.logaddexp(stay_in_blank[:, 0], stay_in_token[:, 0], out=scores[:, :size])
        gains, scorer_states = self._score(state, tokens)
        chosen = (scores if gains is None else scores + gains).topk(size).indices
        candidates[..., :size] = stay_in_token
        stays, sources, both = chosen < size, self.sources.take(chosen), chosen.unsqueeze(1).expand(-1, 2, -1)
        token_ends = candidates.gather(2, both)
        candidates[..., :size] = stay_in_blank
        blank_ends = candidates.gather(2, both).masked_fill_(~stays.unsqueeze(1), -torch.inf)
        totals = torch.maximum(blank_ends, token_ends)
        torch.logaddexp(blank_ends[:, 0], token_ends[:, 0], out=totals[:, 0])

        new_tokens = tokens.squeeze(1).gather(1, self.columns.take(chosen))
        new_tokens = torch.where(stays, last.gather(1, sources), new_tokens)
        sources_hashes = hashes.gather(1, sources)
        hashes = torch.where(stays, sources_hashes, new_tokens.add(sources_hashes, alpha=FACTOR))
        hashes = torch.where(totals[:, 0] < IMPOSSIBLE / 2, self.dead, hashes)
        if gains is None:
            gains, scorer_states = state.gains, state.scorer_states
        else:
            gains = gains.gather(1, chosen)
            tried = sources * self.top_tokens + self.columns.take(chosen).clamp_(max=self.top_tokens - 1)
            own = state.scorer_states.gather(1, sources.unsqueeze(2).expand_as(state.scorer_states))
            scorer_states = scorer_states.gather(1, tried.unsqueeze(2).expand_as(own))
            scorer_states = torch.where(stays.unsqueeze(2), own, scorer_states)
        choices = Choices(chosen, new_tokens, last, parents, state.blank_ends, state.token_ends, repeated, merged)
        return State(blank_ends, token_ends, totals, hashes, new_tokens, gains, scorer_states), choices

    def _score(self, state: State, tokens: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the gains (B, N) of all candidates, and the states (B, P * K, D) of those with one more token.

        Both are None without scorers.
        """
        if not self.scorers:
            return None, None
        batch, size = state.gains.shape
        tokens = tokens[:, 0, :-1].repeat_interleave(size, dim=0)  # (B * P, K)
        states = state.scorer_states.flatten(0, 1)  # (B * P, D)
        gains, after = state.gains.index_select(1, self.sources), []
        longer = gains[:, size:].unflatten(1, (size, -1))[..., :-1]  # (B, P, K)
        for scorer, columns in self.scorers:
            added, own = scorer.step(states[:, columns], tokens)
            longer += added.view_as(longer)
            after.append(own)
        after.append(states[:, None, columns.stop :].expand(-1, self.top_tokens, -1))  # of scorers that are not used
        return gains, torch.cat(after, dim=-1).view(batch, size * self.top_tokens, -1)

    def pointers(self, choices: Choices, after_gap: torch.Tensor) -> torch.Tensor:
        """Return for each new prefix where its best alignments come from, int16 (R, 2P).

        The first P places are of the alignments that end in a blank, the others of those that end in the last token.
        Both the places and their values mean this.

        Args:
            after_gap: (R, 1).
        """
        size, sources, stays = self.beam_size, self.sources[choices.candidates], choices.candidates < self.beam_size
        of_total = self.places + size * (choices.token_ends[:, 1] > choices.blank_ends[:, 1])
        of_blank = torch.where(after_gap, of_total, self.places)
        parents = torch.where(stays, choices.parents.gather(1, sources), sources)
        needs_blank = choices.tokens.gather(1, parents) == choices.new_tokens
        from_parents = torch.where(needs_blank, of_blank.gather(1, parents), of_total.gather(1, parents))
        repeats = stays & (choices.repeated[:, 1] > choices.merged[:, 1]).gather(1, sources)
        into_token = torch.where(repeats, size + sources, from_parents)
        return torch.cat([of_total.gather(1, sources), into_token], dim=1).short()


def trace(
    pointers: Sequence[torch.Tensor], tokens: Sequence[torch.Tensor], ends: torch.Tensor, *, blank: int
) -> list[torch.Tensor]:
    """Return the tokens of alignments in the frames that were searched, int64 (frames, M) for each recording.

    Args:
        pointers, tokens: For each recording, see `PrefixSearch.run`.
        ends: The places of M alignments after the last frame, int64 (B, M).
    """
    # They follow one another from the last frame to the first, so that one loop traces all of them.
    history = pad_sequence([own.flip(0) for own in pointers]).long()  # (longest, B, 2P)
    last = pad_sequence([own.flip(0) for own in tokens]).long()  # (longest, B, P)
    places = [ends]
    for own in history[:-1].unbind():
        places.append(own.gather(1, places[-1]))
    places, size = torch.stack(places)[: len(last)], last.shape[2]  # (longest, B, M)
    found = torch.where(places < size, blank, last.gather(2, places % size))
    return [found[: len(own), row].flip(0) for row, own in enumerate(tokens)]
