"""Read recordings of any format, rate and number of channels as mono float32 at one rate, and report their defects."""

import functools
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile

from .containers import (
    MIN_LACK,
    SOUNDFILE_MAGIC,
    AudioError,
    AudioTooLongError,
    DataChunk,
    closed,
    data_chunk,
    foreign_format,
)
from .media import ACCEPTED, as_float, media_duration, media_pieces
from .mixing import NO_SAMPLES, Mix, Pieces, check_rate, resampled, select_part
from .timeline import Notes

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioError",
    "AudioTooLongError",
    "LongRecording",
    "Recording",
    "audio_duration",
    "missing_bytes",
    "open_recording",
    "read_array",
    "read_audio",
    "read_or_open",
    "read_recording",
]

# Suffixes of recordings in a folder, in lower case. Formats that cannot be read (.silk …) are included, so that such
# files are reported.
AUDIO_SUFFIXES = frozenset(
    """
    .wav .wave .rf64 .w64 .flac .aif .aiff .aifc .au .snd .caf .voc .sph .mp3 .mp2 .mpga .ogg .oga .opus .spx .m4a .m4b
    .m4r .aac .mp4 .m4v .mov .3gp .3g2 .webm .weba .mka .mkv .wma .wmv .asf .amr .awb .avi .ts .mts .m2ts .mpg .mpeg
    .vob .flv .ac3 .eac3 .ec3 .dts .wv .tta .ape .mpc .tak .dsf .raw .pcm .silk .slk .ra .rm .dss .ds2
    """.split()  # noqa: SIM905
)
# Such a file does not contain its rate, number of channels or sample format.
HEADERLESS = {
    ".raw",
    ".pcm",
    ".sln",
    ".vox",
    ".ulaw",
    ".alaw",
    ".ul",
    ".al",
    ".gsm",
    ".g722",
    ".g726",
    ".s16",
    ".s16le",
}
MIN_BYTE_RATE = 12  # bytes per second; a header that implies less must be wrong: silence in Opus or FLAC has 50
PIECE_SAMPLES = 4_000_000  # of all channels together, read at a time

FULL_SCALE = 100.0  # a larger float sample was never divided by full scale

Result = TypeVar("Result")


@dataclass
class Recording:
    """Hold a waveform and its defects.

    Attributes:
        waveform: float32 (samples,), at the requested rate.
        damage: What is missing or could not be decoded. Training skips and reports such a recording; inference uses it
            and reports the damage.
        remarks: How the recording was read, if that was unusual.
        file_rate: Sampling rate of the file, in Hz; 0 if it is unknown.
    """

    waveform: np.ndarray
    damage: list[str]
    remarks: list[str]
    file_rate: int = 0


def read_recording(
    source: str | Path | bytes,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
    max_seconds: float = math.inf,
) -> Recording:
    """Read a recording, or a part of it, as the mean of its channels.

    soundfile reads uncompressed formats and FLAC; PyAV reads other formats, and files that soundfile refuses.

    Args:
        source: Path or bytes of a file.
        sampling_rate: Rate of the result, in Hz.
        start, end: Part to read, in seconds of the file; None is its beginning or end.
        channel: Number of the only channel to read, from 0; None is the mean of all.
        max_seconds: A longer recording is refused before it fills the memory.

    Raises:
        AudioTooLongError: The recording is longer than `max_seconds`.
        AudioError: The file is missing, empty or undecodable, contains NaN, or does not contain the part.
    """
    part = {"start": start, "end": end}
    options = {"sampling_rate": sampling_rate, "channel": channel, "max_seconds": max_seconds}
    return _decoded(source, lambda pieces: _recording(pieces, **part, **options), **part)


def read_audio(source: str | Path | bytes, **options: Any) -> np.ndarray:
    """Return the waveform of `read_recording`, which takes the same arguments, without its defects."""
    return read_recording(source, **options).waveform


class LongRecording:
    """A recording of any length, which is read piece by piece.

    Attributes:
        duration: In seconds.
        sampling_rate: Of its pieces, in Hz.
        damage, remarks, file_rate: See `Recording`.
        progress_path: File from which an interrupted recognition goes on; None for none.
    """

    progress_path: Path | None = None

    def __init__(
        self,
        pieces: Callable[[], Iterator[np.ndarray]],
        *,
        duration: float,
        sampling_rate: int,
        notes: Notes,
        file_rate: int = 0,
    ):
        self._pieces, self.duration, self.sampling_rate, self.file_rate = pieces, duration, sampling_rate, file_rate
        self.damage, self.remarks = notes.damage, notes.remarks

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield consecutive pieces (samples,), float32, of about a second."""
        return self._pieces()


def open_recording(
    source: str | Path | bytes,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
) -> LongRecording:
    """Return a recording whose pieces are, one after another, the waveform of `read_recording`.

    It is decoded once to find its defects, and again whenever its pieces are read, so that it is never in memory.

    Raises:
        AudioError: As for `read_recording`, which takes the same arguments.
    """
    part = {"start": start, "end": end}
    options = {"sampling_rate": sampling_rate, "channel": channel}
    return _decoded(source, lambda pieces: _long_recording(pieces, **part, **options), **part)


def read_or_open(source: str | Path | bytes, *, max_seconds: float, **options: Any) -> Recording | LongRecording:
    """Read a recording of at most `max_seconds`, and open a longer one; for the options see `read_recording`."""
    try:
        return read_recording(source, max_seconds=max_seconds, **options)
    except AudioTooLongError:
        return open_recording(source, **options)


def read_array(
    array: np.ndarray,
    rate: int,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
    max_seconds: float = math.inf,
) -> Recording:
    """Return decoded samples as `read_recording` would return those of a file.

    Args:
        array: (samples,), (samples, channels) or (channels, samples).
        rate: Rate of `array`, in Hz.

    Raises:
        AudioError: As for `read_recording`, or the array does not contain samples.
    """
    try:
        samples = np.asarray(array)
    except ValueError as error:  # lists of different lengths
        raise AudioError(f"is not an array of samples: {error}") from error
    if samples.dtype.kind not in "iuf" or samples.ndim not in (1, 2):
        raise AudioError(f"is not an array of samples: {samples.ndim} dimensions of {samples.dtype}")
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:  # a recording has more samples than channels
        samples = samples.T
    if not isinstance(rate, int | float | np.number) or rate != rate or rate != int(rate):
        raise AudioError(f"its sampling rate is {rate!r}: expected a whole number in Hz")
    rate = int(rate)
    check_rate(rate)

    def pieces(*, notes: Notes) -> Pieces:
        for first in range(0, len(samples), size := _piece_size(rate, samples.shape[1])):
            yield first / rate, as_float(samples[first : first + size]), rate

    part = {"start": start, "end": end, "channel": channel, "max_seconds": max_seconds}
    return _recording(pieces, sampling_rate=sampling_rate, **part)


def audio_duration(source: str | Path | bytes) -> float:
    """Return the duration in seconds, from the header alone if it contains the duration.

    Raises:
        AudioError: The file is missing or cannot be read.
    """
    head = _head(source)
    failures = []
    for name in _readers(source, head):
        try:
            if name == "PyAV":
                seconds = media_duration(source)
            else:
                with _open_soundfile(source, data_chunk(source)) as file:
                    seconds = file.frames / file.samplerate
        except AudioError:
            raise
        except Exception as error:  # as in `read_recording`
            failures.append(f"{_reason(error)} ({name})")
            continue
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if seconds is None or seconds * MIN_BYTE_RATE > size:  # a webm recorded live contains no duration
            return len(read_audio(source)) / 16000
        return seconds
    raise AudioError(f"not readable: {'; '.join(failures)}; accepted are {ACCEPTED}")


def missing_bytes(source: str | Path | bytes) -> int:
    """Return how many bytes of an uncompressed file are missing according to its header; 0 if it is less than 0.1 s."""
    _head(source)
    chunk = data_chunk(source)
    return chunk.lack if chunk else 0


def _head(source: str | Path | bytes) -> bytes:
    """Return the first bytes of a file; raise AudioError if its format cannot be read."""
    if isinstance(source, bytes):
        head = source[:64]
    else:
        try:
            if not Path(source).is_file():
                raise AudioError(_no_file(source))
            with open(source, "rb") as file:
                head = file.read(64)
        except (OSError, ValueError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"cannot be opened: {error}") from error
        suffix = Path(source).suffix.lower()
        if head and suffix in HEADERLESS and not head.startswith(SOUNDFILE_MAGIC):
            raise AudioError(
                f"headerless PCM ({suffix}): its rate and format are unknown; convert it to wav, for example with "
                "`ffmpeg -f s16le -ar RATE -ac 1 -i FILE FILE.wav`"
            )
    if not head:
        raise AudioError("file is empty (0 bytes)")
    if name := foreign_format(head):
        raise AudioError(f"not decodable: this is {name}; accepted are {ACCEPTED}")
    return head


def _no_file(source: str | Path) -> str:
    """Return why a path that is not a file cannot be read."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(source), re.IGNORECASE):  # a Path has one slash
        return "is an address: download the recording and give its file"
    if not Path(source).exists():
        return "file not found"
    return "is a folder, a pipe or a device: write the recording to a file first"


def _decoded(
    source: str | Path | bytes,
    use: Callable[[Callable[..., Pieces]], Result],
    *,
    start: float | None,
    end: float | None,
) -> Result:
    """Return `use` of the first reader that can decode a file from `start` on."""
    failures = []
    for name, pieces in _readers(source, _head(source)).items():
        try:
            return use(functools.partial(pieces, source, start=start or 0.0, end=end))
        except AudioError:
            raise
        except Exception as error:  # decoders raise any exception for broken files
            failures.append(f"{_reason(error)} ({name})")
    raise AudioError(f"not decodable: {'; '.join(failures)}; accepted are {ACCEPTED}")


def _readers(source: str | Path | bytes, head: bytes) -> dict:
    """Return the readers of a file, in the order in which they are tried."""
    readers = {"soundfile": _soundfile_pieces, "PyAV": media_pieces}
    return readers if head.startswith(SOUNDFILE_MAGIC) else dict(reversed(readers.items()))


def _reason(error: Exception) -> str:
    """Return the message of a decoder, without the memory address or error number of its exception."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None)
    return words or str(error) or type(error).__name__


def _open_soundfile(source: str | Path | bytes, chunk: DataChunk | None) -> soundfile.SoundFile:
    """Open a file with soundfile; raise ValueError for files that it would read only partly."""
    if chunk and chunk.promised is None:
        handle = closed(source, chunk)
    elif isinstance(source, bytes):
        handle = _Memory(source)
    elif Path(source).suffix.lower() == ".raw":  # soundfile assumes no header for this suffix, but this file has one
        handle = _Memory(Path(source).read_bytes())
    else:
        handle = str(source)
    file = soundfile.SoundFile(handle)
    # soundfile reads an unknown file called .au or .snd as headerless, and only the first link of an Ogg file. It does
    # not support FLAC files of unknown length.
    if file.format in ("RAW", "MP3", "OGG") or "MPEG" in file.subtype or file.frames >= 1 << 62:
        reason = "format not recognised" if file.format == "RAW" else "left to PyAV"
        file.close()
        raise ValueError(reason)
    return file


class _Memory(io.BytesIO):
    """Read bytes as a file; if a broken header leads to a negative position, the seek fails without a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _soundfile_pieces(source: str | Path | bytes, *, notes: Notes, start: float, end: float | None) -> Pieces:
    """Yield the pieces that soundfile reads from `start` on; the caller stops at `end`."""
    chunk = data_chunk(source)
    with _open_soundfile(source, chunk) as file:
        rate, frames = file.samplerate, file.frames
        check_rate(rate)
        place = min(max(0, math.floor(start * rate)), frames)
        if place:
            file.seek(place)
        if place == frames:
            # The part is beyond the end: report where the end is.
            yield place / rate, np.zeros((0, file.channels), np.float32), rate
        # `SoundFile.blocks` ignores short reads and returns its old buffer again.
        while len(piece := file.read(_piece_size(rate, file.channels), dtype="float32", always_2d=True)):
            yield place / rate, piece, rate
            place += len(piece)
    there, promised = place / rate, frames / rate
    if chunk and chunk.lack:
        promised = there * chunk.promised / max(1, chunk.there)
    if promised - there >= MIN_LACK:
        notes.damage.append(f"truncated: {there:.1f} of {promised:.1f} s are there")


def _piece_size(rate: int, channels: int) -> int:
    """Return the number of samples to read at a time: a second, or fewer if many channels would fill the memory."""
    return max(1, min(rate, PIECE_SAMPLES // max(1, channels)))


def _recording(
    pieces: Callable[..., Pieces],
    *,
    sampling_rate: int,
    start: float | None,
    end: float | None,
    channel: int | None,
    max_seconds: float,
) -> Recording:
    """Return the recording of `pieces`, which is called a second time if the channels cancel in their mean."""
    _check_part(start, end)
    part = {"start": start, "end": end, "max_seconds": max_seconds}
    mix, notes = Mix(channel), Notes()
    mono = mix.mono(select_part(pieces(notes=notes), notes=notes, **part))
    waveform = np.concatenate([*resampled(mono, sampling_rate), NO_SAMPLES])
    if used := _channel_instead(mix, notes):
        mono = used.mono(select_part(pieces(notes=Notes()), notes=Notes(), **part))
        waveform = np.concatenate([*resampled(mono, sampling_rate), NO_SAMPLES])
    peak = float(max(waveform.max(), -waveform.min())) if len(waveform) else 0.0  # NaN if a sample is
    _check_samples(len(waveform), peak, notes)
    return Recording(np.ascontiguousarray(waveform, dtype=np.float32), notes.damage, notes.remarks, mix.rate)


def _long_recording(
    pieces: Callable[..., Pieces],
    *,
    sampling_rate: int,
    start: float | None,
    end: float | None,
    channel: int | None,
) -> LongRecording:
    """Return the recording of `pieces` after reading all of them once."""
    _check_part(start, end)
    part = {"start": start, "end": end, "max_seconds": math.inf}
    mix, notes = Mix(channel), Notes()
    samples, duration, peak = 0, 0.0, 0.0
    for piece, rate in mix.mono(select_part(pieces(notes=notes), notes=notes, **part)):
        samples, duration = samples + len(piece), duration + len(piece) / rate
        if len(piece):
            peak = float(np.maximum(peak, max(piece.max(), -piece.min())))  # unlike max, it keeps NaN
    used = _channel_instead(mix, notes)
    _check_samples(samples, peak, notes)
    own = channel if used is None else used.channel

    def waveforms() -> Iterator[np.ndarray]:
        try:
            selected = select_part(pieces(notes=Notes()), notes=Notes(), **part)
            yield from resampled(Mix(own).mono(selected), sampling_rate)
        except AudioError:
            raise
        except Exception as error:  # as in `_decoded`; the file may be gone, too
            raise AudioError(f"cannot be read any more: {_reason(error)}") from error

    return LongRecording(waveforms, duration=duration, sampling_rate=sampling_rate, notes=notes, file_rate=mix.rate)


def _check_part(start: float | None, end: float | None) -> None:
    begin = start or 0.0
    if not 0 <= begin < math.inf or not (end is None or begin < end < math.inf):  # also refuses NaN
        raise AudioError(f"{start} to {end} s is not a valid part of a recording")


def _channel_instead(mix: Mix, notes: Notes) -> Mix | None:
    """Return the mix with the loudest channel only if the channels cancel; raise AudioError for a channel too many."""
    if mix.channel is not None and mix.channel >= mix.channels:
        plural = "s" * (mix.channels != 1)
        raise AudioError(f"has {mix.channels} channel{plural}: channel {mix.channel + 1} does not exist")
    if mix.channel is not None or not mix.is_cancelled:
        return None
    notes.remarks.append(f"its channels cancel each other: only channel {mix.loudest + 1} is used")
    return Mix(mix.loudest)


def _check_samples(count: int, peak: float, notes: Notes) -> None:
    """Raise AudioError without samples, or if their peak is not finite; note a peak that no decoder gives."""
    if not count:
        raise AudioError("contains no audio (0 samples)")
    if not math.isfinite(peak):
        raise AudioError("contains NaN or infinite samples")
    if peak > FULL_SCALE:
        notes.remarks.append(f"its samples reach {peak:.0f}: full scale is 1")
