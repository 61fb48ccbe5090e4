"""Decoding with PyAV, whose wheels carry FFmpeg: compressed recordings, with the times and the damage in them."""

import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import av
import numpy as np

from .containers import MIN_LACK, AudioError, byte_promise, data_chunk, mp3_promise, ogg_links, opened
from .timeline import BARE, Notes, Timeline

# A recording must not name other files or addresses. Playlists and session descriptions do (hls, dash, concat, sdp,
# rtsp, image2 …); these demuxers read the one file that they are given. mov follows no references to other files unless
# `enable_drefs` is set, and what is inside an avi (subtitles that may be a playlist) is opened under the same list.
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

DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # by a sample format's name


def media_pieces(
    source: str | Path | bytes, *, notes: Notes, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray, int]]:
    """Yield the time in seconds, samples (samples, channels) and rate of consecutive pieces from about `start` on.

    Whoever takes them stops at `end`: silence after it is not noted. `notes` are complete when the last piece has been
    taken.
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
                raise AudioError(f"truncated: it ends before anything can be decoded; {error}") from error
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
        notes.remarks.append("has no end mark: a recording that was stopped, or one without its end")


def media_duration(source: str | Path | bytes) -> float | None:
    """Return seconds by the headers, or by counting the frames of an MP3 file without a promise; None if unknown."""
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
                if kind == "mp3":  # zeros or a cover may follow: no frame begins like them
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
    """Open a recording, and nothing that it names."""
    with ExitStack() as stack:
        if isinstance(source, bytes):
            file = io.BytesIO(source)
        else:
            # Without its name: FFmpeg takes 12:30.m4a for an address, and any text called .ac3 for sound.
            named = stack.enter_context(open(source, "rb"))
            file = stack.enter_context(open(named.fileno(), "rb", closefd=False))
        # Tags may be in any encoding: they do not matter here.
        options = {"format_whitelist": FORMATS}
        yield stack.enter_context(av.open(file, options=options, metadata_errors="replace"))


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    streams = container.streams.audio
    for stream in streams:
        if stream.codec_context is not None:
            if stream.codec_context.name in CHECKED:  # without this, what fails its checksum comes out as noise
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            return stream
    raise AudioError("holds no audio stream" if not streams else "holds audio of a codec that FFmpeg cannot decode")


def _stream_pieces(
    source: str | Path | bytes, *, notes: Notes, span: tuple[float, float]
) -> Iterator[tuple[float, np.ndarray, int]]:
    """The same of one stream."""
    with open_container(source) as container:
        stream, kind = _audio_stream(container), _kind_of(container)
        if len(container.streams.audio) > 1:
            tracks = container.streams.audio
            notes.remarks.append(f"has {len(tracks)} audio tracks: number {tracks.index(stream) + 1} is used")
        timeline = Timeline(container, stream, kind, *span)
        try:
            yield from _placed_pieces(container.demux(), stream, timeline)
        except GeneratorExit:  # whoever wanted a part has it
            timeline.note_losses(notes)
            raise
        timeline.note_end(notes, promised=_promised(source, container, stream, kind, there=timeline.position))
        timeline.note_losses(notes)


def _placed_pieces(
    packets: Iterator[av.Packet], stream: av.AudioStream, timeline: Timeline
) -> Iterator[tuple[float, np.ndarray, int]]:
    """Pieces of `stream`, among packets of all streams: those of pictures show whether the file is whole."""
    pending = _Pending()
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            timeline.failure = error.strerror
            break
        except IndexError:  # at the end, where PyAV looks for a stream that turned up on the way
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
    if timeline.skipped_to is not None:  # the wanted part is beyond the end: say where that is
        timeline.position = timeline.skipped_to
        yield timeline.position, np.zeros((0, 1), np.float32), stream.codec_context.sample_rate


class _Pending:
    """Frames of one kind, about a second of them: one by one, those of 20 ms would cost more than decoding them."""

    def __init__(self):
        self.frames: list[av.AudioFrame] = []
        self.kind: tuple[int, int, str] | None = None  # rate, channels, format
        self.time, self.samples = 0.0, 0

    def takes(self, kind: tuple[int, int, str]) -> bool:
        return not self.frames or (self.samples < kind[0] and self.kind == kind)

    def add(self, frame: av.AudioFrame, kind: tuple[int, int, str], time: float) -> None:
        if not self.frames:
            self.kind, self.time, self.samples = kind, time, 0
        self.frames.append(frame)
        self.samples += frame.samples

    def flush(self) -> Iterator[tuple[float, np.ndarray, int]]:
        if self.frames:
            rate, channels, _ = self.kind
            array = _samples(self.frames, channels)
            self.frames = []
            yield self.time, as_float(array), rate


def _samples(frames: list[av.AudioFrame], channels: int) -> np.ndarray:
    """(samples, channels) of frames of one kind.

    `to_ndarray` takes ten times as long, and reads beyond the memory of frames with more than eight channels (PyAV 18).
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
    """Return samples of any kind as float32, full scale at 1."""
    if array.dtype.kind == "u":
        half = 2.0 ** (8 * array.itemsize - 1)
        return ((array.astype(np.float64) - half) / half).astype(np.float32)
    if array.dtype.kind == "i":
        return array.astype(np.float32) / np.float32(2.0 ** (8 * array.itemsize - 1))
    return array.astype(np.float32, copy=False)


def _silent_pieces(time: float, seconds: float, frame: av.AudioFrame) -> Iterator[tuple[float, np.ndarray, int]]:
    """Silence as the frame after it would have it, a second at a time."""
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
    """Seconds that the header promises, and by how many the file may fall short of them."""
    duration = (container.duration or 0) / av.time_base
    if kind in ROUGH_DURATION:
        return duration, min(1.0, max(MIN_LACK, 0.01 * duration))
    with opened(source) as data:
        if kind == "mp3":
            promise = mp3_promise(data)
            return promise[0] if promise else 0.0, MIN_LACK
        if kind == "ogg":  # its clock may start anywhere
            return duration - max(0.0, (container.start_time or 0) / av.time_base), MIN_LACK
        if kind in EXACT_DURATION and stream.duration:
            seconds = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
            if seconds - there >= MIN_LACK:
                return seconds, MIN_LACK
        size = byte_promise(data)  # and the seconds are in proportion
        return there * size / len(data), max(MIN_LACK, 0.01 * there)
