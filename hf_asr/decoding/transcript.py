"""What a decoder returns, and the text and words with times that it becomes."""

from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase


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
    hypothesis: Hypothesis, tokenizer: PreTrainedTokenizerBase, *, seconds_per_frame: float, duration: float
) -> Transcript:
    """Return text and words of a hypothesis; `duration` is the recording's length in seconds."""
    offsets = tokenizer.decode(aligned_tokens(hypothesis, blank=tokenizer.pad_token_id), output_word_offsets=True)
    words = []
    for offset in offsets["word_offsets"]:
        start, end = offset["start_offset"], offset["end_offset"]
        confidence = float(hypothesis.probabilities[start:end].mean())
        # The last frames of a short recording are silence after it.
        times = (round(min(frame * seconds_per_frame, duration), 3) for frame in (start, end))
        words.append(Word(offset["word"], *times, confidence=round(confidence, 3)))
    return Transcript(offsets["text"], words, hypothesis)


def aligned_tokens(hypothesis: Hypothesis, *, blank: int) -> list[int]:
    """Return the token of each frame, the blank between tokens."""
    path = [blank] * len(hypothesis.probabilities)
    for token, (start, end) in zip(hypothesis.tokens, hypothesis.frames, strict=True):
        path[start:end] = [token] * (end - start)
    return path
