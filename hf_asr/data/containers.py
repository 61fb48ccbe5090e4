"""Read from the headers of recordings how much audio they should contain, because no decoder reports it."""

import io
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Data = bytes | mmap.mmap  # both support slices and `find`; mmap reads only the accessed pages

SOUNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b".snd", b"dns.", b"caff", b"fLaC")
AU_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}

MIN_LACK = 0.1  # seconds; a smaller lack does not count as truncation

# Formats that cannot be decoded but are found among recordings: a message with the name is more useful.
FOREIGN = {
    b"#!SILK": "SILK (WeChat, QQ)",
    b"\x02#!SILK": "SILK (WeChat, QQ)",
    b".RMF": "RealMedia",
    b".ra\xfd": "RealAudio",
    b"MThd": "MIDI: notes, not a recording",
    b"#EXTM3U": "a playlist (M3U)",
    b"ffconcat": "a playlist (FFmpeg's concat)",
    b"[playlist]": "a playlist (PLS)",
    b"v=0": "a session description (SDP)",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"{": "JSON",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"%PDF": "PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"OFR ": "OptimFROG",
    b"LA0": "Lossless Audio",
    b"MLTI": "DSS",
    b"\x02dss": "DSS (a dictation recorder)",
    b"\x03ds2": "DS2 (a dictation recorder)",
}


class AudioError(ValueError):
    """Report a recording that cannot be used; the message gives the reason."""


class AudioTooLongError(AudioError):
    """Report a recording that is longer than allowed."""


@dataclass
class DataChunk:
    """Describe where the samples of an uncompressed file are.

    Attributes:
        start: Offset of the samples, in bytes.
        promised: Bytes of samples according to the header; None if the file was never closed, so that it is unknown.
        bytes_per_second: 0 if the rate is unknown.
        field: Offset and struct format of the header field with the number of bytes.
        more: Bytes before the samples that this field counts as well.
        there: Bytes from `start` to the end of the file.
    """

    start: int
    promised: int | None
    bytes_per_second: float
    field: tuple[int, str]
    more: int = 0
    there: int = 0

    @property
    def lack(self) -> int:
        """Return the number of missing bytes; 0 if it is less than 0.1 s.

        The tolerance exists because a common recorder counts its header as samples. If the rate is unknown, 1000 bytes
        per second are assumed, which is less than any recording has.
        """
        missing = max(0, (self.promised or 0) - self.there)
        return missing if missing >= MIN_LACK * (self.bytes_per_second or 1000.0) else 0


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[Data]:
    """Yield the bytes of a file, mapped into memory."""
    if isinstance(source, bytes):
        yield source
    else:
        with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def foreign_format(head: bytes) -> str | None:
    """Return the name of a format that cannot be read, from the first bytes of a file; None for other formats."""
    return next((name for magic, name in FOREIGN.items() if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(magic)), None)


def data_chunk(source: str | Path | bytes) -> DataChunk | None:
    """Return where the samples of a WAV, RF64, W64, AIFF, AU or CAF file are; None for others and broken files.

    Raises:
        AudioError: The number of bytes in the header is wrong because the field is too small for it.
    """
    readers = {
        b"RIFF": _of_riff,
        b"RIFX": _of_riff,
        b"RF64": _of_riff,
        b"BW64": _of_riff,
        b"riff": _of_w64,
        b"FORM": _of_aiff,
        b".snd": _of_au,
        b"dns.": _of_au,
        b"caff": _of_caf,
    }
    with opened(source) as data:
        reader = readers.get(bytes(data[:4]))
        try:
            chunk = reader(data) if reader else None
        except struct.error:  # the file ends inside its header
            return None
        if chunk:
            chunk.there = max(0, len(data) - chunk.start)
        return chunk


def closed(source: str | Path | bytes, chunk: DataChunk) -> io.BytesIO | mmap.mmap:
    """Return a copy of a file that was never closed, in which the header contains the number of bytes.

    The file itself is not changed: the mapping is private.

    Raises:
        struct.error: The number is too large for the header field.
    """
    if isinstance(source, bytes):
        result: bytearray | mmap.mmap = bytearray(source)
    else:
        with open(source, "rb") as file:
            result = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    offset, form = chunk.field
    struct.pack_into(form, result, offset, chunk.there + chunk.more)
    return io.BytesIO(result) if isinstance(result, bytearray) else result


def _is_unknown(size: int) -> bool:
    """Return whether a size is a placeholder, as in files that were written to a pipe or never closed."""
    # About 2 GiB: with or without a header of up to 36 bytes, or a whole number of blocks; or about 4 GiB
    return size == 0 or 0x7FFFF000 <= size <= 0x80000024 or size >= 0xFFFFF000


def _chunks(data: Data, start: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset and size in bytes of each chunk of a RIFF or IFF file."""
    while start + 8 <= len(data):
        size = struct.unpack_from(f"{order}I", data, start + 4)[0]
        yield bytes(data[start : start + 4]), start + 8, size
        start += 8 + size + size % 2


def _of_riff(data: Data) -> DataChunk | None:
    order = ">" if data[:4] == b"RIFX" else "<"
    if data[8:12] != b"WAVE":
        return None
    rate, long_size = 0.0, None
    for name, place, size in _chunks(data, 12, order):
        if name == b"ds64":
            long_size = struct.unpack_from("<Q", data, place + 8)[0]
        elif name == b"fmt ":
            _, channels, samples, rate, _, bits = struct.unpack_from(f"{order}HHIIHH", data, place)
            rate = float(rate or samples * channels * bits // 8)
        elif name == b"data":
            field = place - 4, f"{order}I"
            if long_size is not None and size == 0xFFFFFFFF:
                size, field = long_size, (20 + 8, "<Q")
            if long_size is None and not _is_unknown(size) and len(data) - place - size >= 0xFFFFF000:
                raise AudioError(
                    f"its header has a length of {size} bytes because it cannot hold more than 4 GiB: convert it, for "
                    "example with `ffmpeg -ignore_length 1 -i FILE FILE.flac`"
                )
            if size == 0 and _only_chunks(data, place, order):
                return DataChunk(place, 0, rate, field)  # the file was closed and contains no samples
            return DataChunk(place, None if _is_unknown(size) else size, rate, field)
    return None


def _only_chunks(data: Data, start: int, order: str) -> bool:
    """Return whether complete chunks follow up to the end of the file, so that an empty data chunk is really empty."""
    for name, place, size in _chunks(data, start, order):
        start = place + size + size % 2
        if not name.isascii() or not name.decode("ascii").isprintable() or start > len(data) + 1:
            return False
    return start >= len(data)


def _of_w64(data: Data) -> DataChunk | None:
    place, rate = 40, 0.0
    while place + 24 <= len(data):
        name, size = bytes(data[place : place + 4]), struct.unpack_from("<Q", data, place + 16)[0]
        if name == b"fmt ":
            rate = float(struct.unpack_from("<I", data, place + 24 + 8)[0])
        elif name == b"data":
            is_open = size <= 24 or size >= 1 << 62
            return DataChunk(place + 24, None if is_open else size - 24, rate, (place + 16, "<Q"), more=24)
        elif size < 24:
            return None
        place += (size + 7) // 8 * 8
    return None


def _of_aiff(data: Data) -> DataChunk | None:
    if data[8:12] not in (b"AIFF", b"AIFC"):
        return None
    seconds = 0.0
    for name, place, size in _chunks(data, 12, ">"):
        if name == b"COMM":
            frames, exponent, mantissa = struct.unpack_from(">2xI2xHQ", data, place)
            rate = mantissa * 2.0 ** (max(min(exponent & 0x7FFF, 16383 + 63), 16383) - 16383 - 63)
            seconds = frames / rate if rate else 0.0
        elif name == b"SSND":
            is_open = _is_unknown(size) and len(data) > place + 8
            promised = None if is_open else max(0, size - 8)
            rate = promised / seconds if promised and seconds else 0.0
            return DataChunk(place + 8, promised, rate, (place - 4, ">I"), more=8)
    return None


def _of_au(data: Data) -> DataChunk | None:
    order = ">" if data[:4] == b".snd" else "<"
    start, size, encoding, rate, channels = struct.unpack_from(f"{order}5I", data, 4)
    bytes_per_second = float(AU_SAMPLE_BYTES.get(encoding, 0) * rate * channels)
    return DataChunk(start, None if _is_unknown(size) else size, bytes_per_second, (8, f"{order}I"))


def _of_caf(data: Data) -> DataChunk | None:
    place, rate = 8, 0.0
    while place + 12 <= len(data):
        name, size = bytes(data[place : place + 4]), struct.unpack_from(">q", data, place + 4)[0]
        if name == b"desc":
            samples, packet_bytes, packet_frames = struct.unpack_from(">d8xII", data, place + 12)
            rate = samples * packet_bytes / packet_frames if packet_frames else 0.0
        elif name == b"data":  # its first four bytes count the edits
            return DataChunk(place + 16, None if size < 4 else size - 4, rate, (place + 4, ">q"), more=4)
        if size < 0:
            return None
        place += 12 + size
    return None


def ogg_links(data: Data) -> tuple[list[tuple[int, int]], bool, bool]:
    """Return (start, end) of each logical stream of an Ogg file, whether its last page is cut, and if it has an end.

    Radio stations and some recorders write several streams one after another. Pages with flag 2 begin a stream; a page
    with flag 4 ends it.
    """
    starts, place, was_first, is_cut, has_end = [0], 0, True, False, False
    while 0 <= place < len(data):
        header = bytes(data[place : place + 27])
        if header[:4] != b"OggS" or len(header) < 27:
            is_cut = header[:4] == b"OggS"[: len(header)]
            place = data.find(b"OggS", place + 1)
            continue
        is_first = bool(header[5] & 2)
        if is_first and not was_first:
            starts.append(place)
        was_first, has_end = is_first, bool(header[5] & 4)
        place += 27 + header[26] + sum(data[place + 27 : place + 27 + header[26]])
        is_cut = place > len(data)
    return list(zip(starts, [*starts[1:], len(data)], strict=True)), is_cut, has_end


def mp3_promise(data: Data) -> tuple[float, int] | None:
    """Return the seconds and bytes in the first frame of an MP3 file (Xing, Info, VBRI); None if there are none.

    The duration of FFmpeg is only an estimate if the file is longer or shorter than these bytes: a picture or another
    recording may follow. The bytes are 0 if the frame does not contain them.
    """
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        a, b, c, d = data[start + 6 : start + 10]
        start += 10 + (a << 21 | b << 14 | c << 7 | d)
    frame = bytes(data[start : start + 200]).ljust(200, b"\0")
    version, rate_index = frame[1] >> 3 & 3, frame[2] >> 2 & 3
    if frame[0] != 0xFF or frame[1] < 0xE0 or version == 1 or rate_index == 3:  # not a frame, or reserved values
        return None
    rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG-1, 2 and 2.5
    frame_samples = 1152 if version == 3 else 576
    frames = size = padding = 0
    if (place := frame.find(b"VBRI", 0, 80)) > 0:
        size, frames = struct.unpack_from(">II", frame, place + 10)
    for tag in (b"Xing", b"Info"):
        if 0 < (place := frame.find(tag)) <= 42:  # after side information of 9, 17 or 32 bytes
            flags = struct.unpack_from(">I", frame, place + 4)[0]
            frames = struct.unpack_from(">I", frame, place + 8)[0] if flags & 1 else 0
            size = struct.unpack_from(">I", frame, place + 8 + 4 * (flags & 1))[0] if flags & 2 else 0
            # The name of the encoder follows the fields of the flags. An encoder adds samples at both ends that are not
            # part of the recording.
            place += 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
            if frame[place : place + 4] in (b"LAME", b"Lavf", b"Lavc"):
                before_and_after = int.from_bytes(frame[place + 21 : place + 24], "big")
                padding = (before_and_after >> 12) + (before_and_after & 0xFFF)
    return (max(0, frames * frame_samples - padding) / rate, size) if frames else None


def byte_promise(data: Data) -> int:
    """Return the bytes of an AVI or MP4 file up to the end of its audio, according to its header; 0 if unknown."""
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        size = int.from_bytes(data[4:8], "little")
        return 0 if _is_unknown(size) else size + 8
    end = place = 0
    while data[4:8] == b"ftyp" and place + 8 <= len(data):
        size, name = int.from_bytes(data[place : place + 4], "big"), bytes(data[place + 4 : place + 8])
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # 0 means up to the end of the file
            break
        place += size
        if name == b"mdat":
            end = place
    return end
