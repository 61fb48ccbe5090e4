"""What a decoder returns, and the text and words with times that it becomes."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

WIDENING = 0.1  # seconds; `evaluate` prints the errors of the times on data with word times


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
) -> Transcript:
    """Return text and words of a hypothesis.

    Args:
        duration: Length of the recording, in seconds; no word ends later.
        start: Where the first frame of the hypothesis is in the recording, in seconds.
    """
    offsets = tokenizer.decode(aligned_tokens(hypothesis, blank=tokenizer.pad_token_id), output_word_offsets=True)
    spans = [(word["start_offset"], word["end_offset"]) for word in offsets["word_offsets"]]
    words = []
    for word, (first, end), times in zip(
        offsets["word_offsets"], spans, _widened(spans, seconds_per_frame), strict=True
    ):
        confidence = float(hypothesis.probabilities[first:end].mean())
        # The last frames of a short recording are silence after it.
        times = (round(min(max(0.0, start + seconds), duration), 3) for seconds in times)
        words.append(Word(word["word"], *times, confidence=round(confidence, 3)))
    return Transcript(offsets["text"], words, hypothesis)


def _widened(spans: list[tuple[int, int]], seconds_per_frame: float) -> list[tuple[float, float]]:
    """Return start and end of each word in seconds, from the frames in which its tokens are emitted.

    CTC emits a token in one or two frames in the middle of its sound, so a word begins before its first token and ends
    after its last one: by `WIDENING` seconds, and at most up to the middle between two words.
    """
    starts = [start * seconds_per_frame - WIDENING for start, _ in spans]
    ends = [end * seconds_per_frame + WIDENING for _, end in spans]
    for i, ((_, end), (start, _)) in enumerate(itertools.pairwise(spans)):
        middle = (end + start) / 2 * seconds_per_frame
        ends[i], starts[i + 1] = min(ends[i], middle), max(starts[i + 1], middle)
    return list(zip(starts, ends, strict=True))


def aligned_tokens(hypothesis: Hypothesis, *, blank: int) -> list[int]:
    """Return the token of each frame, the blank between tokens."""
    path = [blank] * len(hypothesis.probabilities)
    for token, (start, end) in zip(hypothesis.tokens, hypothesis.frames, strict=True):
        path[start:end] = [token] * (end - start)
    return path
