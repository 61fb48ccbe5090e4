"""Cut live audio into utterances: at silence after speech, and before an utterance becomes too long."""

from dataclasses import dataclass, field

import numpy as np

PAUSE_SECONDS = 0.2  # of silence that end an utterance which is too long


@dataclass
class EndpointArguments:
    """Choose where an utterance of a stream ends."""

    endpoint_silence_s: float = field(
        default=0.8, metadata={"help": "An utterance ends after this silence (blank frames), in seconds."}
    )
    max_utterance_s: float = field(
        default=20.0,
        metadata={
            "help": "A longer utterance ends at its next pause of 0.2 s; from one and a half times this length on, "
            "before its next word; and at twice this length. In seconds."
        },
    )

    def __post_init__(self):
        if not self.endpoint_silence_s > 0:
            raise ValueError(f"endpoint_silence_s must be above 0, not {self.endpoint_silence_s}")
        if not self.max_utterance_s > 0:
            raise ValueError(f"max_utterance_s must be above 0, not {self.max_utterance_s}")


class Endpointer:
    """Finds the ends of utterances in the blank frames of a stream.

    Args:
        silence_frames: Blank frames after speech that end an utterance.
        pause_frames: Blank frames that end an utterance of `max_frames` or more. A single blank frame is often inside a
            word.
        max_frames: The next word ends an utterance of one and a half times this length, and any frame one of twice this
            length.
    """

    def __init__(self, *, silence_frames: int, pause_frames: int, max_frames: int):
        self.silence_frames, self.max_frames = silence_frames, max_frames
        self.pause_frames = min(pause_frames, silence_frames)
        self.begin()

    def begin(self) -> None:
        """Begin an utterance."""
        self.frames = self.blanks = 0  # since its begin; at its end
        self.has_speech = False

    def find(self, is_blank: np.ndarray, begins_word: np.ndarray | None = None) -> int | None:
        """Return after how many of these frames the utterance ends; None if it goes on.

        The frames after the end are to be given again, after `begin`.

        Args:
            is_blank: Bool (frames,).
            begins_word: Bool (frames,), where the first token of a word begins; by default it is not known.
        """
        begins = np.zeros(len(is_blank), bool) if begins_word is None else begins_word
        for place, (blank, begin) in enumerate(zip(is_blank.tolist(), begins.tolist(), strict=True), start=1):
            if begin and self.has_speech and 2 * self.frames >= 3 * self.max_frames:
                return place - 1
            self.frames += 1
            self.blanks = self.blanks + 1 if blank else 0
            self.has_speech |= not blank
            is_long, is_too_long = self.frames >= self.max_frames, self.frames >= 2 * self.max_frames
            needed = self.pause_frames if is_long else self.silence_frames
            if self.has_speech and (self.blanks >= needed or is_too_long):
                return place
        return None
