"""A recording that is read piece by piece is, one piece after another, the waveform that is read at once."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import AudioError, LongRecording, Recording, open_recording, read_or_open, read_recording


def speech(seconds: float, *, rate: int = 16000, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("part", [{}, {"start": 1.3, "end": 4.1}], ids=["whole", "part"])
def test_the_pieces_are_the_waveform(tmp_path, name, rate, channels, part):
    soundfile.write(tmp_path / name, speech(5.25, rate=rate, channels=channels), rate)
    expected = read_recording(tmp_path / name, **part)
    recording = open_recording(tmp_path / name, **part)
    for _ in range(2):  # it can be read again
        pieces = list(recording)
        assert np.array_equal(np.concatenate(pieces), expected.waveform)
        assert max(map(len, pieces)) < 2 * 16000
    assert recording.duration == pytest.approx(len(expected.waveform) / 16000, abs=1e-3)
    assert (recording.damage, recording.remarks) == (expected.damage, expected.remarks)


def test_defects_are_known_before_the_first_piece(tmp_path):
    stereo = speech(3, channels=2)
    stereo[:, 1] = -0.9 * stereo[:, 0]
    soundfile.write(tmp_path / "a.wav", stereo, 16000)
    cut = (tmp_path / "a.wav").read_bytes()[:-64000]
    expected, recording = read_recording(cut), open_recording(cut)
    assert recording.damage == expected.damage and "truncated" in recording.damage[0]
    assert recording.remarks == expected.remarks and "cancel" in recording.remarks[0]
    assert np.array_equal(np.concatenate(list(recording)), expected.waveform)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [(np.zeros((0, 1)), "0 samples"), (np.full((20000, 1), np.nan), "NaN")],
    ids=["empty", "NaN"],
)
def test_what_cannot_be_read_cannot_be_opened(tmp_path, waveform, message):
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=message):
        open_recording(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="channel 3 does not exist"):
        open_recording(tmp_path / "a.wav", channel=2)
    with pytest.raises(AudioError, match="not a valid part"):
        open_recording(tmp_path / "a.wav", start=3, end=2)


def test_only_a_longer_recording_is_opened(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(3), 16000)
    assert isinstance(read_or_open(tmp_path / "a.wav", max_seconds=3), Recording)
    assert isinstance(read_or_open(tmp_path / "a.wav", max_seconds=2.9), LongRecording)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_memory_does_not_grow_with_the_length(tmp_path, rate):
    peaks = []
    for seconds in (20, 200):
        with soundfile.SoundFile(tmp_path / f"{seconds}.wav", "w", rate, 2) as file:
            for _ in range(seconds):
                file.write(speech(1, rate=rate, channels=2))
        tracemalloc.start()
        assert sum(map(len, open_recording(tmp_path / f"{seconds}.wav"))) == pytest.approx(16000 * seconds, abs=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
