"""sherpa-onnx's recogniser, from its wheel, runs the exported files."""

import difflib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hf_asr import ConformerConfig, ConformerFeatureExtractor, ConformerTokenizer
from hf_asr.cli import main
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.recognizer import load
from hf_asr.export.sherpa import inputs, metadata, refusal, write_tokens

PHONE = ConformerFeatureExtractor(energy_floor=128.0)
SHORT = [80, 100, 320, 1600, 4800, 7984, 8000, 8016, 11200]


class Spell(torch.nn.Module):
    """A model whose tokens spell its input features: three digits of base 256 each, in turn from two alphabets."""

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        number = ((x + 32) * 2**18).round().long()  # (1, T, 80)
        digits = torch.stack([number // 65536, number // 256 % 256, number % 256], -1).flatten(1)  # (1, 240 T)
        tokens = (
            1 + digits + 256 * (torch.arange(digits.shape[1]) % 2)
        )  # no two neighbours are equal, so none is merged
        return torch.nn.functional.one_hot(tokens, 513).float(), x_lens * 240


@pytest.fixture(scope="module")
def sherpas_features(tmp_path_factory):
    """Return a function from a waveform (samples,) to the features (frames, 80) that sherpa-onnx gives a model."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install sherpa-onnx")
    folder = tmp_path_factory.mktemp("spell")
    proto = torch.onnx.export(
        Spell().eval(),
        kwargs={"x": torch.zeros(1, 20, 80), "x_lens": torch.tensor([20])},
        dynamic_shapes={"x": {1: torch.export.Dim.DYNAMIC}, "x_lens": {}},
        input_names=["x", "x_lens"],
        output_names=["log_probs", "log_probs_lens"],
        dynamo=True,
        external_data=False,
        verbose=False,
    ).model_proto
    for key, value in metadata(ConformerConfig(vocab_size=513)).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, folder / "model.onnx")
    names = ["<blk>", *(f"t{i}" for i in range(1, 513))]
    (folder / "tokens.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
    recognizer = open_recognizer(sherpa_onnx, folder)

    def features(waveform: np.ndarray) -> np.ndarray:
        digits = [(int(token[1:]) - 1) % 256 for token in decode(recognizer, waveform).tokens]
        return np.reshape(digits, (-1, 80, 3)) @ [65536, 256, 1] / 2**18 - 32

    return features


def open_recognizer(sherpa_onnx, folder: Path):
    model, tokens = str(folder / "model.onnx"), str(folder / "tokens.txt")
    return sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model=model, tokens=tokens)


def decode(recognizer, waveform: np.ndarray):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, waveform)
    recognizer.decode_stream(stream)
    return stream.result


def noise(samples: int, scale: float = 0.1) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, scale, samples).astype(np.float32)


@pytest.mark.parametrize("waveform", [*map(noise, SHORT), noise(16000, scale=1e-5), np.zeros(4800, np.float32)])
def test_features_are_those_of_our_extractor(sherpas_features, waveform):
    found = sherpas_features(waveform)
    ours = inputs(PHONE, [waveform])["x"][0]
    assert found.shape == ours.shape
    np.testing.assert_allclose(found, ours, atol=2e-3)
    np.testing.assert_array_equal(found, sherpas_features(waveform))  # no dither


def test_a_recording_shorter_than_a_frame_has_no_features(sherpas_features):
    for samples in (1, 50, 79):
        assert sherpas_features(noise(samples)).shape == (0, 80)
        assert inputs(PHONE, [noise(samples)])["x"].shape == (1, 0, 80)


@pytest.mark.slow
def test_transcripts_are_those_of_pytorch(talkative, corpus, tmp_path, quick_export):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install sherpa-onnx")
    options = ["--target", "sherpa-onnx", "--dataset_name", str(corpus), "--max_utterances", "4", "--allow_differences"]
    main(["export", "--model_name_or_path", str(talkative), "--output_dir", str(tmp_path), *options])
    assert {"model.onnx", "model.int8.onnx", "tokens.txt"} <= {path.name for path in tmp_path.iterdir()}
    recognizer = open_recognizer(sherpa_onnx, tmp_path)
    waveforms = [read_row(row, sampling_rate=16000) for row in Source(str(corpus)).load("validation")]
    waveforms += [waveforms[0][4000 : 4000 + samples] for samples in [1, 50, *SHORT]]
    expected = load(str(talkative)).transcribe(waveforms)
    assert [decode(recognizer, waveform).text.strip() for waveform in waveforms] == [ours.text for ours in expected]
    assert len({ours.text for ours in expected}) > len(SHORT)
    # Opened as `wenet_ctc`, sherpa-onnx adds noise to the samples; in a loud recording it has little effect.
    model, tokens = str(tmp_path / "model.onnx"), str(tmp_path / "tokens.txt")
    recognizer = sherpa_onnx.OfflineRecognizer.from_wenet_ctc(model=model, tokens=tokens)
    loud = waveforms[0] + noise(len(waveforms[0]), scale=0.01)
    (expected,) = load(str(talkative)).transcribe([loud])
    found = decode(recognizer, loud).text.strip()
    assert len(expected.text) > 3 and difflib.SequenceMatcher(None, found, expected.text).ratio() > 0.9


def test_tokens_txt_has_a_token_and_its_id_on_each_line(tmp_path):
    tokenizer = ConformerTokenizer.from_texts(["ab 打"], text_normalization="none")
    write_tokens(tmp_path / "tokens.txt", tokenizer)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["<blk> 0", "<unk> 1", "<sos/eos> 2", "a 3", "b 4", "▁ 5", "打 6"]


def test_other_features_are_refused_with_the_names_of_the_options():
    assert refusal(PHONE) is None
    options = {"high_freq": 0, "snip_edges": True, "energy_floor": 128.0}
    assert "high_freq 0 (it has -400.0)" in refusal(ConformerFeatureExtractor(**options))
    assert "energy_floor" in refusal(ConformerFeatureExtractor(energy_floor=2.0**-23))
    assert "denoising" in refusal(ConformerFeatureExtractor(denoise=True), allow_other_features=True)
    assert refusal(ConformerFeatureExtractor(energy_floor=2.0**-23), allow_other_features=True) is None
