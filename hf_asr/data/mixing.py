"""From pieces of a recording to one waveform: the wanted part, channels as one, at the wanted rate."""

from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np
import soxr

from .containers import MIN_LACK, AudioError, AudioTooLongError
from .timeline import Notes

MIN_RATE, MAX_RATE = 1000, 384_000  # Hz; a header may claim any

# The mean of channels that have nothing to do with one another has the energy of the sum of them, over the square of
# their number, and so has the mean where only one is not silent. A tenth of that is left only where they cancel.
CANCELLED = 0.1
BLOCK, MIN_BLOCK = 1.0, 0.5  # seconds that are judged at a time; in less, channels may be opposite by chance
# What is so far below the loudest block is no speech: a hum that cancels between words is no loss.
NOTICEABLE, MIN_POWER = 0.001, 1e-10  # of the loudest block; of full scale, where only rounding is left

Pieces = Iterator[tuple[float, np.ndarray, int]]  # time in seconds, (samples, channels) and rate


def cut(pieces: Pieces, *, start: float | None, end: float | None, max_seconds: float, notes: Notes) -> Iterator:
    """Yield (samples, channels) and rate of what lies between `start` and `end`; a lack of it is damage.

    Raises:
        AudioTooLongError: It is longer than `max_seconds`.
        AudioError: Nothing lies there.
    """
    length = kept = 0.0
    is_part = start is not None or end is not None
    with closing(pieces):
        for time, samples, rate in pieces:
            check_rate(rate)
            length = time + len(samples) / rate
            first = max(0, round(((start or 0.0) - time) * rate))
            last = len(samples) if end is None else max(0, min(len(samples), round((end - time) * rate)))
            if first < last:
                kept += (last - first) / rate
                if kept > max_seconds + 1e-6:
                    raise AudioTooLongError(f"is longer than {max_seconds:g} s")
                yield samples[first:last], rate
            if end is not None and length >= end:
                return
    if is_part and not kept:
        raise AudioError(f"{start} to {end} s lies outside of its {length:.2f} s")
    if end is not None and end - length >= MIN_LACK:
        notes.damage.append(f"ends at {length:.2f} s, {start or 0:g} to {end:g} s are wanted")


class Mix:
    """Channels as one, `channel` or the mean, and whether they cancel one another out in the mean.

    Each block of about a second is judged for itself: they may be opposite in a part of the recording only. Energies
    are those without a constant offset, which is inaudible and does not cancel.
    """

    def __init__(self, channel: int | None):
        self.channel = channel
        self.channels = 0
        self.energies = np.zeros(0)  # of each channel
        self.loudest_power = self.cancelled_power = 0.0  # of the loudest block, and of the loudest that cancels
        self.is_judged = False
        self._begin_block(0)

    def _begin_block(self, channels: int) -> None:
        self.count, self.seconds = 0, 0.0
        self.sums, self.squares = np.zeros(channels + 1), np.zeros(channels + 1)  # of each channel and of their mean

    def mono(self, pieces: Iterable[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
        for samples, rate in pieces:
            channels = samples.shape[1]
            self.channels = max(self.channels, channels)
            if self.channel is not None:
                yield samples[:, min(self.channel, channels - 1)], rate
            elif channels == 1:
                yield samples[:, 0], rate
            else:
                yield self._mean(samples, rate), rate
        self._end_block()

    def _mean(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """The mean (samples,) of channels, whose energies are counted."""
        channels = samples.shape[1]
        if len(self.sums) != channels + 1:
            self._end_block()
            self._begin_block(channels)
        # An offset would drown the rest in single precision. A row a channel takes a twentieth of a column's time.
        wide = np.empty((channels + 1, len(samples)))
        wide[:-1] = samples.T
        wide[-1] = wide[:-1].mean(axis=0)
        mean = wide[-1].astype(np.float32)
        self.sums += wide.sum(axis=1)
        self.squares += np.einsum("ij,ij->i", wide, wide)
        self.count, self.seconds = self.count + len(samples), self.seconds + len(samples) / rate
        if self.seconds >= BLOCK:
            self._end_block()
            self._begin_block(channels)
        return mean

    def _end_block(self) -> None:
        if not self.count:
            return
        with np.errstate(invalid="ignore"):  # infinite samples are refused later
            *energies, energy = self.squares - self.sums**2 / self.count
        self.energies = np.pad(self.energies, (0, self.channels - len(self.energies)))
        self.energies[: len(energies)] += energies
        if self.seconds < MIN_BLOCK and self.is_judged:
            return
        self.is_judged = True
        expected = sum(energies) / len(energies) ** 2  # of the mean, if they had nothing to do with one another
        self.loudest_power = max(self.loudest_power, expected / self.count)
        if energy < CANCELLED * expected:
            self.cancelled_power = max(self.cancelled_power, expected / self.count)

    @property
    def is_cancelled(self) -> bool:
        return self.cancelled_power > max(MIN_POWER, NOTICEABLE * self.loudest_power)

    @property
    def loudest(self) -> int:
        return int(self.energies.argmax())


def resampled(pieces: Iterable[tuple[np.ndarray, int]], sampling_rate: int) -> np.ndarray:
    """Return consecutive pieces (samples,), each at its own rate, as one."""
    parts: list[np.ndarray] = []
    stream, stream_rate = None, sampling_rate

    def finish() -> None:
        if stream is not None:
            parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))

    for piece, rate in pieces:
        if rate != stream_rate:
            finish()
            stream, stream_rate = None, rate
            if rate != sampling_rate:
                stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32")
        parts.append(piece if stream is None else stream.resample_chunk(np.ascontiguousarray(piece)))
    finish()
    return np.concatenate([*parts, np.zeros(0, np.float32)])


def check_rate(rate: int) -> None:
    """Raise AudioError for a rate that no recording has, and that would fill the memory."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"says that it has {rate} samples a second: {MIN_RATE} to {MAX_RATE} are accepted")
