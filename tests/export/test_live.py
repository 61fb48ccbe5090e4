"""Graphs for live audio: what the command writes and refuses, and what the comparison finds."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import main
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import load
from hf_asr.export.check import Limits, compare_with_source, runners
from hf_asr.export.live import joined
from hf_asr.runtime.providers import open_session

CHUNKS = ["--chunk_size", "8", "--num_left_chunks", "2"]
EXACT = Limits(max_difference=1e-4)


def export(checkpoint: Path, output_dir: Path, *options: object) -> dict:
    """Run the command and return its report."""
    main(["export", "--model_name_or_path", str(checkpoint), "--output_dir", str(output_dir), *map(str, options)])
    return json.loads((output_dir / "export_report.json").read_text())


@pytest.fixture(scope="module")
def waveforms(tones) -> list[np.ndarray]:
    rows = Source(str(tones)).load("validation").select(range(6))
    return [read_row(row, sampling_rate=16000) for row in rows]


@pytest.fixture(scope="module")
def exported(live_tone_checkpoint, tones, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "exported"
    options = ["--streaming", "true", *CHUNKS, "--quantize", "int8", "--dataset_name", tones]
    export(live_tone_checkpoint, folder, *options)
    return folder


@pytest.fixture
def sides(live_tone_checkpoint) -> dict:
    """Return PyTorch's side of a comparison."""
    model, processor = load_checkpoint(str(live_tone_checkpoint), device="cpu")
    model.config.chunk_size, model.config.num_left_chunks = 8, 2
    return {"model": model, "processor": processor}


def test_the_report_has_the_measures_of_streams_and_their_chunks(exported):
    report = json.loads((exported / "export_report.json").read_text())
    exact, int8 = report["graphs"]
    assert [graph["file"] for graph in (exact, int8)] == ["model-streaming.onnx", "model-streaming.int8.onnx"]
    assert exact["max_difference"] < 1e-4 < int8["max_difference"] and report["refused"] == []
    assert exact["same_text"] == exact["same_short_text"] == exact["same_batched_text"] == 1.0
    assert 0 < int8["divergence"] < 0.003 and exact["cer_before"] == exact["cer_after"] < 0.02
    assert all((graph["chunk_size"], graph["num_left_chunks"]) == (8, 2) for graph in (exact, int8))


def test_the_export_streams_like_the_checkpoint(exported, live_tone_checkpoint, waveforms, capsys):
    arguments = DecodingArguments(chunk_size=8, num_left_chunks=2)
    expected = [transcript.text for transcript in load(live_tone_checkpoint, arguments=arguments).transcribe(waveforms)]
    assert all(expected)
    for options in ({}, {"streaming": True}, {"chunk_size": 8, "num_left_chunks": 2, "streaming": True}):
        graph = load(exported, arguments=DecodingArguments(**options))
        assert [transcript.text for transcript in graph.transcribe(waveforms)] == expected
        assert graph.transcribe(np.concatenate(waveforms)).text  # longer than a window
    with pytest.raises(ValueError, match="chunk_size: only a checkpoint .* not a graph"):
        load(exported, arguments=DecodingArguments(chunk_size=16))


def test_the_graph_of_files_stays_beside_it_and_names_it(live_tone_checkpoint, tones, tmp_path, capsys, quick_export):
    data = ["--dataset_name", tones, "--max_utterances", "2"]
    export(live_tone_checkpoint, tmp_path, *data)
    report = export(live_tone_checkpoint, tmp_path, "--streaming", *CHUNKS, *data)
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx", "model-streaming.onnx"]
    recording = str(tones / "validation" / "0.wav")
    with pytest.raises(SystemExit, match="takes no cache, cannot stream: .*model-streaming.onnx"):
        main(["transcribe", "--model_name_or_path", str(tmp_path), recording, "--streaming", "true"])
    capsys.readouterr()
    model = str(tmp_path / "model-streaming.onnx")
    main(["transcribe", "--model_name_or_path", model, recording, "--streaming", "true"])
    assert capsys.readouterr().out.strip()
    assert json.loads((tmp_path / "config.json").read_text())["chunk_size"] == -1  # of the checkpoint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streaming", "true"], "needs a chunk_size above 0 and num_left_chunks of 0 or more, not -1 and 2"),
        (["--streaming", "--chunk_size", "8", "--num_left_chunks", "-1"], "num_left_chunks of 0 or more"),
        (["--streaming", "--chunk_size", "0"], "chunk_size must be 1 or more"),
        (CHUNKS, "--chunk_size and --num_left_chunks go with --streaming true"),
        (["--streaming=false", *CHUNKS], "go with --streaming true"),
        (["--streaming", "maybe"], "Truthy value expected"),
        (["--streaming", *CHUNKS, "--target", "openvino"], "goes with --target onnx and sherpa-onnx, .*not openvino"),
        (["--streaming", *CHUNKS, "--with_frontend"], "not a graph with --with_frontend"),
        (["--streaming", *CHUNKS, "--quantize", "int8-static"], "goes with --quantize int8 and fp16, not int8-static"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(live_tone_checkpoint, tones, tmp_path, options, message, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", object())
    with pytest.raises(SystemExit) as ended:
        export(live_tone_checkpoint, tmp_path / "out", "--dataset_name", tones, *options)
    assert re.search(message, f"{ended.value.code} {capsys.readouterr().err}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["onnx", "sherpa-onnx"])
def test_a_checkpoint_that_looks_at_later_frames_is_refused(tone_checkpoint, tmp_path, target):
    for chunks in ((), CHUNKS):
        with pytest.raises(SystemExit, match="its layers look at later frames"):
            export(tone_checkpoint, tmp_path / "out", "--target", target, "--streaming", *chunks)


class Faulty:
    """A session with a fault in its inputs."""

    def __init__(self, session: onnxruntime.InferenceSession, fault):
        self.session, self.fault = session, fault
        self.get_inputs, self.get_modelmeta = session.get_inputs, session.get_modelmeta
        self.get_providers = session.get_providers

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(names, self.fault(dict(inputs)))


def without_offset(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return inputs | {"offset": inputs["offset"] * 0}


def offset_of_the_first(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return inputs | {"offset": np.full_like(inputs["offset"], inputs["offset"][0])}


def grows_wrong_late(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    factor = np.where(inputs["offset"] > 700, 0.9, 1).astype(np.float32)
    return inputs | {"convolution_cache": inputs["convolution_cache"] * factor[:, None, None]}


@pytest.mark.parametrize("fault", [None, without_offset, offset_of_the_first, grows_wrong_late])
def test_a_fault_in_the_cache_is_found(exported, sides, waveforms, fault):
    path = exported / "model-streaming.onnx"
    session = open_session(path, provider="cpu")
    found = compare_with_source(
        Faulty(session, fault) if fault else session,
        path,
        waveforms=waveforms,
        references=[""] * len(waveforms),
        **sides,
    )
    assert (found.refusal(EXACT) is None) == (fault is None)
    assert fault is not grows_wrong_late or found.same_text == 1.0  # only the stream of a hundred chunks shows it


def test_streams_of_a_batch_are_at_different_places(exported, sides, waveforms):
    offsets = []

    def record(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        offsets.append(tuple(inputs["offset"].tolist()))
        return inputs

    path = exported / "model-streaming.onnx"
    session = Faulty(open_session(path, provider="cpu"), record)
    _, run, is_live = runners(session, path, **sides)
    log_probs = run(waveforms)
    assert is_live and len(log_probs) == len(waveforms)
    assert max(len(set(places)) for places in offsets) > 1


def test_joined_waveforms_have_the_length():
    found = joined([np.arange(3.0), np.arange(2.0)], samples=12)
    assert found.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 0, 1]
