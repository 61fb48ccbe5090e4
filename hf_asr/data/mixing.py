"""Turn pieces of a recording into one waveform: select a part, mix the channels, and resample."""

from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np
import soxr

from .containers import MIN_LACK, AudioError, AudioTooLongError
from .timeline import Notes

MIN_RATE, MAX_RATE = 1000, 384_000  # Hz; a broken header may contain any rate

# The energy of the mean of n uncorrelated channels is the sum of their energies divided by n². The same is true if all
# channels but one are silent. Less than a tenth of it means that the channels cancel.
CANCELLED = 0.1
BLOCK, MIN_BLOCK = 1.0, 0.5  # seconds that are tested at a time; shorter channels may be opposite by chance
# Blocks far below the loudest one contain no speech: a hum that cancels between words is not a loss.
NOTICEABLE, MIN_POWER = 0.001, 1e-10  # relative to the loudest block; relative to full scale, below which is rounding

NO_SAMPLES = np.zeros(0, np.float32)

Pieces = Iterator[tuple[float, np.ndarray, int]]  # time in seconds, (samples, channels) and rate


def select_part(
    pieces: Pieces, *, start: float | None, end: float | None, max_seconds: float, notes: Notes
) -> Iterator:
    """Yield samples (samples, channels) and rate from `start` to `end` seconds; note a lack as damage.

    Raises:
        AudioTooLongError: The part is longer than `max_seconds`.
        AudioError: The recording ends before `start`.
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
        raise AudioError(f"{start} to {end} s is outside of its {length:.2f} s")
    if end is not None and end - length >= MIN_LACK:
        notes.damage.append(f"ends at {length:.2f} s, but {start or 0:g} to {end:g} s are requested")


class Mix:
    """Mix channels to one, which is `channel` or the mean of all, and detect whether they cancel in the mean.

    Each block of about a second is tested separately, because channels may be opposite in only a part of the recording.
    Energies exclude a constant offset, which is inaudible and does not cancel.
    """

    def __init__(self, channel: int | None):
        self.channel = channel
        self.channels = 0
        self.rate = 0  # of the last piece, in Hz
        self.energies = np.zeros(0)  # of each channel
        self.loudest_power = self.cancelled_power = 0.0  # of the loudest block, and of the loudest block that cancels
        self.is_judged = False
        self._begin_block(0)

    def _begin_block(self, channels: int) -> None:
        self.count, self.seconds = 0, 0.0
        self.sums, self.squares = np.zeros(channels + 1), np.zeros(channels + 1)  # of each channel and of their mean

    def mono(self, pieces: Iterable[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
        """Yield one channel (samples,) and the rate of each piece (samples, channels)."""
        for samples, rate in pieces:
            channels = samples.shape[1]
            self.channels, self.rate = max(self.channels, channels), rate
            if self.channel is not None:
                yield samples[:, min(self.channel, channels - 1)], rate
            elif channels == 1:
                yield samples[:, 0], rate
            else:
                yield self._mean(samples, rate), rate
        self._end_block()

    def _mean(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """Return the mean (samples,) of the channels, and add up their energies."""
        channels = samples.shape[1]
        if len(self.sums) != channels + 1:
            self._end_block()
            self._begin_block(channels)
        # Float64, because an offset would dominate in float32. A row per channel is 20 times faster than a column.
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
        with np.errstate(invalid="ignore"):  # infinite samples are an error later
            *energies, energy = self.squares - self.sums**2 / self.count
        self.energies = np.pad(self.energies, (0, self.channels - len(self.energies)))
        self.energies[: len(energies)] += energies
        if self.seconds < MIN_BLOCK and self.is_judged:
            return
        self.is_judged = True
        expected = sum(energies) / len(energies) ** 2  # energy of the mean if the channels were uncorrelated
        self.loudest_power = max(self.loudest_power, expected / self.count)
        if energy < CANCELLED * expected:
            self.cancelled_power = max(self.cancelled_power, expected / self.count)

    @property
    def is_cancelled(self) -> bool:
        """Return whether the channels cancel in a block that is loud enough for speech."""
        return self.cancelled_power > max(MIN_POWER, NOTICEABLE * self.loudest_power)

    @property
    def loudest(self) -> int:
        """Return the number of the channel with the most energy, from 0."""
        return int(self.energies.argmax())


def resampled(pieces: Iterable[tuple[np.ndarray, int]], sampling_rate: int) -> Iterator[np.ndarray]:
    """Yield consecutive pieces (samples,) with their rates as pieces of one waveform at `sampling_rate` Hz."""
    stream, stream_rate = None, sampling_rate
    for piece, rate in pieces:
        if rate != stream_rate:
            if stream is not None:
                yield stream.resample_chunk(NO_SAMPLES, last=True)
            stream, stream_rate = None, rate
            if rate != sampling_rate:
                stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32")
        yield piece if stream is None else stream.resample_chunk(np.ascontiguousarray(piece))
    if stream is not None:
        yield stream.resample_chunk(NO_SAMPLES, last=True)


def check_rate(rate: int) -> None:
    """Raise AudioError for a rate that no recording has: resampling from it could fill the memory."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"its sampling rate is {rate} Hz: {MIN_RATE} to {MAX_RATE} are accepted")
