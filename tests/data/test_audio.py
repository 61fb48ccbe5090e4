import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from hf_asr.data.audio import (
    AUDIO_SUFFIXES,
    AudioError,
    AudioTooLongError,
    audio_duration,
    read_array,
    read_audio,
    read_recording,
)

SECONDS = 0.5


def tone(rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(SECONDS * rate)) / rate)).astype(np.float32)


def loudest_frequency(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * 16000 / len(waveform)


def write_with_av(path, codec: str, rate: int, container: str | None = None) -> None:
    with av.open(str(path), "w", format=container) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "rate"), [("a.wav", 16000), ("a.wav", 48000), ("a.flac", 8000), ("a.mp3", 8000), ("a.ogg", 44100)]
)
def test_every_rate_becomes_16_khz(tmp_path, name, rate):
    soundfile.write(tmp_path / name, tone(rate), rate)
    waveform = read_audio(tmp_path / name)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) / 16000 - SECONDS) < 0.1
    assert abs(loudest_frequency(waveform) - 440) < 5


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.m4a", "aac", None),
        ("a.m4b", "aac", "ipod"),
        ("a.aac", "aac", None),
        ("a.3gp", "aac", None),
        ("a.mov", "aac", None),
        ("a.webm", "libopus", None),
        ("a.oga", "libopus", None),
        ("a.mka", "pcm_s16le", None),
        ("a.mkv", "libopus", None),
        ("a.avi", "libmp3lame", None),
        ("a.ts", "aac", None),
        ("a.mpg", "mp2", None),
        ("a.flv", "aac", None),
        ("a.ac3", "ac3", None),
        ("a.eac3", "eac3", None),
        ("a.wv", "wavpack", None),
        ("a.tta", "tta", None),
        ("a.mp2", "mp2", None),
        ("a.aif", "pcm_s16be", "aiff"),
        ("a.au", "pcm_s16be", None),
        ("a.caf", "alac", None),
    ],
)
def test_every_format_is_read(tmp_path, name, codec, container):
    path = tmp_path / name
    write_with_av(path, codec, 48000, container)
    for source in (path, path.read_bytes()):
        recording = read_recording(source)
        assert abs(loudest_frequency(recording.waveform) - 440) < 5 and not recording.damage
        assert len(recording.waveform) / 16000 == pytest.approx(SECONDS, abs=0.1)
        assert audio_duration(source) == pytest.approx(SECONDS, abs=0.1)
    assert path.suffix in AUDIO_SUFFIXES


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(16000), np.zeros(8000, np.float32)], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tone(16000) / 2, atol=1e-6)


def test_bytes_are_read_like_files(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    np.testing.assert_array_equal(read_audio((tmp_path / "a.wav").read_bytes()), read_audio(tmp_path / "a.wav"))


def test_an_unreadable_file_is_an_error_with_its_reason(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no recording")
    soundfile.write(tmp_path / "silent.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), 16000, subtype="FLOAT")
    for name, reason in {
        "missing.wav": "not found",
        "empty.wav": "0 bytes",
        "text.wav": "not decodable",
        "silent.wav": "0 samples",
        "nan.wav": "NaN",
    }.items():
        with pytest.raises(AudioError, match=reason):
            read_audio(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("https://example.org/a.wav", "is an address: download the recording"),
        (Path("s3://bucket/a.wav"), "is an address: download the recording"),
        (os.devnull, "is a folder, a pipe or a device: write the recording to a file first"),
    ],
)
def test_what_is_not_a_file_is_an_error_with_advice(path, reason):
    with pytest.raises(AudioError, match=reason):
        read_audio(path)


def test_both_readers_refuse_a_recording_that_is_too_long(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libopus", rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 48000), np.int16), format="s16", layout="stereo")
        frame.sample_rate = 48000
        for piece in av.AudioResampler("s16", "stereo", 48000, frame_size=960).resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    for name in ("a.wav", "a.webm"):
        assert len(read_audio(tmp_path / name, max_seconds=1.1)) == pytest.approx(16000, rel=0.05)
        with pytest.raises(AudioTooLongError, match=r"longer than 0\.5 s"):
            read_audio(tmp_path / name, max_seconds=0.5)


def test_a_playlist_is_refused(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "secret.wav", np.zeros(16000), 16000)
    monkeypatch.chdir(tmp_path)
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n"
    for text in (b"ffconcat version 1.0\nfile secret.wav\n", playlist, sdp):
        for suffix in ("", *sorted(AUDIO_SUFFIXES - {".raw", ".pcm"})):
            (tmp_path / f"a{suffix}").write_bytes(text)
            with pytest.raises(AudioError, match=r"not decodable: this is a (playlist|session description)"):
                read_audio(tmp_path / f"a{suffix}" if suffix else text)


def test_a_playlist_inside_an_avi_is_not_followed(tmp_path, monkeypatch):
    """Subtitles in an AVI are an embedded file of any format (CVE-2017-9993)."""
    soundfile.write(tmp_path / "secret.wav", tone(16000), 16000)
    monkeypatch.chdir(tmp_path)
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n"
    gab2 = b"GAB2\0" + struct.pack("<HIHHI", 2, 2, 0, 0, 4) + struct.pack("<I", len(playlist)) + playlist

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    stream = chunk(b"strh", struct.pack("<4s4sIIIIIIIIII8x", b"txts", b"", 0, 0, 0, 1, 1, 0, 1, 0, 0, 0)) + chunk(
        b"strf", b""
    )
    header = chunk(b"avih", struct.pack("<14I", 40000, 0, 0, 0x10, 1, 0, 1, 0, 32, 32, 0, 0, 0, 0))
    lists = chunk(b"LIST", b"hdrl" + header + chunk(b"LIST", b"strl" + stream))
    avi = b"AVI " + lists + chunk(b"LIST", b"movi" + chunk(b"00tx", gab2))
    with pytest.raises(AudioError):
        read_audio(chunk(b"RIFF", avi))


@pytest.mark.parametrize("name", ["12:30.m4a", "concat:b.m4a|c.m4a", "http:a.m4a", "a [1] %20%d.m4a"])
def test_a_file_name_is_not_used_as_an_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_with_av(tmp_path / "a.m4a", "aac", 48000)
    (tmp_path / "a.m4a").rename(name)
    assert len(read_audio(name)) == len(read_audio((tmp_path / name).read_bytes()))


def test_a_high_rate_is_resampled_piece_by_piece(tmp_path):
    waveform = np.random.default_rng(0).normal(0, 0.1, 3 * 48000 + 77).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, 48000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), soxr.resample(waveform, 48000, 16000))


def test_an_absurd_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 2_000_000)
    with pytest.raises(AudioError, match="sampling rate is 2000000 Hz"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [0, 1, 999])
def test_a_rate_that_would_fill_the_memory_is_refused(rate):
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(16000), 16000, format="WAV")
    data = bytearray(wav.getvalue())
    struct.pack_into("<I", data, 24, rate)
    with pytest.raises(AudioError):
        read_audio(bytes(data))


@pytest.mark.parametrize("name", ["a.raw", "a.RAW", "a.pcm", "a.vox"])
def test_headerless_pcm_is_an_error_with_advice(tmp_path, name):
    (tmp_path / name).write_bytes((tone(16000) * 32767).astype(np.int16).tobytes())
    for function in (read_audio, audio_duration):
        with pytest.raises(AudioError, match="headerless PCM"):
            function(tmp_path / name)


def test_a_wav_with_the_suffix_raw_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    (tmp_path / "a.wav").rename(tmp_path / "a.raw")
    assert len(read_audio(tmp_path / "a.raw")) == 8000 and audio_duration(tmp_path / "a.raw") == SECONDS


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x02#!SILK_V3" + bytes(100), "SILK"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"MThd" + bytes(100), "MIDI"),
    ],
)
def test_other_file_formats_are_named_in_the_error(content, name):
    with pytest.raises(AudioError, match=f"{name}.*; accepted are wav, flac"):
        read_audio(content)


@pytest.mark.parametrize("name", ["a.au", "a.snd", "a.wav", "a.mp3", "a.ac3"])
def test_a_text_file_with_an_audio_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_text("this is no recording " * 100)
    for function in (read_audio, audio_duration):
        with pytest.raises(AudioError):
            function(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "end"),
    [(np.nan, None), (np.nan, 1), (0, np.nan), (np.inf, None), (-np.inf, 1), (0, np.inf), (-1, 1), (0.3, 0.3)],
)
def test_a_part_must_end_after_it_starts(start, end):
    for function in (read_recording, read_audio):
        with pytest.raises(AudioError, match=f"{start} to {end} s is not a valid part of a recording"):
            function(_wav(tone(16000)), start=start, end=end)
    with pytest.raises(AudioError, match="is not a valid part of a recording"):
        read_array(tone(16000), 16000, start=start, end=end)


def test_an_invalid_path_is_an_error():
    for name in ("x" * 300 + ".wav", "a\0.wav", ""):
        with pytest.raises(AudioError):
            read_audio(name)


@pytest.mark.parametrize("factors", [(1, -1), (1, -0.9), (0.5, -0.5, 1, -1), (-1, 1, 0)], ids=str)
@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_channels_that_cancel_are_replaced_by_the_loudest_one(factors, container):
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone(16000) * factor for factor in factors], 1), 16000, format=container)
    recording = read_recording(file.getvalue())
    assert np.abs(recording.waveform).max() == pytest.approx(0.5, abs=0.01) and not recording.damage
    loudest = int(np.argmax(np.abs(factors)))
    assert recording.remarks == [f"its channels cancel each other: only channel {loudest + 1} is used"]
    assert not read_recording(file.getvalue(), channel=0).remarks


def test_channels_of_a_compressed_file_that_cancel_are_detected(tmp_path):
    with av.open(str(tmp_path / "a.mp3"), "w") as output:
        stream = output.add_stream("libmp3lame", rate=16000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone(16000), -tone(16000)]), format="fltp", layout="stereo")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    recording = read_recording(tmp_path / "a.mp3")
    assert np.abs(recording.waveform).max() > 0.4 and "cancel" in recording.remarks[0]


@pytest.mark.parametrize("offset", [0.05, -0.5])
def test_a_constant_offset_does_not_hide_that_channels_cancel(offset):
    stereo = np.stack([0.6 * tone(16000), -0.58 * tone(16000)], 1) + np.float32(offset)
    recording = read_recording(_wav(stereo))
    np.testing.assert_allclose(recording.waveform, stereo[:, 0], atol=1e-6)
    assert "cancel" in recording.remarks[0]


@pytest.mark.parametrize("opposite", [(2, 4), (0, 1), (1, 2)], ids=str)
def test_channels_that_cancel_in_only_a_part_are_detected(opposite):
    waveform = np.random.default_rng(0).normal(0, 0.1, 64000).astype(np.float32)
    second = waveform * np.float32(0.9)
    second[opposite[0] * 16000 : opposite[1] * 16000] *= -1
    stereo = np.stack([waveform, second], 1)
    for recording in (read_recording(_wav(stereo)), read_array(stereo, 16000)):
        np.testing.assert_allclose(recording.waveform, waveform, atol=1e-6)
        assert recording.remarks == ["its channels cancel each other: only channel 1 is used"]


def test_a_faint_hum_that_cancels_is_ignored():
    generator = np.random.default_rng(0)
    stereo = generator.normal(0, 0.1, (64000, 2)).astype(np.float32)
    stereo[16000:32000] = 0.001 * np.stack([np.tile(tone(16000), 2), -np.tile(tone(16000), 2)], 1)
    stereo[32000:48000] = 0
    stereo[-10:, 1] = -stereo[-10:, 0]  # a few opposite samples are also ignored
    stereo[48000:] += np.float32(0.05)
    for part in ({}, {"start": 0.9999}, {"end": 2.0003}):
        recording = read_recording(_wav(stereo), **part)
        assert not recording.remarks
    np.testing.assert_allclose(read_audio(_wav(stereo)), stereo.mean(axis=1), atol=1e-6)
    constant = np.tile(np.float32([[0.05, -0.05]]), (32000, 1))
    assert not read_recording(_wav(constant)).remarks


@pytest.mark.parametrize("factors", [(1, 0), (1, 0, 0, 0, 0, 0), (1, 1), (1, -0.3)], ids=str)
def test_other_channels_are_averaged_without_a_remark(factors):
    recording = read_recording(_wav(np.stack([tone(16000) * factor for factor in factors], 1)))
    np.testing.assert_allclose(recording.waveform, tone(16000) * np.mean(factors), atol=1e-6)
    assert not recording.remarks


def test_noise_of_two_microphones_is_averaged():
    waveform = np.random.default_rng(0).normal(0, 0.1, (16000, 8)).astype(np.float32)
    np.testing.assert_allclose(read_audio(_wav(waveform)), waveform.mean(axis=1), atol=1e-6)


def test_one_channel_can_be_selected():
    waveform = np.stack([tone(16000), tone(16000) / 2], 1)
    np.testing.assert_array_equal(read_audio(_wav(waveform), channel=1), waveform[:, 1])
    with pytest.raises(AudioError, match="has 2 channels: channel 3 does not exist"):
        read_audio(_wav(waveform), channel=2)


def _wav(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_arrays_are_read_like_files():
    stereo = np.stack([tone(48000), tone(48000) / 2], 1)
    expected = soxr.resample(stereo.mean(axis=1), 48000, 16000)
    for array in (stereo, stereo.T, stereo.astype(np.float64), stereo.tolist()):
        np.testing.assert_allclose(read_array(array, 48000).waveform, expected, atol=1e-6)
    integers = (tone(16000) * 32767).astype(np.int16)
    np.testing.assert_allclose(read_array(integers, 16000).waveform, tone(16000), atol=1e-4)
    assert len(read_array(tone(16000), 16000, start=0.1, end=0.3).waveform) == 3200
    np.testing.assert_array_equal(read_array(stereo, 48000, sampling_rate=48000, channel=1).waveform, stereo[:, 1])
    assert "cancel" in read_array(np.stack([tone(16000), -tone(16000)]), 16000).remarks[0]
    assert "full scale is 1" in read_array(tone(16000) * 32767, 16000).remarks[0]


@pytest.mark.parametrize(
    ("array", "rate", "reason"),
    [
        ([], 16000, "0 samples"),
        ([np.nan] * 10, 16000, "NaN"),
        ([0.1] * 10, 0, "sampling rate is 0 Hz"),
        ([0.1] * 10, None, "sampling rate is None"),
        ([0.1] * 10, float("nan"), "sampling rate is nan"),
        ([0.1] * 10, 10**9, "sampling rate is 1000000000 Hz"),
        ([[0.1], [0.1, 0.2]], 16000, "not an array"),
        (["a"], 16000, "not an array"),
        (np.zeros((2, 2, 2)), 16000, "3 dimensions"),
    ],
)
def test_an_invalid_array_is_an_error_with_its_reason(array, rate, reason):
    with pytest.raises(AudioError, match=reason):
        read_array(array, rate)
    with pytest.raises(AudioTooLongError):
        read_array(tone(16000), 16000, max_seconds=0.1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff", "a.m4a", "a.webm", "a.ts", "a.avi"])
def test_a_broken_file_is_read_or_is_an_audio_error(tmp_path, name):
    if name in ("a.m4a", "a.webm", "a.ts", "a.avi"):
        write_with_av(tmp_path / name, {"a.webm": "libopus", "a.avi": "libmp3lame"}.get(name, "aac"), 48000)
    else:
        soundfile.write(tmp_path / name, tone(16000), 16000)
    whole, generator = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    for i in range(25):
        broken = bytearray(whole)
        for place in generator.integers(len(broken) if i % 2 else min(len(broken), 100), size=5):
            broken[place] = generator.integers(256)
        broken = bytes(broken[: generator.integers(1, len(broken))] if i % 5 == 0 else broken)
        for function in (read_recording, audio_duration):
            try:
                function(broken)
            except AudioError as error:
                assert str(error)


def test_more_than_eight_channels_are_read():
    """PyAV 18 reads beyond the memory of a planar frame with more than eight channels."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        layout = "+".join(["FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC"])
        stream = output.add_stream("pcm_s16le", rate=16000, layout=layout)
        samples = (np.tile(tone(16000)[:, None], 12).reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    np.testing.assert_allclose(read_audio(file.getvalue()), tone(16000), atol=1e-3)
