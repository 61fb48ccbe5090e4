import av
import numpy as np
import pytest
import soundfile
import soxr

from hf_asr.data.audio import AudioError, AudioTooLongError, read_audio

SECONDS = 0.5


def tone(rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(SECONDS * rate)) / rate)).astype(np.float32)


def loudest_frequency(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * 16000 / len(waveform)


def write_with_av(path, codec: str, rate: int) -> None:
    with av.open(str(path), "w") as container:
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


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus")])
def test_what_soundfile_refuses_goes_to_pyav(tmp_path, name, codec):
    write_with_av(tmp_path / name, codec, 48000)
    assert abs(loudest_frequency(read_audio(tmp_path / name)) - 440) < 5


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(16000), np.zeros(8000, np.float32)], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tone(16000) / 2, atol=1e-6)


def test_bytes_are_read_like_files(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    np.testing.assert_array_equal(read_audio((tmp_path / "a.wav").read_bytes()), read_audio(tmp_path / "a.wav"))


def test_what_cannot_be_read_says_why(tmp_path):
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


def test_longer_than_allowed_is_refused_by_both_readers(tmp_path):
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


def test_a_file_that_names_other_files_is_no_recording(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "secret.wav", np.zeros(16000), 16000)
    monkeypatch.chdir(tmp_path)
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    for text in (b"ffconcat version 1.0\nfile secret.wav\n", b"#EXTM3U\n#EXTINF:1,\nsecret.wav\n", sdp):
        with pytest.raises(AudioError, match="not decodable"):
            read_audio(text)


def test_many_samples_a_second_are_resampled_piece_by_piece(tmp_path):
    waveform = np.random.default_rng(0).normal(0, 0.1, 3 * 48000 + 77).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, 48000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), soxr.resample(waveform, 48000, 16000))


def test_a_header_that_claims_an_absurd_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 2_000_000)
    with pytest.raises(AudioError, match="2000000 samples a second"):
        read_audio(tmp_path / "a.wav")
