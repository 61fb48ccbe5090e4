"""Reading recordings: any format, rate and channel count becomes 16 kHz mono float32."""

import io
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr


class AudioError(ValueError):
    """A recording that cannot be used; the message says why."""


def read_audio(source: str | Path | bytes, *, sampling_rate: int = 16000) -> np.ndarray:
    """Float32 (samples,) in [-1, 1] at `sampling_rate` Hz, the mean of all channels.

    soundfile reads wav, flac, mp3, ogg and opus; whatever it refuses goes to PyAV, whose wheels carry FFmpeg's codecs.

    Raises:
        AudioError: A missing, empty or undecodable file, or one that holds NaN.
    """
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise AudioError("file not found")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if not size:
        raise AudioError("file is empty (0 bytes)")
    try:
        handle = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        waveform, rate = soundfile.read(handle, dtype="float32", always_2d=True)  # (samples, channels)
    except soundfile.SoundFileError as soundfile_error:
        try:
            waveform, rate = _read_with_av(source)
        except (av.FFmpegError, ValueError, IndexError) as error:
            raise AudioError(f"not decodable: {soundfile_error} (soundfile); {error} (PyAV)") from error
    waveform = waveform.mean(axis=1)
    if not len(waveform):
        raise AudioError("holds no audio (0 samples)")
    if not np.isfinite(waveform).all():
        raise AudioError("holds NaN or infinite samples")
    if rate != sampling_rate:
        waveform = soxr.resample(waveform, rate, sampling_rate)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _read_with_av(source: str | Path | bytes) -> tuple[np.ndarray, int]:
    """(samples, channels) and the rate in Hz."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        if not container.streams.audio:
            raise ValueError("no audio stream")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
        blocks = [frame.to_ndarray() for frame in frames]
    if not blocks:
        raise ValueError("no audio frames")
    return np.concatenate(blocks, axis=1).T, stream.rate
