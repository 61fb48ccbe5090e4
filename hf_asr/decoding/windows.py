"""Split long recordings into windows that overlap, and put windows of similar length into batches."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Window:
    """A part of a recording.

    Attributes:
        waveform: Samples (samples,).
        left, right: Encoder frames of context at each end, which are computed and not used.
        pause: Samples without speech, which are not computed; the waveform is then empty.
    """

    waveform: np.ndarray
    left: int = 0
    right: int = 0
    pause: int = 0

    @property
    def samples(self) -> int:
        """Number of samples that it covers."""
        return self.pause or len(self.waveform)


def check_window(*, chunk_seconds: float, stride_seconds: float) -> None:
    """Raise ValueError for a negative stride, or a window that is not longer than the context at its two ends."""
    if not stride_seconds >= 0:
        raise ValueError(f"the stride of windows must be 0 s or more, not {stride_seconds:g} s")
    if not 2 * stride_seconds < chunk_seconds < math.inf:
        raise ValueError(
            f"windows of {chunk_seconds:g} s cannot be used: they have {stride_seconds:g} s of context at each end, so "
            f"they must be longer than {2 * stride_seconds:g} s"
        )


def split_windows(
    pieces: Iterable[np.ndarray],
    *,
    sampling_rate: int,
    samples_per_frame: int,
    chunk_seconds: float = 30.0,
    stride_seconds: float = 3.0,
) -> Iterator[Window]:
    """Yield windows of `chunk_seconds` over a recording, with context of `stride_seconds` at inner ends.

    Two neighbouring windows share twice the context. The used parts of all windows, one after another, are the whole
    recording. A recording that is not longer than one window is one window without context.

    Args:
        pieces: The recording in consecutive pieces (samples,); no more of them are read than the next window needs.
        sampling_rate: Of the recording, in Hz.
        samples_per_frame: Samples that one frame of logits covers.

    Raises:
        ValueError: A window that is not longer than the context at its two ends.
    """
    check_window(chunk_seconds=chunk_seconds, stride_seconds=stride_seconds)
    ratio = samples_per_frame
    stride = round(stride_seconds * sampling_rate / ratio)  # in frames, as a window's context
    # A window has at least one frame that is not context.
    chunk = max(round(chunk_seconds * sampling_rate / ratio), 2 * stride + 1) * ratio
    signal, left = np.zeros(0, np.float32), 0
    for piece in pieces:
        signal = np.concatenate([signal, piece]) if len(signal) else piece
        while len(signal) > chunk:
            yield Window(signal[:chunk], left, stride)
            signal, left = signal[chunk - 2 * stride * ratio :], stride
    yield Window(signal, left)


def batches(windows: Sequence[Window], *, batch_seconds: float, sampling_rate: int) -> Iterator[list[int]]:
    """Yield the indices of windows of similar length, the longest first.

    Args:
        batch_seconds: Greatest number of windows in a batch times the longest one, in seconds. A batch has at least one
            window.
    """
    order = sorted(range(len(windows)), key=lambda i: windows[i].samples)
    while order:
        limit = max(1, int(batch_seconds * sampling_rate // max(1, windows[order[-1]].samples)))
        yield order[-limit:][::-1]
        del order[-limit:]


def consecutive_batches(
    windows: Iterable[Window], *, batch_seconds: float, sampling_rate: int
) -> Iterator[list[Window]]:
    """Yield consecutive windows in batches, as they are read; for `batch_seconds` see `batches`."""
    batch: list[Window] = []
    longest = 0
    for window in windows:
        longest = max(longest, window.samples)
        if batch and (len(batch) + 1) * longest > batch_seconds * sampling_rate:
            yield batch
            batch, longest = [], window.samples
        batch.append(window)
    if batch:
        yield batch
