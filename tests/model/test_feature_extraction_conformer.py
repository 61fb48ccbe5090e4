import numpy as np
import pytest
import torch
import torchaudio
from torch.nn.utils.rnn import pad_sequence

from hf_asr import ConformerFeatureExtractor

GENERATOR = np.random.default_rng(0)
WAVEFORMS = [GENERATOR.normal(0, 0.1, samples).astype(np.float32) for samples in (16000, 23456, 1000, 401, 400)]


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("high_freq", [0.0, -400.0])
def test_kaldi(snip_edges, high_freq):
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
def test_batch_is_alone(snip_edges):
    extractor = ConformerFeatureExtractor(snip_edges=snip_edges, min_duration=0.0)
    together = extractor(WAVEFORMS, sampling_rate=16000, return_tensors="pt")
    waveforms = [torch.from_numpy(waveform) for waveform in WAVEFORMS]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    # what a GPU and exported graphs do: `extractor` itself goes one by one on a CPU
    batch, frame_lengths = extractor.fbank(pad_sequence(waveforms, batch_first=True), lengths)
    torch.testing.assert_close(batch, together.input_features, atol=1e-4, rtol=0)
    for i, waveform in enumerate(WAVEFORMS):
        alone = extractor(waveform, return_tensors="pt")
        frames = int(together.attention_mask[i].sum())
        assert frames == frame_lengths[i] == int(alone.attention_mask.sum()) == alone.input_features.shape[1]
        torch.testing.assert_close(together.input_features[i, :frames], alone.input_features[0], atol=0, rtol=0)
        assert not together.input_features[i, frames:].any() and not batch[i, frames:].any()


def test_a_few_samples_are_mirrored_as_often_as_it_takes():
    features = ConformerFeatureExtractor(min_duration=0.0)(WAVEFORMS[0][:90], return_tensors="pt").input_features
    assert features.shape == (1, 1, 80) and torch.isfinite(features).all()


@pytest.mark.parametrize("snip_edges", [True, False])
def test_fewer_samples_than_a_frame_give_a_frame_of_padding(snip_edges):
    extractor = ConformerFeatureExtractor(min_duration=0.0, snip_edges=snip_edges)
    inputs = extractor(WAVEFORMS[0][:50], return_tensors="pt")
    assert extractor.num_frames(50) == inputs.attention_mask.sum() == 0
    assert inputs.input_features.shape == (1, 1, 80) and not inputs.input_features.any()


def test_a_short_recording_is_padded_with_silence():
    extractor = ConformerFeatureExtractor()
    features = extractor(WAVEFORMS[0][:4000], return_tensors="pt").input_features  # a quarter of a second
    assert features.shape == (1, 50, 80) and extractor.num_frames(4000) == 50
    padded = np.pad(WAVEFORMS[0][:4000], (0, 4000))
    torch.testing.assert_close(features, extractor(padded, return_tensors="pt").input_features, atol=0, rtol=0)


def test_settings_survive_a_reload(tmp_path):
    ConformerFeatureExtractor(snip_edges=True, high_freq=0.0, denoise=True).save_pretrained(tmp_path)
    loaded = ConformerFeatureExtractor.from_pretrained(tmp_path)
    assert (loaded.snip_edges, loaded.high_freq, loaded.denoise, loaded.num_mel_bins) == (True, 0.0, True, 80)


def test_denoising_lowers_stationary_noise():
    seconds = np.arange(32000) / 16000
    speech = (np.sin(2 * np.pi * 440 * seconds) * (np.sin(2 * np.pi * 2 * seconds) > 0.95)).astype(np.float32)
    noisy = speech + GENERATOR.normal(0, 0.05, len(speech)).astype(np.float32)
    plain, clean = (
        ConformerFeatureExtractor(denoise=denoise)(noisy, return_tensors="pt").input_features[0]
        for denoise in (False, True)
    )
    assert clean.mean() < plain.mean() - 0.5  # natural logarithms of power
    assert (clean.amax() - plain.amax()).abs() < 2


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(800, np.float32), 8000, "8000 Hz.*16000 Hz: resample"),
        (np.zeros(0, np.float32), 16000, "waveform 0 is empty"),
        (np.array([0.0, np.nan], np.float32), 16000, "NaN"),
        (np.zeros((2, 800), np.float32)[None], 16000, "mono is expected"),
    ],
)
def test_what_is_wrong_is_said(waveform, rate, message):
    with pytest.raises(ValueError, match=message):
        ConformerFeatureExtractor()(waveform, sampling_rate=rate)
