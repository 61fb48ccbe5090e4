"""sherpa-onnx's own recogniser, from its wheel, on the files that are written for it."""

import numpy as np
import pytest
import torch

from hf_asr import ConformerFeatureExtractor, ConformerTokenizer
from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.sources import load_source, read_row
from hf_asr.decoding.recognizer import recognize
from hf_asr.export.run import main
from hf_asr.export.sherpa import refusal, write_tokens


@pytest.fixture(scope="module")
def talkative(checkpoint, tmp_path_factory):
    """Random weights that say something: the tiny checkpoint with its blank made unlikely."""
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    torch.manual_seed(1)
    torch.nn.init.normal_(model.ctc_head.weight, std=1.0)
    folder = tmp_path_factory.mktemp("talkative")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_it_transcribes_as_ours_does(talkative, corpus, tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    options = ["--target", "sherpa-onnx", "--dataset_name", str(corpus), "--max_utterances", "4", "--allow_differences"]
    main(["--model_name_or_path", str(talkative), "--output_dir", str(tmp_path), *options])
    assert {"model.onnx", "model.int8.onnx", "tokens.txt"} <= {path.name for path in tmp_path.iterdir()}
    recognizer = sherpa_onnx.OfflineRecognizer.from_wenet_ctc(
        model=str(tmp_path / "model.onnx"), tokens=str(tmp_path / "tokens.txt")
    )
    waveforms = [read_row(row, sampling_rate=16000) for row in load_source(str(corpus), split="validation")]
    waveforms.append(waveforms[0][4000:8000])  # a quarter of a second
    expected = recognize(*load_checkpoint(str(talkative)), waveforms)
    equal = 0
    for waveform, ours in zip(waveforms, expected, strict=True):
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, waveform)
        recognizer.decode_stream(stream)
        errors = sum(a != b for a, b in zip(stream.result.text.strip(), ours.text, strict=False))
        equal += errors <= 0.1 * max(10, len(ours.text))  # random weights decide by a hair in many frames
    assert equal == len(waveforms)


def test_a_vocabulary_is_a_token_and_its_id_a_line(tmp_path):
    tokenizer = ConformerTokenizer.from_texts(["ab 打"], text_normalization="none")
    write_tokens(tmp_path / "tokens.txt", tokenizer)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["<blk> 0", "<unk> 1", "<sos/eos> 2", "a 3", "b 4", "▁ 5", "打 6"]


def test_other_features_are_refused_by_name():
    assert refusal(ConformerFeatureExtractor()) is None
    assert "high_freq 0 (it has -400.0)" in refusal(ConformerFeatureExtractor(high_freq=0, snip_edges=True))
    assert "denoising" in refusal(ConformerFeatureExtractor(denoise=True))
    assert np.isfinite(ConformerFeatureExtractor().min_duration)
