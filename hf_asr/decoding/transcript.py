"""What a decoder returns, and the text and words with times that it becomes."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

# Seconds before and after the frames of a word; `evaluate` prints the errors of the times on data with word times.
WIDENING = (0.1, 0.1)


@dataclass
class Hypothesis:
    """A token sequence that explains a recording, with its alignment to the frames.

    Attributes:
        tokens: Token ids, without blanks and repetitions.
        frames: For each token, its first frame and the frame after its last one.
        score: Log-probability of the alignment.
        probabilities: Probability of the aligned token or blank in each frame of the recording, float32 (frames,).
    """

    tokens: list[int]
    frames: list[tuple[int, int]]
    score: float
    probabilities: np.ndarray = field(repr=False)


@dataclass
class Word:
    """A word (or a Han character), its start and end in seconds, and the mean probability of its frames."""

    word: str
    start: float
    end: float
    confidence: float = 1.0


@dataclass
class Transcript:
    """The text of a recording, its words, and the hypothesis that they come from."""

    text: str
    words: list[Word] = field(default_factory=list)
    hypothesis: Hypothesis | None = field(default=None, repr=False, compare=False)


def from_path(path: np.ndarray, log_probs: np.ndarray, *, blank: int, score: float | None = None) -> Hypothesis:
    """Return the hypothesis of an alignment, repetitions and blanks removed.

    Args:
        path: Token of each frame, (frames,).
        log_probs: Log-probability of this token, (frames,).
        score: Their sum by default.
    """
    borders = np.flatnonzero(path[1:] != path[:-1]) + 1
    starts, ends = np.append(0, borders)[: len(path)], np.append(borders, len(path))
    is_token = path[starts] != blank
    frames = zip(starts[is_token].tolist(), ends[: len(starts)][is_token].tolist(), strict=True)
    score = float(log_probs.sum()) if score is None else score
    return Hypothesis(path[starts][is_token].tolist(), list(frames), score, np.exp(log_probs))


def to_text(hypothesis: Hypothesis, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of a hypothesis."""
    return tokenizer.decode(hypothesis.tokens, group_tokens=False)


def to_transcript(
    hypothesis: Hypothesis,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seconds_per_frame: float,
    duration: float,
    start: float = 0.0,
    widening: tuple[float, float] = WIDENING,
) -> Transcript:
    """Return text and words of a hypothesis.

    Args:
        duration: Length of the recording, in seconds; no word ends later.
        start: Where the first frame of the hypothesis is in the recording, in seconds.
        widening: See `widened_spans`.
    """
    offsets = tokenizer.decode(aligned_tokens(hypothesis, blank=tokenizer.pad_token_id), output_word_offsets=True)
    spans = [(word["start_offset"], word["end_offset"]) for word in offsets["word_offsets"]]
    words = []
    widened = widened_spans(spans, seconds_per_frame, widening=widening)
    for word, (first, end), times in zip(offsets["word_offsets"], spans, widened, strict=True):
        confidence = float(hypothesis.probabilities[first:end].mean())
        # The last frames of a short recording are silence after it.
        times = (round(min(max(0.0, start + seconds), duration), 3) for seconds in times)
        words.append(Word(word["word"], *times, confidence=round(confidence, 3)))
    return Transcript(offsets["text"], words, hypothesis)


def widened_spans(
    spans: list[tuple[int, int]], seconds_per_frame: float, *, widening: tuple[float, float] = WIDENING
) -> list[tuple[float, float]]:
    """Return start and end of each word in seconds, from the frames in which its tokens are emitted.

    CTC emits a token in one or two frames in the middle of its sound, so a word begins before its first token and ends
    after its last one. Two words that are closer share the time between them in the proportion of the widening.

    Args:
        widening: Seconds before the first token and after the last one.
    """
    before, after = widening
    share = after / (before + after)
    starts = [start * seconds_per_frame - before for start, _ in spans]
    ends = [end * seconds_per_frame + after for _, end in spans]
    for i, ((_, end), (start, _)) in enumerate(itertools.pairwise(spans)):
        border = (end + (start - end) * share) * seconds_per_frame
        ends[i], starts[i + 1] = min(ends[i], border), max(starts[i + 1], border)
    return list(zip(starts, ends, strict=True))


def aligned_tokens(hypothesis: Hypothesis, *, blank: int) -> list[int]:
    """Return the token of each frame, the blank between tokens."""
    path = [blank] * len(hypothesis.probabilities)
    for token, (start, end) in zip(hypothesis.tokens, hypothesis.frames, strict=True):
        path[start:end] = [token] * (end - start)
    return path
