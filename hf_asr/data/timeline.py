"""Where each decoded frame belongs in time, by its time stamp, and what was lost."""

import math
from dataclasses import dataclass, field

import av

from .containers import AudioError

# Their time stamps say when a packet is to be heard. In all others they count what came before, so that a hole in them
# is a loss; and an MP3, AAC or AC-3 stream has none: FFmpeg counts on when it cannot decode a packet.
CLOCKED = {"matroska", "mov", "mpegts", "mpeg", "flv", "asf"}
BARE = {"mp3", "aac", "ac3", "eac3", "dts", "amr"}
FROM_ZERO = {"matroska", "mov", "asf", "flac", "wv", "tta", "ape", "caf", "aiff"}  # other clocks may start anywhere

MIN_GAP = 0.1  # seconds; less is what encoders, cameras and clocks differ by, and no word shifts by it
MIN_LOSS = 0.02  # where time stamps count samples
AFTER_DAMAGE = 0.002  # more than the rounding of a WebM's milliseconds
MAX_GAP, MAX_SILENCE = 3600.0, 4 * 3600.0  # a broken time stamp may say any time: such gaps are not filled
PREROLL = 1.0  # seconds that are decoded before the wanted part: MP3 and Opus lean on what came before


@dataclass
class Notes:
    """What `Recording` says of how a file was read."""

    damage: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Timeline:
    """Where each frame belongs, by its time stamp, and what was lost from `start` to `end`.

    `position` is where the next sample goes, in seconds of the file. Silence fills what time stamps leave out; they
    never drop a sample.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.AudioStream, kind: str, start: float, end: float
    ):
        self.kind, self.start, self.end = kind, start, end
        self.time_base = float(stream.time_base)  # Fractions are slow
        self.position = 0.0
        self.failure: str | None = None  # why no further packet came
        # Of what the clock shows; None is the first frame's own time.
        self.origin = 0.0 if kind in FROM_ZERO else None
        if self.origin is None and kind not in BARE and container.start_time is not None:
            self.origin = container.start_time / av.time_base
        self.min_gap = MIN_GAP if kind in CLOCKED else math.inf if kind in BARE else MIN_LOSS
        self.frames = self.bad = self.damaged = 0
        self.damaged_at_end = 0  # since the last frame
        self.is_hurt = False
        self.skipped_to: float | None = None  # since the last frame
        self.silence = self.drift = 0.0
        self.filled = self.lost = self.jump = 0.0  # what there is to say of it
        self.end_of_others = 0.0

    def see(self, packet: av.Packet) -> None:
        """Of another stream."""
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - (self.origin or 0.0)
            self.end_of_others = max(self.end_of_others, end)

    def may_skip(self, packet: av.Packet) -> bool:
        """Whether a packet lies so far before the wanted part that it need not be decoded."""
        if self.start <= PREROLL or self.frames < 3 or packet.pts is None or not packet.size:
            return False
        time = packet.pts * self.time_base - self.origin
        expected = self.position if self.skipped_to is None else self.skipped_to
        if not -1.0 <= time - expected <= MAX_GAP:  # as in `place`
            self.origin += time - expected
            time = expected
        if time >= self.start - PREROLL:
            return False
        self.skipped_to = time + (packet.duration or 0) * self.time_base
        return True

    def decode(self, packet: av.Packet) -> list[av.AudioFrame]:
        try:
            return packet.decode()
        except av.FFmpegError:
            # A tag between two MP3 files is no loss, nor is what cannot stand on its own where decoding sets in.
            is_tag = packet.size and bytes(packet)[:3] in (b"ID3", b"TAG", b"APE", b"LYR")
            if packet.size and not is_tag and self.skipped_to is None:
                self.bad += 1
                is_wanted = self.position >= self.start - MIN_GAP
                self.damaged, self.damaged_at_end = self.damaged + is_wanted, self.damaged_at_end + is_wanted
                self.is_hurt = True
            return []

    def place(self, frame: av.AudioFrame) -> float:
        """Move to where a frame belongs; returns the seconds of silence before it."""
        self.frames += 1
        self.damaged_at_end = 0
        if frame.is_corrupt:
            self.damaged += self.position >= self.start - MIN_GAP
        is_hurt, self.is_hurt = self.is_hurt, False
        if frame.pts is None:
            return 0.0
        time = frame.pts * self.time_base
        if self.origin is None or (self.frames == 1 and not is_hurt and abs(time - self.origin) < MIN_GAP):
            self.origin = time  # an encoder's delay is no lack
        gap = time - self.origin - self.position
        if self.skipped_to is not None:
            self.skipped_to = None
            # Where the wanted part begins in a gap, silence begins there.
            self.position += max(0.0, min(gap - self.drift, max(self.start - self.position, 0.0)))
            gap = time - self.origin - self.position
        if gap < -1.0:  # the clock was set anew, as where two files were joined
            self.origin += gap
        elif gap < (AFTER_DAMAGE if is_hurt else MIN_GAP if self.frames == 1 else self.min_gap):
            self.drift = gap
        elif gap > MAX_GAP or self.silence + gap > MAX_SILENCE:
            self.origin += gap
            self.jump += gap
        else:
            self.silence += gap
            self.position += gap
            # Of a gap that reaches beyond the wanted part, what lies in it counts.
            if (wanted := min(self.position, self.end) - max(self.position - gap, self.start)) > 0:
                is_loss = is_hurt or self.kind not in CLOCKED
                self.lost, self.filled = self.lost + wanted * is_loss, self.filled + wanted * (not is_loss)
            return gap
        return 0.0

    def note_losses(self, notes: Notes) -> None:
        """Write down what is not as it was recorded."""
        if self.damaged:
            notes.damage.append(f"{self.damaged} damaged packet{'s' * (self.damaged > 1)}")
        if self.lost:
            notes.damage.append(f"{self.lost:.2f} s are lost: silence stands there")
        if self.jump:
            notes.damage.append(f"its time stamps jump by {self.jump:.0f} s: no silence was put there")
        if self.filled >= MIN_GAP:
            notes.remarks.append(f"{self.filled:.1f} s for which it holds no audio are silence")

    def note_end(self, notes: Notes, *, promised: tuple[float, float]) -> None:
        """Write down what lacks at the end.

        Raises:
            AudioError: Nothing, or nearly nothing, could be decoded.
        """
        if self.frames * 9 < self.bad or not self.frames:
            reason = f"{self.bad} of its packets are damaged" if self.bad else self.failure or "holds no audio"
            raise AudioError(f"not decodable: {reason} (PyAV)")
        there = max(self.position, self.end_of_others)
        seconds, tolerance = promised
        if self.kind == "mp3" and 0 < seconds < there + tolerance:  # all is there: what follows is a cover, or zeros
            self.damaged -= self.damaged_at_end
        if seconds - there - self.jump >= tolerance:
            notes.damage.append(f"truncated: {there:.1f} of {seconds:.1f} s are there")
        elif self.failure:
            notes.damage.append(f"unreadable after {there:.1f} s: {self.failure}")
