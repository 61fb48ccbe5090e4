"""Check times: gaps and a late start become silence, and joined recordings are concatenated at their own rates."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import AudioError, AudioTooLongError, audio_duration, read_audio, read_recording


def tone(seconds: float, rate: int, frequency: float = 440) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def written(waveform: np.ndarray, container: str, subtype: str | None = None, *, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=container, subtype=subtype)
    return file.getvalue()


def stamped(
    container: str, codec: str, *spans: tuple[float, float], rate: int, channels: int = 1, video: float = 0
) -> bytes:
    """Return a file with a tone at each span of (start, seconds) and `video` seconds of black video."""
    file, layout = io.BytesIO(), {1: "mono", 2: "stereo"}[channels]
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        if video:
            pictures = output.add_stream("flv1" if container == "flv" else "mpeg4", rate=10)
            pictures.width = pictures.height = 32
            for i in range(int(video * 10)):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                picture.pts, picture.time_base = i, Fraction(1, 10)
                output.mux(pictures.encode(picture))
            output.mux(pictures.encode(None))
        size = stream.frame_size or rate // 10
        for start, seconds in spans:
            for i in range(0, int(seconds * rate) - size + 1, size):
                samples = np.tile(tone(seconds, rate)[i : i + size], (channels, 1))
                if stream.format.name[0] == "s":
                    bits = 8 * stream.format.bytes
                    samples = (samples * (2 ** (bits - 1) - 1)).astype(f"int{bits}")
                if stream.format.is_packed:
                    samples = samples.T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(samples, format=stream.format.name, layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, round(start * rate) + i, Fraction(1, rate)
                output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def loud_spans(waveform: np.ndarray) -> list[tuple[float, float]]:
    """Return start and end of each section that is not silent, in seconds, to a tenth of a second."""
    blocks = waveform[: len(waveform) // 1600 * 1600].reshape(-1, 1600)
    edges = np.flatnonzero(np.diff([0, *(np.abs(blocks).max(axis=1) > 0.05).astype(int), 0])) / 10
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def main_frequency(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * 16000 / len(waveform)


CLOCKED = [("matroska", "pcm_s16le", 16000), ("webm", "libopus", 48000), ("mp4", "aac", 44100), ("flv", "aac", 44100)]


@pytest.mark.parametrize(("container", "codec", "rate"), [*CLOCKED, ("mpegts", "aac", 48000)])
def test_silence_fills_a_gap(container, codec, rate):
    data = stamped(container, codec, (0, 2), (7, 2), rate=rate)
    recording = read_recording(data)
    (_, first_end), (second_start, end) = loud_spans(recording.waveform)
    assert first_end == pytest.approx(2, abs=0.15) and second_start == pytest.approx(7, abs=0.15)
    assert end == pytest.approx(9, abs=0.15) and len(recording.waveform) / 16000 == pytest.approx(9, abs=0.1)
    assert not recording.damage and "5.0 s" in recording.remarks[0]
    assert audio_duration(data) == pytest.approx(9, abs=0.1)
    part = read_audio(data, start=6.5, end=8)
    assert loud_spans(part)[0][0] == pytest.approx(0.5, abs=0.15) and len(part) == 24000
    # A part includes only its section of the gap.
    for start, end, silence in ((0, 1.5, ""), (0, 3.5, "1.5 s"), (3, 4, "1.0 s"), (4, 8, "3.0 s"), (7.5, 8.5, "")):
        remarks = read_recording(data, start=start, end=end).remarks
        assert [silence] * bool(silence) == [" ".join(remark.split()[:2]) for remark in remarks]


@pytest.mark.parametrize(("container", "codec", "rate"), [*CLOCKED, ("mpegts", "aac", 48000)])
def test_audio_that_starts_late_in_a_video_keeps_its_place(container, codec, rate):
    video_file = read_recording(stamped(container, codec, (4, 3), rate=rate, video=10 if container != "webm" else 0))
    ((start, end),) = loud_spans(video_file.waveform)
    assert start == pytest.approx(4, abs=0.15) and end == pytest.approx(7, abs=0.15)
    assert not video_file.damage  # the video continues to the promised end


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        *CLOCKED,
        ("mpegts", "mp2", 48000),
        ("mp3", "libmp3lame", 16000),
        ("ogg", "libopus", 48000),
        ("avi", "mp2", 48000),
    ],
)
def test_a_recording_without_gaps_is_unchanged(container, codec, rate):
    """Neither the delay of an encoder nor rounding to milliseconds is a gap."""
    recording = read_recording(stamped(container, codec, (0, 5), rate=rate))
    assert not recording.damage + recording.remarks
    assert len(recording.waveform) / 16000 == pytest.approx(5, abs=0.1)
    blocks = recording.waveform[1600 : 1600 + 72000].reshape(-1, 160)
    assert (np.abs(blocks).max(axis=1) > 0.1).all()


def test_a_broken_time_stamp_does_not_fill_the_memory():
    data = stamped("matroska", "pcm_s16le", (0, 2), (36000, 2), rate=16000)
    recording = read_recording(data)
    assert len(recording.waveform) == 4 * 16000 and "jump by 35998 s" in recording.damage[0]
    with pytest.raises(AudioTooLongError):  # inserted silence counts
        read_audio(stamped("matroska", "pcm_s16le", (0, 2), (3000, 2), rate=16000), max_seconds=1200)


OPUS = written(tone(2, 16000, 300), "OGG", "OPUS")
VORBIS = written(tone(1, 44100, 600), "OGG", "VORBIS", rate=44100)
STEREO = written(np.stack([tone(1, 8000, 900)] * 2, 1), "OGG", "VORBIS", rate=8000)


@pytest.mark.parametrize("links", [[VORBIS, VORBIS], [OPUS, OPUS], [OPUS, VORBIS, STEREO]], ids=len)
def test_streams_of_a_chained_ogg_are_concatenated(tmp_path, links):
    (tmp_path / "a.ogg").write_bytes(b"".join(links))
    alone = [read_audio(link) for link in links]
    for source in (tmp_path / "a.ogg", b"".join(links)):
        recording = read_recording(source)
        assert len(recording.waveform) == pytest.approx(sum(map(len, alone)), abs=2) and not recording.damage
        place = 0
        for each in alone:
            assert main_frequency(recording.waveform[place + 800 :][:12000]) == pytest.approx(
                main_frequency(each[800:12800]), abs=5
            )
            place += len(each)
        assert audio_duration(source) == pytest.approx(place / 16000, abs=0.05)
    middle = len(alone[0]) / 16000
    part = read_audio(b"".join(links), start=middle + 0.25, end=middle + 0.75)
    assert len(part) == 8000
    assert main_frequency(part) == pytest.approx(main_frequency(alone[1]), abs=5)


@pytest.mark.parametrize(
    ("parts", "frequency"),
    [
        ([stamped("mp3", "libmp3lame", (0, 3), rate=rate) for rate in (16000, 8000)], 440),
        ([stamped("mp3", "libmp3lame", (0, 3), rate=rate) for rate in (44100, 48000)], 440),
        ([stamped("adts", "aac", (0, 3), rate=rate) for rate in (44100, 16000)], 440),
        ([stamped("adts", "aac", (0, 3), rate=44100, channels=channels) for channels in (1, 2)], 440),
    ],
    ids=["mp3", "mp3-48", "aac", "channels"],
)
def test_a_stream_that_changes_its_rate_is_resampled_from_each_rate(parts, frequency):
    recording = read_recording(b"".join(parts))
    assert len(recording.waveform) / 16000 == pytest.approx(6, abs=0.4) and not recording.damage
    for second in (1, 4):
        assert main_frequency(recording.waveform[second * 16000 :][:16000]) == pytest.approx(frequency, abs=5)


def test_joined_browser_clips_are_concatenated():
    """The time stamps of the second clip restart at zero."""
    joined = b"".join(stamped("webm", "libopus", (0, 3), rate=48000) for _ in range(2))
    assert len(read_audio(joined)) / 16000 == pytest.approx(6, abs=0.05)
    assert len(read_audio(joined, start=4.5, end=5)) == 8000


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(stamped("mp3", "libmp3lame", (0, 20), rate=44100), id="mp3"),
        pytest.param(stamped("mp4", "aac", (0, 20), rate=44100), id="m4a"),
        pytest.param(stamped("webm", "libopus", (0, 20), rate=48000), id="webm"),
        pytest.param(written(tone(20, 16000) * np.linspace(0, 1, 320000), "OGG", "VORBIS"), id="ogg"),
        pytest.param(written(tone(20, 16000) * np.linspace(0, 1, 320000), "FLAC"), id="flac"),
        pytest.param(written(tone(20, 48000) * np.linspace(0, 1, 960000), "WAV", rate=48000), id="wav"),
    ],
)
def test_a_part_equals_the_same_section_of_the_whole(whole):
    waveform = read_audio(whole)
    for start, end in ((0.0, 1.0), (3.3, 8.25), (9.5, 9.75), (17.0, 19.5)):
        part = read_recording(whole, start=start, end=end)
        expected = waveform[round(start * 16000) : round(end * 16000)]
        assert abs(len(part.waveform) - len(expected)) <= 1 and not part.damage
        common = slice(200, min(len(expected), len(part.waveform)) - 200)  # without the edges of the resampler
        np.testing.assert_allclose(part.waveform[common], expected[common], atol=2e-3)
    with pytest.raises(AudioError, match="100 to 101 s is outside of its (19|20)[.]"):
        read_audio(whole, start=100, end=101)
    assert not read_recording(whole, start=19.0, end=20.05).damage  # the duration is rounded
    (damage,) = read_recording(whole, start=19.0, end=21.0).damage
    assert damage.startswith("ends at ") and damage.endswith("19 to 21 s are requested")
