import subprocess
import sys

import numpy as np
import pytest
import soundfile

from hf_asr.data.augment import build_augmentation
from hf_asr.data.sources import Source, read_row
from hf_asr.data.transforms import CODECS, Codec, Denoise, mix, rms

ALL = [
    {"name": "SpeedPerturbation", "p": 1.0},
    {"name": "Gain", "p": 1.0},
    {"name": "PitchShift", "p": 1.0},
    {"name": "Shift", "p": 1.0},
    {"name": "AddBackgroundNoise", "sounds_path": "NOISE", "min_snr_db": 0, "max_snr_db": 20, "p": 1.0},
    {"name": "AddBabble", "p": 1.0},
    {"name": "RoomSimulator", "use_ray_tracing": False, "leave_length_unchanged": True, "p": 1.0},
    {"name": "BandPassFilter", "p": 1.0},
    {"name": "Codec", "p": 1.0},
    {"name": "ClippingDistortion", "p": 1.0},
    {"name": "SevenBandParametricEQ", "p": 1.0},
    {"name": "Denoise", "p": 1.0},
]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for name in ("b/1", "a/2", "c/3"):
        (folder / name).parent.mkdir()
        soundfile.write(folder / f"{name}.wav", generator.normal(0, 0.1, 8000).astype(np.float32), 16000)
    return folder


@pytest.fixture(scope="module")
def speech(corpus):
    return read_row(Source(str(corpus)).load("train")[0], sampling_rate=16000)


def recipe(noise) -> list[dict]:
    return [transform | ({"sounds_path": str(noise)} if "sounds_path" in transform else {}) for transform in ALL]


@pytest.mark.parametrize("place", range(len(ALL)), ids=[transform["name"] for transform in ALL])
def test_each_transform_depends_on_seed_epoch_and_utterance_only(corpus, noise, speech, place):
    rows = Source(str(corpus)).load("train")
    transform = [recipe(noise)[place]]
    first = build_augmentation(transform, seed=1, rows=rows)
    other = first(speech, 16000, 1, "b")  # independent of earlier calls of any object
    again = build_augmentation(transform, seed=1, rows=rows)
    expected = first(speech, 16000, 0, "a")
    np.testing.assert_array_equal(again(speech, 16000, 0, "a"), expected)
    assert expected.dtype == np.float32 and np.isfinite(expected).all() and rms(expected) > 1e-4
    if transform[0]["name"] not in ("Denoise", "SpeedPerturbation"):
        assert other.shape != expected.shape or not np.array_equal(other, expected)
    assert expected.shape != speech.shape or not np.array_equal(expected, speech)


def test_another_process_draws_the_same(corpus, noise, speech, tmp_path):
    """Workers, ranks and resumed runs are different processes."""
    rows = Source(str(corpus)).load("train")
    expected = build_augmentation(recipe(noise), seed=1, rows=rows)(speech, 16000, 4, "a")
    code = f"""
import numpy as np
from hf_asr.data.augment import build_augmentation
from hf_asr.data.sources import Source, read_row
rows = Source({str(corpus)!r}).load("train")
augment = build_augmentation({recipe(noise)!r}, seed=1, rows=rows)
np.save({str(tmp_path / "a.npy")!r}, augment(read_row(rows[0], sampling_rate=16000), 16000, 4, "a"))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_keep_alignment_and_level(speech, codec):
    decoded = Codec([codec], p=1.0)(speech, 16000)
    assert len(decoded) == len(speech)
    assert rms(decoded) == pytest.approx(rms(speech), rel=0.35)
    error = np.abs(np.correlate(decoded, speech, "same")).argmax() - len(speech) // 2
    assert abs(error) <= 2  # samples


def test_telephone_codecs_remove_frequencies_above_4_khz():
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(Codec(["mulaw"], p=1.0)(noise, 16000))) ** 2  # one bin per Hz
    assert spectrum[4100:].sum() < 1e-3 * spectrum[:3800].sum()


@pytest.mark.parametrize("snr_db", [0, 10])
def test_mix_has_the_requested_ratio(speech, snr_db):
    noise = np.random.default_rng(0).normal(0, 1, len(speech)).astype(np.float32)
    added = mix(speech, noise, snr_db=snr_db) - speech
    assert 20 * np.log10(rms(speech) / rms(added)) == pytest.approx(snr_db, abs=0.01)


def test_denoise_lowers_stationary_noise(speech):
    noise = np.random.default_rng(0).normal(0, 1, len(speech)).astype(np.float32)
    noisy = mix(speech, noise, snr_db=5)
    assert rms(Denoise(p=1.0)(noisy, 16000) - speech) < 0.9 * rms(noisy - speech)


def test_invalid_arguments_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="codecs can be opus, mp3.* not vorbis"):
        build_augmentation([{"name": "Codec", "codecs": ["vorbis"]}], seed=0)
    with pytest.raises(ValueError, match="AddBackgroundNoise .*: no audio file found there"):
        build_augmentation([{"name": "AddBackgroundNoise", "sounds_path": str(tmp_path)}], seed=0)
