"""Place each decoded frame in time by its time stamp, and note losses."""

import math
from dataclasses import dataclass, field

import av

from .containers import AudioError

# In these formats, a time stamp is the time to play a packet. In others it counts the previous samples, so that a gap
# is a loss. MP3, AAC and AC-3 streams have no time stamps: FFmpeg continues to count if it cannot decode a packet.
CLOCKED = {"matroska", "mov", "mpegts", "mpeg", "flv", "asf"}
BARE = {"mp3", "aac", "ac3", "eac3", "dts", "amr"}
FROM_ZERO = {"matroska", "mov", "asf", "flac", "wv", "tta", "ape", "caf", "aiff"}  # other clocks may start at any time

MIN_GAP = 0.1  # seconds; encoders, cameras and clocks differ by less, which does not displace words
MIN_LOSS = 0.02  # seconds, in formats whose time stamps count samples
AFTER_DAMAGE = 0.002  # seconds; more than the rounding to milliseconds in WebM
MAX_GAP, MAX_SILENCE = 3600.0, 4 * 3600.0  # seconds; a broken time stamp may be any number: larger gaps are not filled
PREROLL = 1.0  # seconds that are decoded before the part, because MP3 and Opus depend on previous packets


@dataclass
class Notes:
    """Collect damage and remarks for `Recording` while a file is read."""

    damage: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Timeline:
    """Place each frame by its time stamp, and count what is lost between `start` and `end`, in seconds.

    `position` is the time of the next sample, in seconds of the file. Gaps in the time stamps are filled with silence;
    no sample is dropped.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.AudioStream, kind: str, start: float, end: float
    ):
        self.kind, self.start, self.end = kind, start, end
        self.time_base = float(stream.time_base)  # because fractions are slow
        self.position = 0.0
        self.failure: str | None = None  # why reading stopped
        # Time stamp of position 0, in seconds; None until the first frame sets it.
        self.origin = 0.0 if kind in FROM_ZERO else None
        if self.origin is None and kind not in BARE and container.start_time is not None:
            self.origin = container.start_time / av.time_base
        self.min_gap = MIN_GAP if kind in CLOCKED else math.inf if kind in BARE else MIN_LOSS
        self.frames = self.bad = self.damaged = 0
        self.damaged_at_end = 0  # damaged packets since the last frame
        self.is_hurt = False
        self.skipped_to: float | None = None  # end of the packets skipped since the last frame, in seconds
        self.silence = self.drift = 0.0
        self.filled = self.lost = self.jump = 0.0  # seconds, to be noted at the end
        self.end_of_others = 0.0

    def see(self, packet: av.Packet) -> None:
        """Count a packet of another stream: its end shows how long the file is."""
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - (self.origin or 0.0)
            self.end_of_others = max(self.end_of_others, end)

    def may_skip(self, packet: av.Packet) -> bool:
        """Return whether a packet is so far before the part that it need not be decoded."""
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
        """Return the frames of a packet; a damaged packet is counted and has none."""
        try:
            return packet.decode()
        except av.FFmpegError:
            # Neither a tag between two MP3 files nor the first packet after a seek, which depends on others, is a loss.
            is_tag = packet.size and bytes(packet)[:3] in (b"ID3", b"TAG", b"APE", b"LYR")
            if packet.size and not is_tag and self.skipped_to is None:
                self.bad += 1
                is_wanted = self.position >= self.start - MIN_GAP
                self.damaged, self.damaged_at_end = self.damaged + is_wanted, self.damaged_at_end + is_wanted
                self.is_hurt = True
            return []

    def place(self, frame: av.AudioFrame) -> float:
        """Move `position` to the start of a frame, and return the seconds of silence before it."""
        self.frames += 1
        self.damaged_at_end = 0
        if frame.is_corrupt:
            self.damaged += self.position >= self.start - MIN_GAP
        is_hurt, self.is_hurt = self.is_hurt, False
        if frame.pts is None:
            return 0.0
        time = frame.pts * self.time_base
        if self.origin is None or (self.frames == 1 and not is_hurt and abs(time - self.origin) < MIN_GAP):
            self.origin = time  # the delay of an encoder is not a gap
        gap = time - self.origin - self.position
        if self.skipped_to is not None:
            self.skipped_to = None
            # If the part begins inside a gap, the silence begins with the part.
            self.position += max(0.0, min(gap - self.drift, max(self.start - self.position, 0.0)))
            gap = time - self.origin - self.position
        if gap < -1.0:  # the clock was reset, for example where two files were joined
            self.origin += gap
        elif gap < (AFTER_DAMAGE if is_hurt else MIN_GAP if self.frames == 1 else self.min_gap):
            self.drift = gap
        elif gap > MAX_GAP or self.silence + gap > MAX_SILENCE:
            self.origin += gap
            self.jump += gap
        else:
            self.silence += gap
            self.position += gap
            # Only the section of the gap inside the part counts.
            if (wanted := min(self.position, self.end) - max(self.position - gap, self.start)) > 0:
                is_loss = is_hurt or self.kind not in CLOCKED
                self.lost, self.filled = self.lost + wanted * is_loss, self.filled + wanted * (not is_loss)
            return gap
        return 0.0

    def note_losses(self, notes: Notes) -> None:
        """Note damaged, lost and filled sections."""
        if self.damaged:
            notes.damage.append(f"{self.damaged} damaged packet{'s' * (self.damaged > 1)}")
        if self.lost:
            notes.damage.append(f"{self.lost:.2f} s are lost and replaced with silence")
        if self.jump:
            notes.damage.append(f"its time stamps jump by {self.jump:.0f} s, which is not filled with silence")
        if self.filled >= MIN_GAP:
            notes.remarks.append(f"{self.filled:.1f} s without audio are filled with silence")

    def note_end(self, notes: Notes, *, promised: tuple[float, float]) -> None:
        """Note what is missing at the end.

        Args:
            promised: Seconds according to the header, and how many of them may be missing.

        Raises:
            AudioError: Nothing or almost nothing could be decoded.
        """
        if self.frames * 9 < self.bad or not self.frames:
            reason = f"{self.bad} of its packets are damaged" if self.bad else self.failure or "contains no audio"
            raise AudioError(f"not decodable: {reason} (PyAV)")
        there = max(self.position, self.end_of_others)
        seconds, tolerance = promised
        if self.kind == "mp3" and 0 < seconds < there + tolerance:  # complete: a picture or zeros follow
            self.damaged -= self.damaged_at_end
        if seconds - there - self.jump >= tolerance:
            notes.damage.append(f"truncated: {there:.1f} of {seconds:.1f} s are there")
        elif self.failure:
            notes.damage.append(f"unreadable after {there:.1f} s: {self.failure}")
