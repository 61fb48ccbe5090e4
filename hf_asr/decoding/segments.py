"""Decode a long recording in segments, for decoders that decode an utterance as a whole.

A segment ends where a window ends with blank, so that no token is in two segments.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .hotwords import Hotword
from .transcript import Hypothesis

MIN_SECONDS = 20.0  # a segment is shorter only at the end of a recording
BLANK = math.log(0.5)  # the last frame of a segment has a higher log-probability of blank


@dataclass(eq=False)
class SegmentedSearch:
    """The search of a recording.

    Attributes:
        hotwords: Of the recording.
        done: The best hypotheses of the segments that have ended.
        segment: What the decoder knows of the segment that goes on; None before its first window.
        frames: Of this segment.
    """

    hotwords: Sequence[Hotword] = ()
    done: list[Hypothesis] = field(default_factory=list)
    segment: Any = None
    frames: int = 0

    def end_segment(self, best: Hypothesis) -> None:
        """Begin the next segment."""
        self.done.append(best)
        self.segment, self.frames = None, 0

    def hypotheses(self, last: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Return the hypotheses of the recording from those of its last segment, the best one first."""
        return [joined([*self.done, hypothesis]) for hypothesis in last] if self.done else list(last)


def ends_segment(blank: torch.Tensor, *, frames: int, seconds_per_frame: float) -> bool:
    """Return whether a segment can end with a window.

    Args:
        blank: Log-probability of blank in the window's frames, (frames,).
        frames: Of the segment, with those of the window.
    """
    return frames * seconds_per_frame >= MIN_SECONDS and len(blank) > 0 and float(blank[-1]) > BLANK


def joined(hypotheses: Sequence[Hypothesis]) -> Hypothesis:
    """Return consecutive hypotheses as one."""
    starts = np.cumsum([0, *(len(hypothesis.probabilities) for hypothesis in hypotheses)])
    return Hypothesis(
        tokens=[token for hypothesis in hypotheses for token in hypothesis.tokens],
        frames=[
            (int(start) + first, int(start) + end)
            for start, hypothesis in zip(starts, hypotheses, strict=False)
            for first, end in hypothesis.frames
        ],
        score=sum(hypothesis.score for hypothesis in hypotheses),
        probabilities=np.concatenate([hypothesis.probabilities for hypothesis in hypotheses]),
    )
