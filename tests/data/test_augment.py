import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_asr.data.augment import SpeedPerturbation, build_augmentation

RECIPE = [
    {"name": "SpeedPerturbation", "factors": [0.9, 1.0, 1.1]},
    {"name": "Gain", "min_gain_db": -20, "max_gain_db": 6, "p": 1.0},
    {"name": "AddGaussianSNR", "min_snr_db": 5, "max_snr_db": 30, "p": 1.0},
]
WAVEFORM = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)


def test_augmentation_depends_on_seed_epoch_and_utterance_only():
    augment = build_augmentation(RECIPE, seed=1)
    first = augment(WAVEFORM, 16000, 2, "a.wav")
    augment(WAVEFORM, 16000, 2, "b.wav")
    np.random.seed(99)
    np.testing.assert_array_equal(augment(WAVEFORM, 16000, 2, "a.wav"), first)
    for seed, epoch, name in ((1, 3, "a.wav"), (1, 2, "b.wav"), (2, 2, "a.wav")):
        other = build_augmentation(RECIPE, seed=seed)(WAVEFORM, 16000, epoch, name)
        assert other.shape != first.shape or not np.array_equal(other, first)


def test_global_random_states_are_restored():
    random.seed(5), np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5), np.random.seed(5)
    build_augmentation(RECIPE, seed=1)(WAVEFORM, 16000, 0, "a")
    assert (random.random(), np.random.rand()) == expected


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_perturbation_changes_duration_and_pitch(factor):
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    faster = SpeedPerturbation([factor])(tone, 16000)
    assert len(faster) == pytest.approx(16000 / factor, abs=2)
    frequency = np.abs(np.fft.rfft(faster)).argmax() * 16000 / len(faster)
    assert frequency == pytest.approx(1000 * factor, abs=2)


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "SpeedPerturbation", "factors": [0.8, 1.1]},
        {"name": "TimeStretch", "min_rate": 0.7, "max_rate": 0.8, "leave_length_unchanged": False},
        {"name": "Resample", "min_sample_rate": 20000, "max_sample_rate": 22000},
        {"name": "AdjustDuration", "duration_seconds": 2.5},
        {"name": "RepeatPart", "max_part_duration": 0.4},
        {"name": "RoomSimulator", "max_order": 1},
        {"name": "Gain"},
    ],
    ids=lambda transform: transform["name"],
)
def test_longest_bounds_the_augmented_duration(transform):
    augment = build_augmentation([{"p": 1.0} | transform, {"name": "SpeedPerturbation", "factors": [0.9]}], seed=1)
    longest = max(len(augment(WAVEFORM, 16000, epoch, "a")) / 16000 for epoch in range(8))
    assert 0.8 * augment.longest(1.0) <= longest <= augment.longest(1.0) + 0.001
    assert build_augmentation([transform | {"p": 0.0}], seed=1).longest(1.0) == 1.0


def test_unbounded_or_invalid_arguments_are_an_error(tmp_path):
    soundfile.write(tmp_path / "room.wav", WAVEFORM, 16000)
    rooms = {"name": "ApplyImpulseResponse", "ir_path": str(tmp_path), "leave_length_unchanged": False}
    with pytest.raises(ValueError, match="ApplyImpulseResponse with leave_length_unchanged: false makes recordings"):
        build_augmentation([rooms], seed=0)
    with pytest.raises(ValueError, match="SpeedPerturbation .*factors must be numbers above 0, not .0.0."):
        build_augmentation([{"name": "SpeedPerturbation", "factors": [0.0]}], seed=0)
    with pytest.raises(ValueError, match="'Gain' is not a mapping with a name"):
        build_augmentation(["Gain"], seed=0)


def test_an_empty_list_is_no_augmentation():
    assert build_augmentation([], seed=0) is None


def test_an_unknown_class_or_argument_is_an_error():
    with pytest.raises(ValueError, match="unknown class 'Gian', did you mean Gain"):
        build_augmentation([{"name": "Gian"}], seed=0)
    with pytest.raises(ValueError, match="Gain takes min_gain_db"):
        build_augmentation([{"name": "Gain", "loudness": 3}], seed=0)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        ({"name": "Gain", "p": 50}, "0 <= p <= 1 is required"),
        ({"name": "SpeedPerturbation", "p": -1}, "0 <= p <= 1 is required"),
        ({"name": "AddGaussianNoise", "min_amplitude": 0}, "min_amplitude > 0.0 is required"),
        ({"name": "AddBackgroundNoise", "sounds_path": "EMPTY"}, "no audio file found there"),
        ({"name": "AddShortNoises", "sounds_path": "EMPTY"}, "no audio file found there"),
        ({"name": "ApplyImpulseResponse", "ir_path": "EMPTY"}, "No impulse response files found"),
    ],
)
def test_the_condition_of_a_refused_argument_is_named(tmp_path, transform, reason):
    transform = {name: str(tmp_path) if value == "EMPTY" else value for name, value in transform.items()}
    with pytest.raises(ValueError, match=f"{transform['name']} .*: {reason}"):
        build_augmentation([transform], seed=0)


def test_companion_files_of_macos_are_not_noise(tmp_path):
    for name in ("b.wav", "._b.wav", "a.wav"):
        (tmp_path / name).touch()
    augment = build_augmentation([{"name": "AddBackgroundNoise", "sounds_path": str(tmp_path)}], seed=0)
    assert [Path(path).name for path in augment.compose.transforms[0].sound_file_paths] == ["a.wav", "b.wav"]


def test_a_pickled_augmentation_draws_the_same(tmp_path):
    soundfile.write(tmp_path / "voice.wav", WAVEFORM, 16000)
    rows = [{"audio": {"path": str(tmp_path / "voice.wav"), "bytes": None}}]
    augment = build_augmentation([*RECIPE, {"name": "AddBabble", "p": 1.0}], seed=1, rows=rows)
    sent = pickle.loads(pickle.dumps(augment))
    np.testing.assert_array_equal(sent(WAVEFORM, 16000, 2, "a.wav"), augment(WAVEFORM, 16000, 2, "a.wav"))
