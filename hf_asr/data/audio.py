"""Reading recordings: any format, rate and channel count becomes 16 kHz mono float32."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

MAX_RATE = 384_000  # Hz; a header may claim any
# FFmpeg also reads playlists and session descriptions, which name other files and addresses: a recording must not.
AV_OPTIONS = {"format_whitelist": "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,mp3,ogg,wav,flac,amr,asf,aiff,caf,w64,au"}


class AudioError(ValueError):
    """A recording that cannot be used; the message says why."""


class AudioTooLongError(AudioError):
    """It is longer than was allowed."""


def read_audio(
    source: str | Path | bytes,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    max_seconds: float = float("inf"),
) -> np.ndarray:
    """Float32 (samples,) in [-1, 1] at `sampling_rate` Hz, the mean of all channels.

    soundfile reads wav, flac, mp3, ogg and opus; whatever it refuses goes to PyAV, whose wheels carry FFmpeg's codecs.

    Args:
        start, end: Seconds of the part to read; the beginning and the end if not given.
        max_seconds: Longer recordings are refused, before they fill the memory.

    Raises:
        AudioTooLongError: It is longer than `max_seconds`.
        AudioError: A missing, empty or undecodable file, one that holds NaN, or a part that lies outside of it.
    """
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise AudioError("file not found")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if not size:
        raise AudioError("file is empty (0 bytes)")
    try:
        handle = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with soundfile.SoundFile(handle) as file:
            rate = file.samplerate
            first, last = _part(start, end, rate, file.frames)
            _check_length(last - first, rate, max_seconds)
            file.seek(first)
            # A second at a time: many channels or a high rate shall not fill the memory.
            pieces = file.blocks(blocksize=rate, frames=last - first, dtype="float32", always_2d=True)
            waveform = _resampled((piece.mean(axis=1) for piece in pieces), rate, sampling_rate)
    except soundfile.SoundFileError as soundfile_error:
        try:
            waveform = _read_with_av(source, sampling_rate=sampling_rate, max_seconds=max_seconds)
        except AudioError:
            raise
        except (av.FFmpegError, ValueError, IndexError) as error:
            raise AudioError(f"not decodable: {_reason(soundfile_error)} (soundfile); {error} (PyAV)") from error
        first, last = _part(start, end, sampling_rate, len(waveform))
        waveform = waveform[first:last]
    if not len(waveform):
        raise AudioError("holds no audio (0 samples)")
    if not np.isfinite(waveform).all():
        raise AudioError("holds NaN or infinite samples")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _resampled(pieces: Iterable[np.ndarray], rate: int, sampling_rate: int) -> np.ndarray:
    """Consecutive pieces (samples,) as one at another rate."""
    if rate == sampling_rate:
        return np.concatenate([*pieces, np.zeros(0, np.float32)])
    stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32")
    parts = [stream.resample_chunk(piece) for piece in pieces]
    return np.concatenate([*parts, stream.resample_chunk(np.zeros(0, np.float32), last=True)])


def audio_duration(source: str | Path | bytes) -> float:
    """Seconds, by the header alone.

    Raises:
        AudioError: A missing file, or one whose header nobody understands.
    """
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise AudioError("file not found")
    try:
        return soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source)).duration
    except soundfile.SoundFileError as soundfile_error:
        try:
            with _open_with_av(source) as container:
                if container.duration is not None:
                    return container.duration / av.time_base
        except (av.FFmpegError, ValueError) as error:
            raise AudioError(f"not readable: {_reason(soundfile_error)} (soundfile); {error} (PyAV)") from error
    return len(read_audio(source)) / 16000  # a webm recorded live: its header tells no duration


def missing_bytes(source: str | Path | bytes) -> int:
    """How many bytes a RIFF wave file lacks of what its header promises: soundfile reads a truncated one in silence."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if file.read(4) != b"RIFF" or file.seek(8) != 8 or file.read(4) != b"WAVE":
            return 0
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                # Written to a pipe, a header promises nothing: 0, or the largest number there is.
                promised = 0 if size >= 0x7FFFF000 else size
                return max(0, file.tell() + promised - file.seek(0, io.SEEK_END))
            file.seek(size + size % 2, io.SEEK_CUR)
    return 0


def _reason(error: soundfile.SoundFileError) -> str:
    """libsndfile's own words; of bytes, soundfile's put an address before them."""
    return getattr(error, "error_string", str(error))


def _part(start: float | None, end: float | None, rate: int, length: int) -> tuple[int, int]:
    """First and last sample (exclusive) of a part given in seconds."""
    first = round((start or 0.0) * rate)
    last = length if end is None else min(length, round(end * rate))
    if (start is not None or end is not None) and not 0 <= first < last:
        raise AudioError(f"{start} to {end} s lies outside of its {length / rate:.2f} s")
    return first, last


def _check_length(samples: int, rate: int, max_seconds: float) -> None:
    if rate > MAX_RATE:
        raise AudioError(f"says that it has {rate} samples a second: more than {MAX_RATE} are no recording")
    if samples > max_seconds * rate:
        raise AudioTooLongError(f"is longer than {max_seconds:g} s")


def _open_with_av(source: str | Path | bytes) -> av.container.InputContainer:
    return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), options=AV_OPTIONS)


def _read_with_av(source: str | Path | bytes, *, sampling_rate: int, max_seconds: float) -> np.ndarray:
    """(samples,), the mean of all channels."""
    with _open_with_av(source) as container:
        if not container.streams.audio:
            raise ValueError("no audio stream")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)

        def pieces() -> Iterator[np.ndarray]:
            samples = 0
            for frame in container.decode(stream):
                samples += frame.samples
                _check_length(samples, stream.rate, max_seconds)
                yield from (out.to_ndarray().mean(axis=0) for out in resampler.resample(frame))
            yield from (out.to_ndarray().mean(axis=0) for out in resampler.resample(None))

        waveform = _resampled(pieces(), stream.rate, sampling_rate)
    if not len(waveform):
        raise ValueError("no audio frames")
    return waveform
