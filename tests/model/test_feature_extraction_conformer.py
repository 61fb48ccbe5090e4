import json
import math
import shutil

import numpy as np
import pytest
import torch
import torchaudio
from torch.nn.utils.rnn import pad_sequence

from hf_asr import ConformerFeatureExtractor, ConformerProcessor

GENERATOR = np.random.default_rng(0)
WAVEFORMS = [GENERATOR.normal(0, 0.1, samples).astype(np.float32) for samples in (16000, 23456, 1000, 401, 400)]


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("high_freq", [0.0, -400.0])
def test_features_equal_kaldis(snip_edges, high_freq):
    extractor = ConformerFeatureExtractor(snip_edges=snip_edges, high_freq=high_freq, min_duration=0.0)
    for waveform in WAVEFORMS:
        features = extractor(waveform, sampling_rate=16000, return_tensors="pt").input_features[0]
        expected = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(waveform)[None] * 32768,
            num_mel_bins=80,
            dither=0.0,
            energy_floor=0.0,
            snip_edges=snip_edges,
            high_freq=high_freq,
        )
        assert features.shape == expected.shape == (extractor.num_frames(len(waveform)), 80)
        torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("snip_edges", [True, False])
def test_features_of_a_batch_equal_features_of_single_waveforms(snip_edges):
    extractor = ConformerFeatureExtractor(snip_edges=snip_edges, min_duration=0.0)
    together = extractor(WAVEFORMS, sampling_rate=16000, return_tensors="pt")
    waveforms = [torch.from_numpy(waveform) for waveform in WAVEFORMS]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    # A GPU and exported graphs compute the whole batch at once; on a CPU the extractor computes one waveform at a time.
    batch, frame_lengths = extractor.fbank(pad_sequence(waveforms, batch_first=True), lengths)
    torch.testing.assert_close(batch, together.input_features, atol=1e-4, rtol=0)
    for i, waveform in enumerate(WAVEFORMS):
        alone = extractor(waveform, return_tensors="pt")
        frames = int(together.attention_mask[i].sum())
        assert frames == frame_lengths[i] == int(alone.attention_mask.sum()) == alone.input_features.shape[1]
        torch.testing.assert_close(together.input_features[i, :frames], alone.input_features[0], atol=0, rtol=0)
        assert not together.input_features[i, frames:].any() and not batch[i, frames:].any()


def test_very_short_signal_is_mirrored_repeatedly():
    features = ConformerFeatureExtractor(min_duration=0.0)(WAVEFORMS[0][:90], return_tensors="pt").input_features
    assert features.shape == (1, 1, 80) and torch.isfinite(features).all()


@pytest.mark.parametrize("snip_edges", [True, False])
def test_signal_shorter_than_a_frame_gives_one_padded_frame(snip_edges):
    extractor = ConformerFeatureExtractor(min_duration=0.0, snip_edges=snip_edges)
    inputs = extractor(WAVEFORMS[0][:50], return_tensors="pt")
    assert extractor.num_frames(50) == inputs.attention_mask.sum() == 0
    assert inputs.input_features.shape == (1, 1, 80) and not inputs.input_features.any()


# Samples. 1 and 50 are too few for a frame of their own; 8000 (0.5 seconds) is the smallest number without silence.
SHORT = [1, 50, 320, 1600, 4800, 7984, 8000, 8016, 11200]


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("samples", SHORT)
def test_short_recording_keeps_its_frames_and_gets_frames_of_silence(snip_edges, samples):
    waveform = WAVEFORMS[0][:samples]
    extractor = ConformerFeatureExtractor(snip_edges=snip_edges)
    inputs = extractor(waveform, return_tensors="pt")
    own = ConformerFeatureExtractor(snip_edges=snip_edges, min_duration=0.0)
    frames, least = own.num_frames(samples), own.num_frames(8000)
    features = inputs.input_features[0]
    assert len(features) == inputs.attention_mask.sum() == extractor.num_frames(samples) == max(frames, least)
    torch.testing.assert_close(
        features[:frames], own(waveform, return_tensors="pt").input_features[0, :frames], atol=0, rtol=0
    )
    assert torch.equal(features[frames:], own(np.zeros(16000), return_tensors="pt").input_features[0, frames:least])


def test_short_recording_has_equal_features_alone_and_in_a_batch():
    extractor = ConformerFeatureExtractor()
    waveforms = [torch.from_numpy(WAVEFORMS[0][:samples]) for samples in [*SHORT, 16000]]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch, frames = extractor.fbank(pad_sequence(waveforms, batch_first=True), lengths)  # as on a GPU and in graphs
    for row, count, waveform in zip(batch, frames, waveforms, strict=True):
        alone = extractor(waveform, return_tensors="pt").input_features[0]
        torch.testing.assert_close(row[:count], alone, atol=1e-4, rtol=0)
        assert not row[count:].any()


def test_min_frames_adds_silence_to_each_recording():
    extractor = ConformerFeatureExtractor()
    waveforms = [WAVEFORMS[0][:4800], WAVEFORMS[0], WAVEFORMS[0][:4800]]
    inputs = extractor(waveforms, min_frames=torch.tensor([120, 7, 7]), return_tensors="pt")
    assert inputs.attention_mask.sum(-1).tolist() == [120, 100, 50]
    assert (inputs.input_features[0, 30:] == np.float32(math.log(128))).all()
    assert torch.equal(inputs.input_features[0, :50], inputs.input_features[2, :50])
    assert not inputs.input_features[1, 100:].any()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "max_length", "max_length": 150},
        {"max_length": 80},  # without truncation, the features stay whole
        {"max_length": 80, "truncation": True},
        {"max_length": 80, "truncation": True, "pad_to_multiple_of": 64, "padding": "max_length"},
        {"pad_to_multiple_of": 64},
    ],
)
def test_length_options_are_those_of_pad(options):
    extractor, waveforms = ConformerFeatureExtractor(), [torch.randn(16000), torch.randn(8000)]
    alone = [{"input_features": extractor(each)["input_features"][0]} for each in waveforms]
    expected = extractor.pad(alone, **({"padding": True} | options), return_tensors="pt")
    found = extractor(waveforms, **options, return_tensors="pt")
    torch.testing.assert_close(found["input_features"], expected["input_features"])
    assert torch.equal(found["attention_mask"], expected["attention_mask"])


@pytest.mark.parametrize("options", [{"truncation": True}, {"padding": "max_length"}])
def test_length_options_without_a_length_are_an_error(options):
    with pytest.raises(ValueError, match="max_length"):
        ConformerFeatureExtractor()(torch.randn(16000), **options)


def test_energies_below_the_floor_are_raised_to_it():
    quiet = WAVEFORMS[0] * 1e-4
    floored, exact = (
        ConformerFeatureExtractor(energy_floor=floor)(quiet, return_tensors="pt").input_features
        for floor in (128.0, 2.0**-23)
    )
    assert exact.min() < math.log(128) < exact.max()
    torch.testing.assert_close(floored, exact.clamp(min=math.log(128)), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="energy_floor must be above 0"):
        ConformerFeatureExtractor(energy_floor=0.0)


def test_saved_settings_are_loaded(tmp_path):
    ConformerFeatureExtractor(snip_edges=True, high_freq=0.0, denoise=True, energy_floor=64.0).save_pretrained(tmp_path)
    loaded = ConformerFeatureExtractor.from_pretrained(tmp_path)
    assert (loaded.snip_edges, loaded.high_freq, loaded.denoise, loaded.num_mel_bins) == (True, 0.0, True, 80)
    assert loaded.energy_floor == 64.0


def test_checkpoint_without_energy_floor_uses_float32_epsilon(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "old")
    path = tmp_path / "old" / "processor_config.json"
    config = json.loads(path.read_text())
    assert config["feature_extractor"].pop("energy_floor") == 128.0
    path.write_text(json.dumps(config))
    assert ConformerProcessor.from_pretrained(path.parent).feature_extractor.energy_floor == 2.0**-23


def test_denoising_lowers_stationary_noise():
    seconds = np.arange(32000) / 16000
    speech = (np.sin(2 * np.pi * 440 * seconds) * (np.sin(2 * np.pi * 2 * seconds) > 0.95)).astype(np.float32)
    noisy = speech + GENERATOR.normal(0, 0.05, len(speech)).astype(np.float32)
    plain, clean = (
        ConformerFeatureExtractor(denoise=denoise)(noisy, return_tensors="pt").input_features[0]
        for denoise in (False, True)
    )
    assert clean.mean() < plain.mean() - 0.5  # the features are natural logarithms of energy
    assert (clean.amax() - plain.amax()).abs() < 2


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(800, np.float32), 8000, "8000 Hz.*16000 Hz: resample"),
        (np.zeros(0, np.float32), 16000, "waveform 0 is empty"),
        (np.array([0.0, np.nan], np.float32), 16000, "NaN"),
        (np.zeros((2, 800), np.float32)[None], 16000, "mono is expected"),
        ([], 16000, "there is no waveform"),
        (
            np.zeros((800, 2), np.float32),
            16000,
            r"\(800, 2\) has more waveforms than samples: .* \(samples, channels\)",
        ),
        (torch.zeros(800, 1), 16000, r"\(800, 1\) has more waveforms than samples"),
    ],
)
def test_wrong_waveform_or_sampling_rate_is_an_error(waveform, rate, message):
    with pytest.raises(ValueError, match=message):
        ConformerFeatureExtractor()(waveform, sampling_rate=rate)
