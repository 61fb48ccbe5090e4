"""Decode by CTC prefix beam search (Graves 2006, Hannun et al. 2014) with WeNet's pruning, many recordings at once."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from .hotwords import Hotword, HotwordCompiler, Hotwords, HotwordSet
from .joining import append_joined
from .lexicon import Lexicon
from .prefix_search import IMPOSSIBLE, Frames, PrefixSearch, ScorerColumns, State, first_state, trace
from .scorers import Scorer
from .transcript import Hypothesis, from_path

BATCH = 64  # recordings that are searched together
TENSORS = ("blank", "places", "tokens", "log_probs")  # of `TopTokens`
MAX_BEAM_SIZE = 1000  # the places of a search are stored in 16 bits


@dataclass(frozen=True)
class TopTokens:
    """Consecutive windows of N frames, of which S are searched: those that are not surely blank.

    Attributes:
        blank: Log-probability of blank in each frame, (N,).
        places: The frames that are searched, int64 (S,).
        tokens, log_probs: The most probable tokens of these frames, (S, K), after the blank penalty.
        skipped: Sum of blank's log-probabilities in the other frames, after the blank penalty.
    """

    blank: torch.Tensor
    places: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor
    skipped: float

    def __len__(self) -> int:
        return len(self.blank)

    @property
    def ends_in_gap(self) -> bool:
        """Whether the last frame is not searched."""
        return len(self) > 0 and (not len(self.places) or int(self.places[-1]) < len(self) - 1)


@dataclass(eq=False)
class BeamSearch:
    """The search of one recording so far.

    Attributes:
        state: Without the dimension of recordings.
        hotwords: Of the recording.
        pointers, tokens: Of all windows so far in few parts, see `prefix_search.PrefixSearch.run`.
        windows: All windows so far in few parts, on the CPU as `pointers` and `tokens`.
        score: Log-probability that is common to all prefixes.
        is_after_gap: Whether the last frame was not searched.
    """

    state: State
    hotwords: HotwordSet | None
    pointers: list[torch.Tensor]
    tokens: list[torch.Tensor]
    windows: list[TopTokens] = field(default_factory=list)
    score: float = 0.0
    is_after_gap: bool = False


@dataclass(frozen=True)
class BeamDecoder:
    """Prefix beam search.

    Args:
        blank: Token id of CTC's blank.
        beam_size: Prefixes that are kept, and tokens of a frame that are tried.
        blank_penalty: Subtracted from blank's log-probability.
        skip_blank: A frame is not searched if blank's probability is higher. So alignments are left out that have in
            such a frame a token of a probability below 1 - `skip_blank`. With 1, all frames are searched.
        nbest: Hypotheses that `finish` returns, at most `beam_size`.
        scorers: They add to the scores of all recordings. With a lexicon, only its tokens are tried.
        compiler: Of the recordings' hotwords.
        vocab_size: Of the tokenizer; tokens that only the model has are never tried. None for all of the model's.
    """

    blank: int
    beam_size: int = 10
    blank_penalty: float = 0.0
    skip_blank: float = 0.999
    nbest: int = 1
    scorers: Sequence[Scorer] = ()
    compiler: HotwordCompiler | None = None
    vocab_size: int | None = None
    name: str = "beam"
    needs_states: bool = False

    @functools.cached_property
    def lexicon(self) -> Lexicon | None:
        """The lexicon among the scorers."""
        return next((scorer for scorer in self.scorers if isinstance(scorer, Lexicon)), None)

    @torch.inference_mode()
    def keep(self, log_probs: torch.Tensor, states: torch.Tensor | None = None) -> TopTokens:
        """Return the most probable tokens of the frames of log-probabilities (frames, vocabulary)."""
        log_probs = log_probs.float()
        blank = log_probs[:, self.blank].clone()
        # The penalty makes all other tokens more probable beside blank.
        is_searched = -blank.expm1() >= (1 - self.skip_blank) * math.exp(-self.blank_penalty)
        places = is_searched.nonzero()[:, 0]
        rows = log_probs[places, : self.vocab_size]
        rows[:, self.blank] -= self.blank_penalty
        values, tokens = self._top(rows)
        skipped = (blank.double() - self.blank_penalty).masked_fill_(is_searched, 0.0).sum()
        return TopTokens(blank, places, tokens, values, float(skipped))

    def _top(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probabilities and ids of the tokens that are tried in frames (S, V), (S, K) each."""
        if self.lexicon is None:
            return rows.topk(min(self.beam_size, rows.shape[1]))
        # Blank and the lexicon's tokens. Blank is always among them: an entry may go on with none of the best tokens.
        allowed = self.lexicon.tokens.to(rows.device)
        values, places = rows[:, allowed].topk(min(self.beam_size, len(allowed)))
        blank = torch.full_like(places[:, :1], self.blank)
        return torch.cat([rows.gather(1, blank), values], 1), torch.cat([blank, allowed[places]], 1)

    def begin(self, hotwords: Iterable[Hotword] | None = None) -> BeamSearch:
        """Begin a recording.

        Raises:
            ValueError: There are hotwords, and the decoder has no compiler of them.
        """
        if hotwords and self.compiler is None:
            raise ValueError("the decoder was built without hotwords")
        states, own = [scorer.start() for scorer in self.scorers], None
        if self.compiler is not None:
            own = self.compiler.compile(hotwords or ())
            states.append(own.start())
        states.append(torch.zeros(0, dtype=torch.int64))  # cat needs one
        history = {
            "pointers": [torch.zeros(0, 2 * self.beam_size, dtype=torch.int16)],
            "tokens": [torch.zeros(0, self.beam_size, dtype=torch.int32)],
        }
        return BeamSearch(first_state(self.beam_size, torch.cat(states), blank=self.blank), own, **history)

    @torch.inference_mode()
    def advance(self, searches: Sequence[BeamSearch], kept: Sequence[TopTokens]) -> None:
        """Search one more window of each recording, in place."""
        order = sorted(range(len(kept)), key=lambda i: -len(kept[i].places))  # similar lengths go together
        for start in range(0, len(order), BATCH):
            if batch := [i for i in order[start : start + BATCH] if len(kept[i].places)]:
                self._advance([searches[i] for i in batch], [kept[i] for i in batch])
        for search, window in zip(searches, kept, strict=True):
            append_joined(search.windows, on_cpu(window), join=joined_windows)
            search.score += window.skipped
            search.is_after_gap = window.ends_in_gap if len(window.blank) else search.is_after_gap

    def _advance(self, searches: Sequence[BeamSearch], kept: Sequence[TopTokens]) -> None:
        """Search windows of one frame and more, the longest first."""
        device = kept[0].tokens.device
        scorers, offsets = self._scorers(searches, device=device)
        search = PrefixSearch(self.beam_size, kept[0].tokens.shape[1], scorers, device=device)
        state = stacked([each.state for each in searches], device=device)
        state.scorer_states[..., -1:] += offsets
        after_gaps = [each.is_after_gap for each in searches]
        state, pointers, tokens = search.run(state, pack(kept, after_gaps, blank=self.blank))
        state.scorer_states[..., -1:] -= offsets
        # Scores close to 0 keep their precision in long recordings.
        highest = state.totals[:, :1].amax(2, keepdim=True).clamp(min=IMPOSSIBLE)
        state = State(*(scores - highest for scores in state[:3]), *state[3:])
        lengths = [len(window.places) for window in kept]
        rows = zip(*state, strict=True)
        history = pointers.cpu().split(lengths), tokens.cpu().split(lengths)
        parts = zip(rows, highest.flatten().tolist(), *history, strict=True)
        for each, (own, score, own_pointers, own_tokens) in zip(searches, parts, strict=True):
            each.state = State(*own)
            each.score += score
            append_joined(each.pointers, own_pointers, join=torch.cat)
            append_joined(each.tokens, own_tokens, join=torch.cat)

    def _scorers(
        self, searches: Sequence[BeamSearch], *, device: torch.device
    ) -> tuple[list[ScorerColumns], torch.Tensor | int]:
        """Return the scorers, and what is added to the last column of their states while these searches are a batch."""
        columns, start = [], 0
        for scorer in self.scorers:
            end = start + len(scorer.start())
            columns.append(ScorerColumns(scorer, slice(start, end)))
            start = end
        sets = [search.hotwords for search in searches]
        if all(own is None or own.is_empty for own in sets):
            return columns, 0
        joined = joined_hotwords(tuple(dict.fromkeys(sets)), device)
        offsets = torch.tensor([joined.offset(own) for own in sets], device=device)
        return [*columns, ScorerColumns(joined, slice(start, start + 1))], offsets[:, None, None]

    @torch.inference_mode()
    def finish(self, searches: Sequence[BeamSearch], *, is_partial: bool = False) -> list[list[Hypothesis]]:
        """Return the hypotheses of each recording so far, the best one first; the searches can go on."""
        if not searches:
            return []
        devices = {search.state.gains.device for search in searches}  # a new search is still on the CPU
        state = stacked([search.state for search in searches], device=max(devices, key=lambda each: each.type != "cpu"))
        final = self._final_scores(searches, state, is_partial=is_partial)
        scores, order = final.topk(min(self.nbest, self.beam_size))  # (B, M) each
        is_token = state.token_ends[:, 1] > state.blank_ends[:, 1]
        ends = order + self.beam_size * is_token.gather(1, order)
        pointers = [torch.cat(search.pointers) for search in searches]
        tokens = [torch.cat(search.tokens) for search in searches]
        paths = trace(pointers, tokens, ends.cpu(), blank=self.blank)
        found = zip(searches, scores.tolist(), paths, strict=True)
        hypotheses = [self._hypotheses(search, own, path.numpy()) for search, own, path in found]
        if self.lexicon is None or is_partial:
            return hypotheses
        return [[self._complete(each) for each in own] for own in hypotheses]

    def _complete(self, hypothesis: Hypothesis) -> Hypothesis:
        """Return a hypothesis without the entry of the lexicon that the end of the recording cuts."""
        count = self.lexicon.complete(hypothesis.tokens)
        return replace(hypothesis, tokens=hypothesis.tokens[:count], frames=hypothesis.frames[:count])

    def _final_scores(self, searches: Sequence[BeamSearch], state: State, *, is_partial: bool) -> torch.Tensor:
        """Return the scores of the prefixes if the recordings end here, (B, P); partial ones can end in any place."""
        scorers, offsets = self._scorers(searches, device=state.gains.device)
        scores = state.totals[:, 0] + state.gains
        state.scorer_states[..., -1:] += offsets
        for scorer, columns in scorers:
            if is_partial and scorer is self.lexicon:
                continue
            scores = scores + scorer.finish(state.scorer_states[..., columns].flatten(0, 1)).view_as(scores)
        return scores

    def _hypotheses(self, search: BeamSearch, scores: Sequence[float], paths: np.ndarray) -> list[Hypothesis]:
        """Return the hypotheses of a recording from the tokens in the frames that were searched (S, M)."""
        log_probs = np.zeros(0, np.float32)
        if search.windows:
            window = joined_windows(search.windows)
            log_probs, places, tokens, values = (getattr(window, name).numpy() for name in TENSORS)
        hypotheses = []
        for score, path in zip(scores, paths.T, strict=True):
            if hypotheses and score < IMPOSSIBLE / 2:  # there are fewer prefixes
                break
            whole, aligned = np.full(len(log_probs), self.blank), log_probs.copy()
            if len(path):
                rows = np.flatnonzero(path != self.blank)
                whole[places] = path
                is_aligned = tokens[rows] == path[rows, None]
                aligned[places[rows]] = np.where(is_aligned, values[rows], -np.inf).max(-1)
            hypotheses.append(from_path(whole, aligned, blank=self.blank, score=search.score + score))
        return hypotheses


def stacked(states: Sequence[State], *, device: torch.device) -> State:
    """Return the state of a batch from those of its recordings."""
    return State(*(torch.stack([part.to(device) for part in parts]) for parts in zip(*states, strict=True)))


def on_cpu(window: TopTokens) -> TopTokens:
    """Return a window whose tensors are on the CPU."""
    return replace(window, **{name: getattr(window, name).cpu() for name in TENSORS})


def joined_windows(windows: Sequence[TopTokens]) -> TopTokens:
    """Return consecutive windows as one."""
    starts = itertools.accumulate(map(len, windows[:-1]), initial=0)
    windows = [replace(window, places=start + window.places) for start, window in zip(starts, windows, strict=True)]
    tensors = (torch.cat([getattr(window, name) for window in windows]) for name in TENSORS)
    return TopTokens(*tensors, sum(window.skipped for window in windows))


@functools.lru_cache(maxsize=8)
def joined_hotwords(sets: tuple[HotwordSet, ...], device: torch.device) -> Hotwords:
    """Return the hotwords of a batch as one scorer."""
    return Hotwords(sets, device=device)


def pack(kept: Sequence[TopTokens], after_gaps: Sequence[bool], *, blank: int) -> Frames:
    """Return the frames to search of windows, the longest first.

    Args:
        after_gaps: Whether the frame before each window was not searched.
    """
    lengths = torch.tensor([len(window.places) for window in kept])
    indices = torch.cat([torch.arange(length) for length in lengths.tolist()])
    rows = torch.arange(len(kept)).repeat_interleave(lengths)
    order = (indices * len(kept) + rows).argsort().to(kept[0].tokens.device)
    tokens, log_probs = (
        torch.cat([getattr(window, name) for window in kept])[order] for name in ("tokens", "log_probs")
    )
    before = [window.places.new_tensor([-2 if gap else -1]) for window, gap in zip(kept, after_gaps, strict=True)]
    gaps = [torch.cat([first, window.places]).diff() > 1 for first, window in zip(before, kept, strict=True)]
    is_blank = tokens == blank
    blanks = log_probs.masked_fill(~is_blank, -torch.inf).amax(-1)  # blank is not tried if it is not among the top
    return Frames(
        counts=(lengths > torch.arange(int(lengths[0]))[:, None]).sum(-1).tolist(),
        order=order,
        tokens=F.pad(tokens, (0, 1), value=-1)[:, None],
        log_probs=F.pad(log_probs.masked_fill(is_blank, -torch.inf), (0, 1), value=-torch.inf)[:, None],
        blank=blanks[:, None, None],
        after_gap=torch.cat(gaps)[order][:, None, None],
    )
