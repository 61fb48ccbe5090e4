"""Measure how a recording sounds: its level, clipping, silence and noise, and a fingerprint that copies of it share."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import datasets
import numpy as np
from tqdm.auto import tqdm

from .audio import AudioError, LongRecording, Recording
from .measuring import Measurement
from .sources import row_recording

HOP = 0.01  # seconds between two frames
WINDOW = 512  # samples of the Fourier transform; a frame is the first 0.025 s of it
BANDS = 17  # of a frame, equally wide on a logarithmic scale
LOWEST, HIGHEST = 200.0, 3800.0  # Hz of the bands: a copy of a telephone has them, too
SEGMENTS = 33  # of equal length, of the recording without its edges
EDGE = 0.01  # share of the energy: the part before it and after it does not count, because silence of copies differs
FINGERPRINT_BYTES = (SEGMENTS - 1) * (BANDS - 1) // 8
FULL_SCALE = 0.99  # a sample beyond it is counted as clipped
LOUD = 30.0  # dB below the level of speech: a frame below it is silent
INAUDIBLE = -60.0  # dB of full scale: a recording whose speech is below it is silent
LONG_SECONDS = 120.0  # a recording that is longer is never in memory
FLOOR = 1e-10  # power, -100 dB of full scale


@dataclass
class Acoustics:
    """Hold what was measured of a recording.

    Attributes:
        file_rate: Sampling rate of the file, in Hz; 0 if it is unknown.
        seconds: Of the whole recording.
        level: Of speech, in dB of full scale: 95 % of the frames are below it.
        clipped: Share of samples at full scale.
        silent: Share of frames that are silent.
        start, end: First and last second that is not silent.
        snr: Level of speech minus that of the quietest tenth of the frames, in dB. Without a pause, it is too small.
        fingerprint: uint8 (FINGERPRINT_BYTES,), see `_fingerprint`; None for a silent recording.
        fingerprint_seconds: Length of the part that it describes.
    """

    file_rate: int
    seconds: float
    level: float
    clipped: float
    silent: float
    start: float
    end: float
    snr: float
    fingerprint: np.ndarray | None = None
    fingerprint_seconds: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Return whether the recording is silent."""
        return self.level < INAUDIBLE

    @property
    def spoken_seconds(self) -> float:
        """Return the seconds without the silence at both ends."""
        return self.end - self.start


def listen(
    rows: datasets.Dataset, *, sampling_rate: int, label: str = "Listening", show_progress: bool = True
) -> tuple[list[Acoustics | None], list[Measurement]]:
    """Return what is measured of each recording, None if it cannot be read, and its duration and defects.

    Each recording is decoded once and not kept in memory; one of more than two minutes is read piece by piece.
    """

    def one(place: int) -> tuple[Acoustics | None, Measurement]:
        options = {"sampling_rate": sampling_rate, "max_seconds": LONG_SECONDS, "opens_longer": True}
        try:
            recording = row_recording(rows[place], **options)
            acoustics = measure_acoustics(recording, sampling_rate=sampling_rate)
        except AudioError as error:
            return None, Measurement(problem=str(error))
        is_long = isinstance(recording, LongRecording)
        seconds = recording.duration if is_long else len(recording.waveform) / sampling_rate
        return acoustics, Measurement(seconds, "; ".join(recording.damage) or None, list(recording.remarks))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(one, range(len(rows)))
        found = list(tqdm(results, total=len(rows), desc=label, unit="file", disable=not show_progress))
    return [acoustics for acoustics, _ in found], [measurement for _, measurement in found]


def measure_acoustics(recording: Recording | LongRecording, *, sampling_rate: int) -> Acoustics:
    """Return what is measured of a recording, which is read piece by piece if it is long.

    An hour of audio takes 25 MB.

    Raises:
        AudioError: A long recording cannot be read any more.
    """
    pieces = [recording.waveform] if isinstance(recording, Recording) else recording
    powers, bands, clipped, samples = [], [], 0, 0
    for piece in _whole_frames(pieces, round(HOP * sampling_rate)):
        clipped, samples = clipped + int((np.abs(piece) >= FULL_SCALE).sum()), samples + len(piece)
        power, of_bands = _frames(piece, sampling_rate)
        powers.append(power)
        bands.append(of_bands)
    levels = 10 * np.log10(np.concatenate(powers) + FLOOR)  # (T,)
    level, noise = (float(np.quantile(levels, share)) for share in (0.95, 0.05))
    loud = np.flatnonzero(levels > level - LOUD)
    acoustics = Acoustics(
        recording.file_rate,
        samples / sampling_rate,
        level,
        clipped / samples,
        1 - len(loud) / len(levels),
        loud[0] * HOP,
        (loud[-1] + 1) * HOP,
        level - noise,
    )
    if not acoustics.is_silent:
        acoustics.fingerprint, acoustics.fingerprint_seconds = _fingerprint(np.concatenate(bands))
    return acoustics


def _whole_frames(pieces: Iterable[np.ndarray], hop: int) -> Iterable[np.ndarray]:
    """Yield the samples of consecutive pieces (samples,) in multiples of `hop`, with zeros at the end."""
    rest = np.zeros(0, np.float32)
    for piece in pieces:
        piece = np.concatenate([rest, piece])
        whole = len(piece) - len(piece) % hop
        rest = piece[whole:]
        for first in range(0, whole, 6000 * hop):  # a minute at a time
            yield piece[first : min(whole, first + 6000 * hop)]
    if len(rest):
        yield np.pad(rest, (0, hop - len(rest)))


def _frames(samples: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean power (frames,) and the energies of the bands (frames, BANDS) of whole frames (samples,)."""
    hop, width = round(HOP * sampling_rate), min(WINDOW, round(0.025 * sampling_rate))
    power = np.square(samples.reshape(-1, hop), dtype=np.float64).mean(1)
    padded = np.pad(samples, (0, width - hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop]
    spectrum = np.square(np.abs(np.fft.rfft(frames * np.hanning(width), WINDOW)))  # (T, F)
    edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1) / sampling_rate * WINDOW
    bins = np.maximum.accumulate(np.round(edges).astype(int)) + np.arange(BANDS + 1) // BANDS
    sums = np.concatenate([np.zeros((len(spectrum), 1)), spectrum.cumsum(1)], axis=1)
    return power, (sums[:, np.maximum(bins[1:], bins[:-1] + 1)] - sums[:, bins[:-1]]).astype(np.float32)


def _fingerprint(bands: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a bit for each change of the slope between two bands from one segment to the next one, and seconds.

    This is the fingerprint of Haitsma and Kalker (2002), with segments of the whole recording instead of frames. A gain
    and a filter do not change it, noise and a codec change a few bits. Two recordings differ in about half of the bits.

    Args:
        bands: Energies (frames, BANDS).
    """
    sums = np.concatenate([np.zeros((1, BANDS)), bands.cumsum(0, dtype=np.float64)])
    energy, frames = sums.sum(1), np.arange(len(sums))
    first, last = np.interp(np.array([EDGE, 1 - EDGE]) * energy[-1], energy, frames)
    borders = np.linspace(first, last, SEGMENTS + 1)
    at_borders = np.stack([np.interp(borders, frames, column) for column in sums.T], 1)
    energies = np.log(np.diff(at_borders, axis=0) + FLOOR)  # (SEGMENTS, BANDS)
    bits = np.diff(np.diff(energies, axis=0), axis=1) > 0
    return np.packbits(bits.ravel()), float(last - first) * HOP
