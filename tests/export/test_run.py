"""The command: what it writes, what it refuses, and the exported model in the place of the source."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_asr import ConformerFeatureExtractor
from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import evaluate, transcribe
from hf_asr.data.sources import load_source, read_row
from hf_asr.decoding.recognizer import recognize
from hf_asr.export import run as export_module
from hf_asr.export.gate import Comparison
from hf_asr.export.graphs import SherpaToLogProbs
from hf_asr.export.ort_model import OrtConformerForCTC
from hf_asr.export.run import main

FORWARD = SherpaToLogProbs.forward


@pytest.fixture(scope="module")
def exported(checkpoint, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    data = ["--dataset_name", str(corpus), "--max_utterances", "4", "--allow_differences"]
    main(["--model_name_or_path", str(checkpoint), "--output_dir", str(folder), "--quantize", "int8", *data])
    return folder


@pytest.fixture(scope="module")
def waveforms(corpus):
    return [read_row(row, sampling_rate=16000) for row in load_source(str(corpus), split="validation")]


def test_the_report_holds_what_was_compared(exported):
    graphs = json.loads((exported / "export_report.json").read_text())["graphs"]
    assert [graph["file"] for graph in graphs] == ["model.onnx", "model.int8.onnx"]
    assert graphs[0]["max_difference"] < 1e-4 and graphs[0]["same_text"] == graphs[0]["same_short_text"] == 1.0
    assert graphs[0]["cer_before"] == graphs[0]["cer_after"] > 0
    assert graphs[1]["size_mb"] == pytest.approx((exported / "model.int8.onnx").stat().st_size / 1e6)
    assert all(graph["real_time_factor"] > 0 and graph["utterances"] == 4 for graph in graphs)
    assert not [path for path in exported.iterdir() if path.is_dir() or ".partial" in path.name]


def test_the_exported_model_takes_the_place_of_the_source(exported, checkpoint, waveforms):
    ours = recognize(*load_checkpoint(str(checkpoint)), waveforms)
    graph = recognize(*load_checkpoint(str(exported)), waveforms)
    assert [item.text for item in graph] == [item.text for item in ours]
    assert isinstance(load_checkpoint(str(exported / "model.int8.onnx"))[0], OrtConformerForCTC)


def test_it_passes_through_transformers_pipeline(exported, checkpoint, waveforms):
    model = OrtConformerForCTC.from_pretrained(exported)
    _, processor = load_checkpoint(str(exported))
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    graph = pipeline("automatic-speech-recognition", model=model, **parts)
    source = pipeline("automatic-speech-recognition", model=str(checkpoint))
    for waveform in (waveforms[0], np.concatenate(waveforms)):
        options = {"chunk_length_s": 8, "return_timestamps": "word"}
        assert graph(waveform.copy(), **options) == source(waveform.copy(), **options)


def test_saved_again_it_loads_again(exported, tmp_path):
    OrtConformerForCTC.from_pretrained(exported, file_name="model.int8.onnx").save_pretrained(tmp_path)
    assert OrtConformerForCTC.from_pretrained(tmp_path, file_name="model.int8.onnx").config.vocab_size


def test_scored_and_transcribed_by_the_same_commands(exported, checkpoint, corpus, recording, capsys):
    scores = []
    for model in (checkpoint, exported):
        evaluate(["--model_name_or_path", str(model), "--dataset_name", str(corpus)])
        scores.append(json.loads(capsys.readouterr().out.splitlines()[-1])["cer"])
    assert scores[0] == scores[1]
    transcribe(["--model_name_or_path", str(exported), str(recording), "--output_format", "json"])
    assert json.loads(capsys.readouterr().out)["file"] == str(recording)


def test_a_graph_that_differs_is_refused_and_not_left_behind(checkpoint, tmp_path, monkeypatch):
    wrong = Comparison("model.onnx", 3, 0.5, 0.1, 0.1, 0.1, 0.1, 1.0, 0.1, 0.1, "CPUExecutionProvider")
    monkeypatch.setattr(export_module, "compare", lambda *args: wrong)
    with pytest.raises(SystemExit, match="differs from PyTorch by 0.5, more than 0.0001 .*--allow_differences"):
        main(["--model_name_or_path", str(checkpoint), "--output_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_int8_may_cost_three_tenths_of_a_point():
    values = {"file": "m", "utterances": 1, "max_difference": 9.0, "same_text": 0.5, "same_short_text": 0.5}
    values |= {
        "size_mb": 1.0,
        "provider": "",
        "real_time_factor": 1.0,
        "source_real_time_factor": 1.0,
        "cer_before": 0.05,
    }
    assert Comparison(**values, cer_after=0.0529).refusal(None) is None
    assert "costs 0.40 points of CER (5.00% -> 5.40%)" in Comparison(**values, cer_after=0.054).refusal(None)
    assert "differs" in Comparison(**values | {"max_difference": float("nan")}, cer_after=0.05).refusal(1e-4)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--target", "sherpa-onnx"], "relies on denoising, which sherpa-onnx does not do"),
        (["--with_frontend"], "relies on denoising, which a graph cannot carry"),
        (["--quantize", "int8-static"], "give --dataset_name"),
        (["--target", "tensorrt", "--quantize", "int8"], "chooses its precision itself"),
        (["--target", "tensorrt", "--with_frontend"], "goes with --target onnx"),
    ],
)
def test_what_a_target_cannot_carry_is_refused_with_the_reason(checkpoint, tmp_path, arguments, message):
    shutil.copytree(checkpoint, tmp_path / "denoising")
    path = tmp_path / "denoising" / "processor_config.json"
    config = json.loads(path.read_text())
    config["feature_extractor"]["denoise"] = True
    path.write_text(json.dumps(config))
    with pytest.raises(SystemExit, match=message):
        main(["--model_name_or_path", str(path.parent), "--output_dir", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_difference_that_is_no_number_is_refused():
    values = {
        "file": "m",
        "utterances": 2,
        "same_text": 1.0,
        "same_short_text": 1.0,
        "size_mb": 1.0,
        "provider": "",
        "cer_before": 0.0,
    }
    values |= {"real_time_factor": 1.0, "source_real_time_factor": 1.0, "cer_after": 0.0}
    differences = [np.float32(0.1), np.float32("nan")]
    assert Comparison(**values, max_difference=float(np.max(differences))).refusal(1.0)


def test_a_graph_that_is_wrong_below_half_a_second_alone_is_refused(checkpoint, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(SherpaToLogProbs, "forward", other_silence)
    options = ["--target", "sherpa-onnx", "--dataset_name", str(corpus), "--max_utterances", "2"]
    with pytest.raises(SystemExit, match="model.onnx differs from PyTorch"):
        main(["--model_name_or_path", str(checkpoint), "--output_dir", str(tmp_path), *options])


def other_silence(graph: SherpaToLogProbs, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The graph, but that short recordings are followed by another silence than in PyTorch."""
    own, graph.extractor = graph.extractor, ConformerFeatureExtractor(energy_floor=2.0**-23)
    try:
        return FORWARD(graph, x, x_lens)
    finally:
        graph.extractor = own


def test_what_was_admitted_stays_when_int8_is_refused(checkpoint, corpus, tmp_path, monkeypatch):
    original = export_module.compare

    def worse(session, path, *args):
        found = original(session, path, *args)
        return dataclasses.replace(found, cer_after=found.cer_before + 0.004) if "int8" in path.name else found

    monkeypatch.setattr(export_module, "compare", worse)
    options = ["--target", "sherpa-onnx", "--dataset_name", str(corpus), "--max_utterances", "2"]
    with pytest.raises(SystemExit, match=r"model\.int8\.onnx costs 0\.40 points of CER"):
        main(["--model_name_or_path", str(checkpoint), "--output_dir", str(tmp_path), *options])
    assert (tmp_path / "model.onnx").is_file() and (tmp_path / "tokens.txt").is_file()
    assert not (tmp_path / "model.int8.onnx").exists()
    assert len(json.loads((tmp_path / "export_report.json").read_text())["graphs"]) == 1


def test_tensorrt_writes_what_it_can_and_says_what_is_missing(checkpoint, corpus, tmp_path, capsys):
    options = ["--target", "tensorrt", "--dataset_name", str(corpus), "--max_utterances", "2"]
    main(["--model_name_or_path", str(checkpoint), "--output_dir", str(tmp_path), *options])
    assert (tmp_path / "model.onnx").is_file()
    assert json.loads((tmp_path / "tensorrt_profile.json").read_text())["opt"]["input_features"] == [4, 1000, 80]
    assert "no engine was built: tensorrt needs an NVIDIA GPU" in capsys.readouterr().out


def test_optimum_cli_is_the_same_command(checkpoint, corpus, tmp_path, repository):
    code = "import sys; from optimum.commands.optimum_cli import main; sys.argv[0] = 'optimum-cli'; main()"
    command = [sys.executable, "-c", code, "export", "hf-asr", "--model_name_or_path", str(checkpoint)]
    command += ["--output_dir", str(tmp_path / "out"), "--dataset_name", str(corpus), "--max_utterances", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx").is_file()
