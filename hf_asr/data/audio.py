"""Reading recordings: any format, rate and channels become mono float32 at one rate, and what was wrong is said."""

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from .mixing import Mix, Pieces, check_rate, cut, resampled
from .timeline import Notes

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioError",
    "AudioTooLongError",
    "Recording",
    "audio_duration",
    "missing_bytes",
    "read_array",
    "read_audio",
    "read_recording",
]

# What a folder is searched for, in lower case. What cannot be read (.silk …) stands in it too: it is named then, and
# not passed over.
AUDIO_SUFFIXES = frozenset(
    """
    .wav .wave .rf64 .w64 .flac .aif .aiff .aifc .au .snd .caf .voc .sph .mp3 .mp2 .mpga .ogg .oga .opus .spx .m4a .m4b
    .m4r .aac .mp4 .m4v .mov .3gp .3g2 .webm .weba .mka .mkv .wma .wmv .asf .amr .awb .avi .ts .mts .m2ts .mpg .mpeg
    .vob .flv .ac3 .eac3 .ec3 .dts .wv .tta .ape .mpc .tak .dsf .raw .pcm .silk .slk .ra .rm .dss .ds2
    """.split()  # noqa: SIM905
)
# Nothing in such a file says its rate, its channels or what a sample is.
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
MIN_BYTE_RATE = 12  # bytes a second; a header that makes it less is not believed: silence in Opus or FLAC has 50
PIECE_SAMPLES = 4_000_000  # of all channels, at a time

FULL_SCALE = 100.0  # samples beyond this many times full scale were never divided by it


@dataclass
class Recording:
    """A waveform, float32 (samples,) at the wanted rate, and what there is to say of it.

    `damage` is what lacks or could not be decoded: training refuses such a recording by name, inference goes on and
    says so. `remarks` are about how it had to be read.
    """

    waveform: np.ndarray
    damage: list[str]
    remarks: list[str]


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

    soundfile reads what is not compressed, and FLAC; PyAV reads the rest, and what soundfile refuses.

    Args:
        start, end: Seconds of the part to read, in the file's own time; the beginning and the end if not given.
        channel: The one channel to read, from 0, instead of the mean.
        max_seconds: Longer recordings are refused, before they fill the memory.

    Raises:
        AudioTooLongError: It is longer than `max_seconds`.
        AudioError: A missing, empty or undecodable file, one that holds NaN, or a part that lies outside of it.
    """
    head = _head(source)
    failures = []
    for name, pieces in _readers(source, head).items():
        try:
            recording = _recording(
                functools.partial(pieces, source, start=start or 0.0, end=end),
                sampling_rate=sampling_rate,
                start=start,
                end=end,
                channel=channel,
                max_seconds=max_seconds,
            )
        except AudioError:
            raise
        except Exception as error:  # of broken files, decoders raise whatever there is
            failures.append(f"{_reason(error)} ({name})")
            continue
        return recording
    raise AudioError(f"not decodable: {'; '.join(failures)}; read are {ACCEPTED}")


def read_audio(
    source: str | Path | bytes,
    *,
    sampling_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
    max_seconds: float = math.inf,
) -> np.ndarray:
    """Return the waveform alone of what `read_recording` reads."""
    return read_recording(
        source, sampling_rate=sampling_rate, start=start, end=end, channel=channel, max_seconds=max_seconds
    ).waveform


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
    """Return samples that are there already, (samples,) or with channels before or after, as `read_recording` would.

    Raises:
        AudioError: As `read_recording`, and for what are no samples.
    """
    try:
        samples = np.asarray(array)
    except ValueError as error:  # lists of different lengths
        raise AudioError(f"is no array of samples: {error}") from error
    if samples.dtype.kind not in "iuf" or samples.ndim not in (1, 2):
        raise AudioError(f"is no array of samples: {samples.ndim} dimensions of {samples.dtype}")
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:  # a recording has more samples than channels
        samples = samples.T
    if not isinstance(rate, int | float | np.number) or rate != rate or rate != int(rate):
        raise AudioError(f"its sampling rate is {rate!r}: a whole number of samples a second is needed")
    rate = int(rate)
    check_rate(rate)

    def pieces(*, notes: Notes) -> Pieces:
        for first in range(0, len(samples), size := _piece_size(rate, samples.shape[1])):
            yield first / rate, as_float(samples[first : first + size]), rate

    part = {"start": start, "end": end, "channel": channel, "max_seconds": max_seconds}
    return _recording(pieces, sampling_rate=sampling_rate, **part)


def audio_duration(source: str | Path | bytes) -> float:
    """Return seconds, by the header alone where it says them.

    Raises:
        AudioError: A missing file, or one that nobody understands.
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
        except Exception as error:  # as above
            failures.append(f"{_reason(error)} ({name})")
            continue
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if seconds is None or seconds * MIN_BYTE_RATE > size:  # a webm recorded live says nothing
            return len(read_audio(source)) / 16000
        return seconds
    raise AudioError(f"not readable: {'; '.join(failures)}; read are {ACCEPTED}")


def missing_bytes(source: str | Path | bytes) -> int:
    """Return how many bytes an uncompressed file lacks of what its header promises, if they last 0.1 s or more."""
    _head(source)
    chunk = data_chunk(source)
    return chunk.lack if chunk else 0


def _head(source: str | Path | bytes) -> bytes:
    """The first bytes of a file that may be read."""
    if isinstance(source, bytes):
        head = source[:64]
    else:
        try:
            if not Path(source).is_file():
                raise AudioError("file not found")
            with open(source, "rb") as file:
                head = file.read(64)
        except (OSError, ValueError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"cannot be opened: {error}") from error
        suffix = Path(source).suffix.lower()
        if head and suffix in HEADERLESS and not head.startswith(SOUNDFILE_MAGIC):
            raise AudioError(
                f"headerless PCM ({suffix}): nothing in it says its rate or format; make it a wav, for example with "
                "`ffmpeg -f s16le -ar RATE -ac 1 -i FILE FILE.wav`"
            )
    if not head:
        raise AudioError("file is empty (0 bytes)")
    if name := foreign_format(head):
        raise AudioError(f"not decodable: this is {name}; read are {ACCEPTED}")
    return head


def _readers(source: str | Path | bytes, head: bytes) -> dict:
    """Who tries to read a file, in which order."""
    readers = {"soundfile": _soundfile_pieces, "PyAV": media_pieces}
    return readers if head.startswith(SOUNDFILE_MAGIC) else dict(reversed(readers.items()))


def _reason(error: Exception) -> str:
    """A decoder's own words, without the address or the number of what it was given."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None)
    return words or str(error) or type(error).__name__


def _open_soundfile(source: str | Path | bytes, chunk: DataChunk | None) -> soundfile.SoundFile:
    """Open what soundfile reads best; ValueError for what it would read in part only."""
    if chunk and chunk.promised is None:
        handle = closed(source, chunk)
    elif isinstance(source, bytes):
        handle = _Memory(source)
    elif Path(source).suffix.lower() == ".raw":  # any file of this name is headerless to soundfile; this one is not
        handle = _Memory(Path(source).read_bytes())
    else:
        handle = str(source)
    file = soundfile.SoundFile(handle)
    # It takes an unknown file called .au or .snd for headerless, reads the first link of an Ogg file alone, and knows
    # no FLAC file of unknown length.
    if file.format in ("RAW", "MP3", "OGG") or "MPEG" in file.subtype or file.frames >= 1 << 62:
        reason = "format not recognised" if file.format == "RAW" else "left to PyAV"
        file.close()
        raise ValueError(reason)
    return file


class _Memory(io.BytesIO):
    """Bytes as a file; where a broken header asks for a place before the first, the seek fails without a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _soundfile_pieces(source: str | Path | bytes, *, notes: Notes, start: float, end: float | None) -> Pieces:
    """What soundfile reads from `start` on; whoever takes the pieces stops at `end`."""
    chunk = data_chunk(source)
    with _open_soundfile(source, chunk) as file:
        rate, frames = file.samplerate, file.frames
        check_rate(rate)
        place = min(max(0, math.floor(start * rate)), frames)
        if place:
            file.seek(place)
        if place == frames:
            yield (
                place / rate,
                np.zeros((0, file.channels), np.float32),
                rate,
            )  # a part beyond the end: say where that is
        # `blocks` ignores short reads and hands its old buffer out again.
        while len(piece := file.read(_piece_size(rate, file.channels), dtype="float32", always_2d=True)):
            yield place / rate, piece, rate
            place += len(piece)
    there, promised = place / rate, frames / rate
    if chunk and chunk.lack:
        promised = there * chunk.promised / max(1, chunk.there)
    if promised - there >= MIN_LACK:
        notes.damage.append(f"truncated: {there:.1f} of {promised:.1f} s are there")


def _piece_size(rate: int, channels: int) -> int:
    """Samples of a second, or fewer: many channels or a high rate shall not fill the memory."""
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
    """What `pieces` give, called anew where the mean of the channels turns out to be nothing."""
    begin = start or 0.0
    if not 0 <= begin < math.inf or not (end is None or begin < end < math.inf):  # NaN is neither less nor more
        raise AudioError(f"{start} to {end} s is no part of a recording")
    part = {"start": start, "end": end, "max_seconds": max_seconds}
    mix, notes = Mix(channel), Notes()
    waveform = resampled(mix.mono(cut(pieces(notes=notes), notes=notes, **part)), sampling_rate)
    if channel is None and mix.is_cancelled:
        loudest = Mix(mix.loudest)
        waveform = resampled(loudest.mono(cut(pieces(notes=Notes()), notes=Notes(), **part)), sampling_rate)
        notes.remarks.append(f"its channels cancel one another out: channel {mix.loudest + 1} alone is used")
    if channel is not None and channel >= mix.channels:
        raise AudioError(f"has {mix.channels} channel{'s' * (mix.channels != 1)}: there is no channel {channel + 1}")
    if not len(waveform):
        raise AudioError("holds no audio (0 samples)")
    if not np.isfinite(waveform).all():
        raise AudioError("holds NaN or infinite samples")
    peak = max(waveform.max(), -waveform.min())
    if peak > FULL_SCALE:
        notes.remarks.append(f"its samples reach {peak:.0f}: full scale is 1")
    return Recording(np.ascontiguousarray(waveform, dtype=np.float32), notes.damage, notes.remarks)
