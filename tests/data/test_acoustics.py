"""What is measured of a recording: level, clipping, silence, noise, and a fingerprint that its copies share."""

import io

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data.acoustics import FINGERPRINT_BYTES, listen, measure_acoustics
from hf_asr.data.audio import LongRecording, Recording, read_audio
from hf_asr.data.sources import Source, read_row
from hf_asr.data.timeline import Notes

RATE = 16000


def measured(waveform: np.ndarray, file_rate: int = RATE):
    recording = Recording(np.asarray(waveform, np.float32), [], [], file_rate)
    return measure_acoustics(recording, sampling_rate=RATE)


def noise(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).normal(size=round(seconds * RATE))


@pytest.fixture(scope="module")
def utterances(corpus) -> list[np.ndarray]:
    rows = Source(str(corpus)).load("train")
    return [read_row(rows[i], sampling_rate=RATE) for i in range(12)]


def test_silence_and_noise_are_measured():
    found = measured(np.concatenate([noise(1, 1e-4), noise(2, 0.1), noise(3, 1e-4)]))
    assert (found.start, found.end) == (pytest.approx(1, abs=0.02), pytest.approx(3, abs=0.02))
    assert found.seconds == 6 and found.silent == pytest.approx(4 / 6, abs=0.01)
    assert found.snr == pytest.approx(60, abs=2) and found.level == pytest.approx(-20, abs=2)
    assert not found.is_silent and found.spoken_seconds == pytest.approx(2, abs=0.03)


def test_a_recording_without_sound_is_silent():
    for waveform in (np.zeros(RATE), noise(1, 1e-4), np.zeros(3)):
        found = measured(waveform)
        assert found.is_silent and found.fingerprint is None


def test_clipped_samples_are_counted():
    waveform = 2 * np.sin(np.arange(RATE) / 10)
    assert measured(np.clip(waveform, -1, 1)).clipped == pytest.approx(2 / 3, abs=0.02)
    assert measured(0.4 * waveform).clipped == 0


def test_a_long_recording_is_measured_piece_by_piece_with_the_same_result(utterances):
    waveform = np.concatenate(utterances)
    sizes = np.random.default_rng(0).integers(1, 30000, size=len(waveform) // 100)
    pieces = np.split(waveform, np.cumsum(sizes)[np.cumsum(sizes) < len(waveform)])
    long = LongRecording(lambda: iter(pieces), duration=9.0, sampling_rate=RATE, notes=Notes(), file_rate=8000)
    found, whole = measure_acoustics(long, sampling_rate=RATE), measured(waveform)
    assert found.file_rate == 8000 and found.seconds == whole.seconds
    assert found.snr == pytest.approx(whole.snr, abs=0.01) and found.clipped == whole.clipped
    assert differing(found, whole) < 0.02  # the frames at the ends of pieces


def differing(found, other) -> float:
    return np.bitwise_count(found.fingerprint ^ other.fingerprint).sum() / (8 * FINGERPRINT_BYTES)


def test_copies_share_a_fingerprint_and_other_recordings_do_not(utterances):
    prints = [measured(waveform) for waveform in utterances]
    for waveform, found in zip(utterances, prints, strict=True):
        file = io.BytesIO()
        soundfile.write(file, np.clip(waveform, -1, 1), RATE, format="MP3", subtype="MPEG_LAYER_III")
        copies = [0.3 * waveform, np.concatenate([np.zeros(5000), waveform]), read_audio(file.getvalue())]
        assert max(differing(found, measured(copy)) for copy in copies) < 0.12
    pairs = [differing(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    assert min(pairs) > 0.2 and np.median(pairs) == pytest.approx(0.5, abs=0.05)


def test_rows_are_measured_and_those_that_cannot_be_read_have_their_reason(recording, tmp_path):
    waveform, _ = soundfile.read(recording)
    soundfile.write(tmp_path / "low.wav", waveform[::2], 8000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    names = ["low.wav", "broken.wav", "missing.wav"]
    rows = [
        {"audio": {"bytes": None, "path": str(tmp_path / name)}, "utterance_id": name, "text": ""} for name in names
    ]
    acoustics, measurements = listen(datasets.Dataset.from_list(rows), sampling_rate=RATE, show_progress=False)
    assert acoustics[0].file_rate == 8000
    assert measurements[0].seconds == pytest.approx(len(waveform) / RATE, abs=0.01) and not measurements[0].problem
    assert acoustics[1:] == [None, None] and measurements[2].problem == "file not found"
