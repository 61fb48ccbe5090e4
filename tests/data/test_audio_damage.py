"""Check recordings that were cut, never closed or damaged: readable audio is read once, and losses are reported."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import AudioError, audio_duration, missing_bytes, read_audio, read_recording


def chirp(seconds: float, rate: int = 16000) -> np.ndarray:
    """Return a chirp, in which no two seconds are alike."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 * time + 100 * time**2))).astype(np.float32)


def noise(seconds: float, rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


def written(waveform: np.ndarray, container: str, subtype: str | None = None, *, rate: int = 16000) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=container, subtype=subtype)
    return bytearray(file.getvalue())


def written_with_av(
    waveform: np.ndarray, container: str, codec: str, *, rate: int, is_variable: bool = False, **options: str
) -> bytearray:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        if is_variable:
            stream.codec_context.qscale, stream.codec_context.global_quality = True, 4 * 118
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        size = stream.frame_size or 1024
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return bytearray(file.getvalue())


def set_size(data: bytearray, name: bytes, size: int, form: str = "<I", after: int = 4) -> bytes:
    """Return the file with another size in the header of a chunk."""
    struct.pack_into(form, data, data.index(name) + after, size)
    return bytes(data)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x80000024])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM"])
def test_a_wav_that_was_never_closed_is_read_to_its_end(tmp_path, subtype, size):
    whole = written(chirp(2), "WAV", subtype)
    expected = read_audio(bytes(whole))
    struct.pack_into("<I", whole, 4, 4088)
    path = tmp_path / "a.wav"
    path.write_bytes(set_size(whole, b"data", size))
    for source in (path, path.read_bytes()):
        recording = read_recording(source)
        np.testing.assert_allclose(recording.waveform[: len(expected)], expected, atol=1e-6)
        assert abs(len(recording.waveform) - len(expected)) < 200 and not recording.damage
        assert audio_duration(source) == pytest.approx(2, abs=0.05)
    assert path.read_bytes()[4:8] == struct.pack("<I", 4088)  # the file itself is unchanged


@pytest.mark.parametrize(
    ("container", "name", "form", "after"),
    [
        ("WAVEX", b"data", "<I", 4),
        ("RF64", b"ds64", "<Q", 16),
        ("W64", b"data\xf3\xac", "<Q", 16),
        ("AIFF", b"SSND", ">I", 4),
        ("AU", b".snd", ">I", 8),
        ("CAF", b"data", ">q", 4),
    ],
)
def test_other_formats_that_were_never_closed_are_read_to_their_end(container, name, form, after):
    whole = written(np.stack([chirp(1), noise(1)], 1), container)
    expected = read_audio(bytes(whole))
    sizes = {"CAF": (0, -1), "WAVEX": (0, 0x80000000), "AIFF": (0, 0x80000000, 0x80000008), "AU": (0, 0x80000000)}
    for size in sizes.get(container, (0,)):
        recording = read_recording(set_size(whole, name, size, form, after))
        np.testing.assert_allclose(recording.waveform[: len(expected)], expected, atol=1e-6)
        assert len(recording.waveform) - len(expected) < 32 and not recording.damage


def test_a_closed_file_without_samples_is_empty():
    empty = written(np.zeros(0), "WAV")
    for more in (b"", b"LIST\x04\x00\x00\x00abcd"):
        with pytest.raises(AudioError, match="0 samples"):
            read_audio(bytes(empty + more))


def test_a_size_that_is_slightly_too_large_is_not_truncation():
    whole = written(chirp(2), "WAV")
    almost = set_size(whole, b"data", len(whole))  # a common recorder counts the header, too
    assert missing_bytes(almost) == 0
    assert not read_recording(almost).damage and len(read_audio(almost)) == 32000
    cut = bytes(written(chirp(2), "WAV")[:-4000])
    assert missing_bytes(cut) == 4000 and read_recording(cut).damage == ["truncated: 1.9 of 2.0 s are there"]


CODED = [
    ("mp3", "libmp3lame", 24000, {}),
    ("webm", "libopus", 48000, {}),
    ("matroska", "pcm_s16le", 16000, {}),
    ("mov", "aac", 44100, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}),
    ("flv", "aac", 44100, {}),
    ("avi", "pcm_s16le", 16000, {}),
    ("wv", "wavpack", 16000, {}),
    ("tta", "tta", 16000, {}),
    ("flac", "flac", 16000, {}),
    ("ogg", "libopus", 48000, {}),
]


@pytest.mark.parametrize(
    "whole",
    [
        *(
            pytest.param(written(chirp(10), *kind.split()), id=kind)
            for kind in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "MP3", "OGG OPUS")
        ),
        pytest.param(written(noise(10), "OGG", "VORBIS"), id="OGG VORBIS"),
        *(
            pytest.param(written_with_av(chirp(10, rate), container, codec, rate=rate, **options), id=container)
            for container, codec, rate, options in CODED
        ),
    ],
)
def test_half_of_a_file_is_read_and_reported_as_truncated(whole):
    complete = read_recording(bytes(whole))
    assert len(complete.waveform) == pytest.approx(160000, abs=1600) and not complete.damage + complete.remarks
    half = read_recording(bytes(whole[: len(whole) // 2]))
    assert 56000 < len(half.waveform) < 88000  # an Ogg page lasts a second
    assert [note for note in half.damage if note.startswith("truncated")]
    compared = min(len(half.waveform), 100000) - 1600  # without the delay of the codec
    assert np.corrcoef(half.waveform[1600:compared], complete.waveform[1600:compared])[0, 1] > 0.95
    tail, before = half.waveform[-16000:], half.waveform[-32000:-16000]
    assert not np.allclose(tail, before)


def test_an_ogg_without_a_complete_page_is_reported_as_truncated():
    ogg = written(chirp(10), "OGG", "VORBIS")  # short enough for one page
    with pytest.raises(AudioError, match="truncated"):
        read_audio(bytes(ogg[: len(ogg) // 2]))


def test_an_estimated_duration_is_not_used_to_detect_truncation():
    whole = written_with_av(noise(10, 24000), "mp3", "libmp3lame", rate=24000, write_xing="0")
    half = whole[: len(whole) // 2]
    assert not read_recording(bytes(half)).damage
    assert audio_duration(bytes(half)) == pytest.approx(len(read_audio(bytes(half))) / 16000, abs=0.05)
    # With a variable bit rate, a quiet beginning doubles the estimated duration.
    loudness = np.repeat([0.001, 1], [80000, 160000]).astype(np.float32)
    options = {"rate": 24000, "is_variable": True, "write_xing": "0"}
    variable = bytes(written_with_av(noise(10, 24000) * loudness, "mp3", "libmp3lame", **options))
    recording = read_recording(variable)
    assert len(recording.waveform) / 16000 == pytest.approx(10, abs=0.1) and not recording.damage
    assert audio_duration(variable) == pytest.approx(10, abs=0.1)


def test_a_live_webm_without_a_duration_is_read():
    live = written_with_av(chirp(4, 48000), "webm", "libopus", rate=48000, live="1")
    half = bytes(live[: len(live) // 2])
    assert not read_recording(bytes(live)).damage and not read_recording(half).damage
    assert audio_duration(half) == pytest.approx(len(read_audio(half)) / 16000, abs=0.1)


def test_tags_at_the_end_are_not_damage():
    mp3 = written(chirp(3), "MP3")
    tag = b"TAG" + b"\xd6\xd0\xce\xc4".ljust(125, b"\0")  # in GBK
    recording = read_recording(bytes(mp3 + tag))
    assert len(recording.waveform) == 48000 and not recording.damage


MP3 = bytes(written_with_av(noise(10), "mp3", "libmp3lame", rate=16000))
COVER = b"APETAGEX" + struct.pack("<IIII8x", 2000, 60000, 1, 0) + np.random.default_rng(0).bytes(60000)


@pytest.mark.parametrize(
    ("mp3", "seconds"),
    [
        pytest.param(MP3 + COVER, 10, id="cover"),
        pytest.param(MP3 + bytes(1000), 10, id="few zeros"),
        pytest.param(MP3 + bytes(4096), 10, id="zeros"),
        pytest.param(MP3 + MP3, 20, id="joined"),
        pytest.param(MP3 + bytes(written(noise(10), "MP3", rate=44100)), 10 + 160000 / 44100, id="joined rates"),
        pytest.param(bytes(written(noise(10, 8000), "MP3", rate=8000)) + COVER, 10, id="MPEG-2.5"),
        pytest.param(bytes(written(noise(10, 44100), "MP3", rate=44100)) + COVER, 10, id="MPEG-1"),
    ],
)
def test_data_after_an_mp3_is_not_a_missing_part(mp3, seconds):
    recording = read_recording(mp3)
    assert not recording.damage and len(recording.waveform) / 16000 == pytest.approx(seconds, abs=0.2)
    assert audio_duration(mp3) == pytest.approx(seconds, abs=0.2)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_cut_mp3_is_truncated_according_to_its_first_frame(rate):
    whole = bytes(written(noise(10, rate), "MP3", rate=rate))
    assert not read_recording(whole).damage
    for more in (b"", bytes(4096), COVER):
        half = whole[: len(whole) // 2] + more
        assert read_recording(half).damage[0].endswith("of 10.0 s are there")
        assert audio_duration(half) == pytest.approx(5, abs=0.4)


def test_a_flac_of_unknown_length_is_read_to_its_end():
    flac = written(chirp(3), "FLAC")
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    recording = read_recording(bytes(flac), max_seconds=1200)
    assert len(recording.waveform) == 48000 and not recording.damage
    assert audio_duration(bytes(flac)) == 3
    assert len(read_audio(bytes(flac), start=1, end=2)) == 16000


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(written_with_av(noise(10, 44100), "ipod", "aac", rate=44100), id="m4a"),
        pytest.param(written_with_av(noise(10, 48000), "mpegts", "aac", rate=48000), id="ts"),
        pytest.param(written_with_av(noise(10), "tta", "tta", rate=16000), id="tta"),
        pytest.param(written(noise(10), "FLAC"), id="flac"),
        pytest.param(written_with_av(noise(10), "wv", "wavpack", rate=16000), id="wv"),
        pytest.param(written(noise(10), "OGG", "OPUS"), id="opus"),
        pytest.param(written(noise(10), "OGG", "VORBIS"), id="vorbis"),
    ],
)
def test_a_damaged_packet_becomes_silence_of_the_same_duration(whole):
    complete = read_audio(bytes(whole))
    place = len(whole) * 7 // 10
    whole[place : place + 400] = bytes(np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8))
    recording = read_recording(bytes(whole))
    assert recording.damage and len(recording.waveform) == pytest.approx(len(complete), abs=400)
    end = slice(len(complete) - 8000, len(complete) - 800)
    assert np.corrcoef(recording.waveform[end], complete[end])[0, 1] > 0.9


def test_without_time_stamps_a_damaged_packet_is_counted():
    aac = written_with_av(noise(10, 44100), "adts", "aac", rate=44100)
    place = len(aac) * 7 // 10
    aac[place : place + 400] = bytes(np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8))
    recording = read_recording(bytes(aac))
    assert "damaged packet" in recording.damage[0] and 155000 < len(recording.waveform) < 161000


def test_a_recording_that_hardly_decodes_is_refused():
    m4a = written_with_av(noise(5, 44100), "ipod", "aac", rate=44100)
    start = m4a.index(b"mdat") + 300
    length = m4a.index(b"moov") - 300 - start
    m4a[start : start + length] = bytes(np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8))
    with pytest.raises(AudioError, match="packets are damaged"):
        read_audio(bytes(m4a))


def test_damage_outside_of_a_part_is_not_reported():
    """Training reads a row of a long recording as a part of it."""
    ogg = written(noise(10), "OGG", "OPUS")
    half = bytes(ogg[: len(ogg) // 2])
    assert not read_recording(half, start=1, end=2).damage
    assert read_recording(half, start=1, end=9).damage
    assert read_recording(bytes(written(chirp(2), "WAV")[:-20000]), start=0.5, end=1).damage == []
    m4a = written_with_av(noise(10, 44100), "ipod", "aac", rate=44100)
    place = len(m4a) // 2
    m4a[place : place + 400] = bytes(np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8))
    assert read_recording(bytes(m4a), start=4, end=6).damage
    for start, end in ((0, 4), (6, 7), (6, 9)):
        assert not read_recording(bytes(m4a), start=start, end=end).damage
