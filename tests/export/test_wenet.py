"""The target wenet: a checkpoint goes to WeNet's format and back, is fine-tuned, and goes to phones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_asr import ConformerForCTC
from hf_asr.cli import main
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import load
from hf_asr.export.sherpa_streaming import silence_seconds

from .tones import LETTERS, save_tone_checkpoint

CHUNKS = {"chunk_size": 16, "num_left_chunks": 4}
LIVE_FILES = {"model": "model-streaming.onnx", "tokens": "tokens.txt"}
OPTIONS = {"causal_conv": True, "use_dynamic_chunk": True, "decoder_layers": 1, "reverse_decoder_layers": 1}


def export(checkpoint: Path, output_dir: Path, *options: object) -> None:
    main(["export", "--model_name_or_path", str(checkpoint), "--output_dir", str(output_dir), *map(str, options)])


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> tuple[Path, Path]:
    """Return a checkpoint for live audio, and the one that it has become in WeNet's format and back."""
    folder = tmp_path_factory.mktemp("wenet")
    source = save_tone_checkpoint(folder / "source", **OPTIONS)
    export(source, folder / "wenet", "--target", "wenet", "--allow_other_features")
    main(["import-wenet", str(folder / "wenet"), "--output_dir", str(folder / "again")])
    return source, folder / "again"


@pytest.fixture(scope="module")
def waveforms(tones) -> list[np.ndarray]:
    return [read_row(row, sampling_rate=16000) for row in Source(str(tones)).load("validation").select(range(8))]


def test_the_imported_checkpoint_has_the_same_weights_and_text(imported, waveforms):
    ours, again = (ConformerForCTC.from_pretrained(folder).state_dict() for folder in imported)
    assert set(ours) == set(again) and all(torch.equal(ours[name], again[name]) for name in ours)
    texts = [[item.text for item in load(folder).transcribe(waveforms)] for folder in imported]
    assert texts[0] == texts[1] and all(texts[0])


def test_options_of_graphs_and_used_folders_are_refused(imported, tmp_path):
    for options in (["--quantize", "int8"], ["--streaming", "true"], ["--with_frontend"]):
        with pytest.raises(SystemExit, match=f"{options[0]} goes with"):
            export(imported[0], tmp_path / "out", "--target", "wenet", *options)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a").touch()
    with pytest.raises(SystemExit, match="must be a new or an empty folder"):
        export(imported[0], tmp_path / "used", "--target", "wenet", "--allow_other_features")
    with pytest.raises(SystemExit, match="WeNet computes other features .* --allow_other_features"):
        export(imported[0], tmp_path / "out", "--target", "wenet")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tuned(imported, tones, tmp_path_factory) -> Path:
    """Return the imported checkpoint after a few steps on data with a new letter."""
    data, folder = tmp_path_factory.mktemp("tuned") / "data", tmp_path_factory.mktemp("tuned") / "model"
    for split in ("train", "validation"):
        (data / split).mkdir(parents=True)
        for path in (tones / split).glob("*.wav"):
            (data / split / path.name).symlink_to(path)
        text = (tones / split / "metadata.jsonl").read_text()
        lines = [line.replace('"text": "', '"text": "k') for line in text.splitlines()]
        (data / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    options = {"model_name_or_path": imported[1], "dataset_name": data, "output_dir": folder, "max_steps": 3}
    options |= {"learning_rate": 1e-5, "max_batch_seconds": 30, "precision": "fp32", "dataloader_num_workers": 0}
    main(["train", *(str(word) for name, value in options.items() for word in (f"--{name}", value))])
    return folder


@pytest.mark.slow
def test_it_is_fine_tuned_with_another_vocabulary(imported, tuned, waveforms):
    before, after = (ConformerForCTC.from_pretrained(folder) for folder in (imported[1], tuned))
    assert after.config.vocab_size == before.config.vocab_size + 2
    assert {"k", "▁"} <= set(load(tuned).processor.tokenizer.get_vocab())
    for name in ("ctc_head", "decoder.lm_head", "reverse_decoder.lm_head", "reverse_decoder.embed_tokens"):
        old, new = before.get_submodule(name).weight, after.get_submodule(name).weight
        torch.testing.assert_close(new[: len(old)], old, atol=1e-3, rtol=0)
        assert not torch.equal(new[3 : len(old)], old[3:])
    assert all(set(item.text) & set(LETTERS) for item in load(tuned).transcribe(waveforms))


@pytest.mark.slow
def test_sherpa_onnx_writes_our_text(tuned, tones, waveforms, tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install sherpa-onnx")
    options = ["--target", "sherpa-onnx", "--dataset_name", str(tones), "--max_utterances", "4", "--allow_differences"]
    chunks = [word for name, value in CHUNKS.items() for word in (f"--{name}", str(value))]
    export(tuned, tmp_path / "live", *options, "--streaming", "true", *chunks)
    files = {name: str(tmp_path / "live" / file) for name, file in LIVE_FILES.items()}
    recognizer, texts = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(**files, **CHUNKS), []
    ours = load(tuned, arguments=DecodingArguments(streaming=True, **CHUNKS))
    silence = np.zeros(round(16000 * silence_seconds(ours.model.config, ours.processor.feature_extractor)), np.float32)
    for waveform in waveforms:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, np.concatenate([waveform, silence]))
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        texts.append(recognizer.get_result(stream).strip())
    assert texts == [item.text for item in ours.transcribe(waveforms)] and all(texts)
