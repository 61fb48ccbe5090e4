"""Decode compressed recordings with PyAV, whose wheels include FFmpeg, and note gaps and damage."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import av
import numpy as np

from .containers import MIN_LACK, AudioError, byte_promise, data_chunk, mp3_promise, ogg_links, opened
from .timeline import BARE, Notes, Timeline

# A recording must not make FFmpeg open other files or addresses, as playlists and session descriptions do (hls, dash,
# concat, sdp, rtsp, image2 …): these demuxers read only the given file. mov follows references to other files only if
# `enable_drefs` is set, and files inside an avi (subtitles may be a playlist) are opened with the same list.
FORMATS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,mp3,ogg,wav,flac,amr,asf,aiff,caf,w64,au,"
    "avi,mpegts,mpeg,flv,ac3,eac3,wv,tta,ape,mpc,mpc8,dts,tak,dsf,voc,dss"
)
ACCEPTED = (
    "wav, flac, mp3, ogg, opus, m4a, aac, mp4, webm, mkv, wma, amr, aiff, caf, au, avi, mpeg, flv, ac3, wv, tta …"
)

EXACT_DURATION = {"mov", "flac", "wv", "tta", "ape", "tak", "aiff", "au"}
ROUGH_DURATION = {"matroska", "flv", "asf"}

CHECKED = {"flac", "wavpack"}  # codecs with a checksum in each packet

DTYPES = {
    "u8": "u1",
    "s16": "i2",
    "s32": "i4",
    "s64": "i8",
    "flt": "f4",
    "dbl": "f8",
}  # by the name of the sample format


def media_pieces(
    source: str | Path | bytes, *, notes: Notes, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray, int]]:
    """Yield time in seconds, samples (samples, channels) and rate in Hz of consecutive pieces from about `start` on.

    The caller stops at `end`: silence after `end` is not noted. `notes` are complete after the last piece.
    """
    at, is_cut, has_end = 0.0, False, True
    parts = [source]
    chunk = data_chunk(source)
    with opened(source) as data:
        if data[:4] == b"OggS":
            links, is_cut, has_end = ogg_links(data)
            if len(links) > 1:
                parts = [bytes(data[first:last]) for first, last in links]
    for i, part in enumerate(parts):
        begin = at
        try:
            span = start - begin, math.inf if end is None else end - begin
            for time, samples, rate in _stream_pieces(part, notes=notes, span=span):
                at = begin + time + len(samples) / rate
                yield begin + time, samples, rate
        except (AudioError, av.FFmpegError) as error:
            if i == 0 and is_cut:
                raise AudioError(f"truncated: it ends before its first samples; {error}") from error
            if i == 0:
                raise
            notes.damage.append(f"part {i + 1} of {len(parts)} is not decodable: {error}")
    if any(note.startswith("truncated") for note in notes.damage):
        return
    if chunk and chunk.lack:
        notes.damage.append(f"truncated: {at:.1f} of {at * chunk.promised / max(1, chunk.there):.1f} s are there")
    elif is_cut:
        notes.damage.append(f"truncated: its last page is cut after {at:.1f} s")
    elif not has_end:
        notes.remarks.append("has no end mark: its recording was interrupted, or its end is missing")


def media_duration(source: str | Path | bytes) -> float | None:
    """Return seconds from the headers, or from the frames of an MP3 file without this header; None if unknown."""
    with opened(source) as data:
        links = ogg_links(data)[0] if data[:4] == b"OggS" else []
        parts = [bytes(data[first:last]) for first, last in links] if len(links) > 1 else [source]
        promise, size = mp3_promise(data), len(data)
    total = 0.0
    for part in parts:
        with open_container(part) as container:
            stream, kind = _audio_stream(container), _kind_of(container)
            if kind in BARE and not (promise and abs(promise[1] - size) <= 0.01 * size):
                packets = (packet for packet in container.demux(stream) if packet.size and packet.duration)
                if kind == "mp3":  # zeros or a picture may follow, which do not begin like a frame
                    packets = (packet for packet in packets if _is_mpeg_frame(packet))
                total += float(sum(packet.duration for packet in packets) * stream.time_base)
            elif container.duration is None:
                return None
            else:
                start = max(0, container.start_time or 0) * {"mov": 1, "ogg": -1}.get(kind, 0)
                total += (container.duration + start) / av.time_base
    return total


def _is_mpeg_frame(packet: av.Packet) -> bool:
    first, second = bytes(packet)[:2].ljust(2, b"\0")
    return first == 0xFF and second >= 0xE0


def _kind_of(container: av.container.InputContainer) -> str:
    return container.format.name.partition(",")[0]


@contextmanager
def open_container(source: str | Path | bytes) -> Iterator[av.container.InputContainer]:
    """Open a recording, but no other file or address that it refers to."""
    with ExitStack() as stack:
        if isinstance(source, bytes):
            file = io.BytesIO(source)
        else:
            # Opened without its name: FFmpeg mistakes 12:30.m4a for an address, and any text called .ac3 for audio.
            named = stack.enter_context(open(source, "rb"))
            file = stack.enter_context(open(named.fileno(), "rb", closefd=False))
        # Tags may have any encoding, but are not used.
        options = {"format_whitelist": FORMATS}
        yield stack.enter_context(av.open(file, options=options, metadata_errors="replace"))


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    streams = container.streams.audio
    for stream in streams:
        if stream.codec_context is not None:
            if stream.codec_context.name in CHECKED:  # otherwise a packet with a wrong checksum becomes noise
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            return stream
    raise AudioError(
        "contains no audio stream" if not streams else "contains audio of a codec that FFmpeg cannot decode"
    )


def _stream_pieces(
    source: str | Path | bytes, *, notes: Notes, span: tuple[float, float]
) -> Iterator[tuple[float, np.ndarray, int]]:
    """Yield the pieces of one stream from `span[0]` to `span[1]` seconds; see `media_pieces`."""
    with open_container(source) as container:
        stream, kind = _audio_stream(container), _kind_of(container)
        if len(container.streams.audio) > 1:
            tracks = container.streams.audio
            notes.remarks.append(f"has {len(tracks)} audio tracks: number {tracks.index(stream) + 1} is used")
        timeline = Timeline(container, stream, kind, *span)
        try:
            yield from _placed_pieces(container.demux(), stream, timeline)
        except GeneratorExit:  # the caller has the part that it needs
            timeline.note_losses(notes)
            raise
        timeline.note_end(notes, promised=_promised(source, container, stream, kind, there=timeline.position))
        timeline.note_losses(notes)


def _placed_pieces(
    packets: Iterator[av.Packet], stream: av.AudioStream, timeline: Timeline
) -> Iterator[tuple[float, np.ndarray, int]]:
    """Yield the pieces of `stream` from packets of all streams: those of video show whether the file is complete."""
    pending = _Pending()
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            timeline.failure = error.strerror
            break
        except IndexError:  # a bug of PyAV at the end, if a stream was found while reading
            break
        if packet is None:
            break
        if packet.stream_index != stream.index:
            timeline.see(packet)
            continue
        if timeline.may_skip(packet):
            yield from pending.flush()
            continue
        for frame in timeline.decode(packet):
            if not frame.samples:
                continue
            if silence := timeline.place(frame):
                yield from pending.flush()
                yield from _silent_pieces(timeline.position - silence, silence, frame)
            kind = frame.sample_rate, frame.layout.nb_channels, frame.format.name
            if not pending.takes(kind):
                yield from pending.flush()
            pending.add(frame, kind, timeline.position)
            timeline.position += frame.samples / frame.sample_rate
    yield from pending.flush()
    if timeline.skipped_to is not None:  # the part is beyond the end: report where the end is
        timeline.position = timeline.skipped_to
        yield timeline.position, np.zeros((0, 1), np.float32), stream.codec_context.sample_rate


class _Pending:
    """Collect about a second of frames of one kind, because handling each of 20 ms would cost more than decoding it."""

    def __init__(self):
        self.frames: list[av.AudioFrame] = []
        self.kind: tuple[int, int, str] | None = None  # rate, channels, format
        self.time, self.samples = 0.0, 0

    def takes(self, kind: tuple[int, int, str]) -> bool:
        """Return whether a frame of this kind can be added before `flush`."""
        return not self.frames or (self.samples < kind[0] and self.kind == kind)

    def add(self, frame: av.AudioFrame, kind: tuple[int, int, str], time: float) -> None:
        """Add a frame that begins at `time` seconds."""
        if not self.frames:
            self.kind, self.time, self.samples = kind, time, 0
        self.frames.append(frame)
        self.samples += frame.samples

    def flush(self) -> Iterator[tuple[float, np.ndarray, int]]:
        """Yield the collected frames as one piece, if there are any."""
        if self.frames:
            rate, channels, _ = self.kind
            array = _samples(self.frames, channels)
            self.frames = []
            yield self.time, as_float(array), rate


def _samples(frames: list[av.AudioFrame], channels: int) -> np.ndarray:
    """Return the samples (samples, channels) of frames of one kind.

    `to_ndarray` is ten times slower, and reads beyond the memory of frames with more than eight channels (PyAV 18).
    """
    dtype, is_planar = DTYPES[frames[0].format.name.removesuffix("p")], frames[0].format.is_planar
    count, width = (channels, 1) if is_planar else (1, channels)
    planes = zip(*(frame.planes[:count] for frame in frames), strict=True)
    arrays = [
        np.concatenate([np.frombuffer(p, dtype, f.samples * width) for p, f in zip(each, frames, strict=True)])
        for each in planes
    ]
    return np.stack(arrays, axis=1) if is_planar else arrays[0].reshape(-1, channels)


def as_float(array: np.ndarray) -> np.ndarray:
    """Return samples of any type as float32, where full scale is 1."""
    if array.dtype.kind == "u":
        half = 2.0 ** (8 * array.itemsize - 1)
        return ((array.astype(np.float64) - half) / half).astype(np.float32)
    if array.dtype.kind == "i":
        return array.astype(np.float32) / np.float32(2.0 ** (8 * array.itemsize - 1))
    return array.astype(np.float32, copy=False)


def as_waveform(samples: np.ndarray | Sequence[float]) -> np.ndarray:
    """Return mono samples (samples,) that a caller gives as float32, where full scale is 1.

    Raises:
        ValueError: They have another shape, or a type whose full scale is unknown: numpy makes int64 of a list of
            integers, which would become silence.
    """
    array = np.asarray(samples)
    if array.ndim != 1:
        raise ValueError(f"samples must be mono and have the shape (samples,), not {array.shape}")
    if array.dtype.kind != "f" and array.dtype not in (np.int16, np.int32, np.uint8):
        raise ValueError(
            f"samples are {array.dtype}, whose full scale is unknown: give float in [-1, 1], int16, int32 or uint8"
        )
    return as_float(array)


def _silent_pieces(time: float, seconds: float, frame: av.AudioFrame) -> Iterator[tuple[float, np.ndarray, int]]:
    """Yield silence with the rate and channels of the following frame, a second at a time."""
    rate = frame.sample_rate
    left = round(seconds * rate)
    while left > 0:
        piece = np.zeros((min(left, rate), frame.layout.nb_channels), np.float32)
        yield time, piece, rate
        time, left = time + len(piece) / rate, left - len(piece)


def _promised(
    source: str | Path | bytes,
    container: av.container.InputContainer,
    stream: av.AudioStream,
    kind: str,
    there: float,
) -> tuple[float, float]:
    """Return the seconds according to the header, and how many of them may be missing without being damage."""
    duration = (container.duration or 0) / av.time_base
    if kind in ROUGH_DURATION:
        return duration, min(1.0, max(MIN_LACK, 0.01 * duration))
    with opened(source) as data:
        if kind == "mp3":
            promise = mp3_promise(data)
            return promise[0] if promise else 0.0, MIN_LACK
        if kind == "ogg":  # its clock may start at any time
            return duration - max(0.0, (container.start_time or 0) / av.time_base), MIN_LACK
        if kind in EXACT_DURATION and stream.duration:
            seconds = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
            if seconds - there >= MIN_LACK:
                return seconds, MIN_LACK
        size = byte_promise(data)  # the seconds are proportional to the bytes
        return there * size / len(data), max(MIN_LACK, 0.01 * there)
