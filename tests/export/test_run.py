"""The export command: what it writes and refuses, and the exported graph used as a checkpoint."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, pipeline

from hf_asr import ConformerFeatureExtractor
from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import main
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.export import build
from hf_asr.export import run as export_module
from hf_asr.export.check import greedy_transcriber
from hf_asr.export.graphs import FeaturesToLogProbs, SherpaToLogProbs
from hf_asr.runtime.ort_model import OrtConformerForCTC
from hf_asr.runtime.providers import open_session
from hf_asr.training.arguments import DataArguments
from hf_asr.training.data_used import write_data_arguments

FORWARD = SherpaToLogProbs.forward
IS_WITHOUT_OPENVINO = importlib.util.find_spec("openvino") is None


def export(checkpoint: Path, output_dir: Path, *options: object) -> dict:
    """Run the command and return its report."""
    main(["export", "--model_name_or_path", str(checkpoint), "--output_dir", str(output_dir), *map(str, options)])
    return json.loads((output_dir / "export_report.json").read_text())


def refused_export(checkpoint: Path, output_dir: Path, *options: object) -> tuple[str, dict]:
    """Run a command that ends with a status; return its message and its report."""
    with pytest.raises(SystemExit) as ended:
        export(checkpoint, output_dir, *options)
    assert isinstance(ended.value.code, str) and ended.value.code  # Python prints it and ends with 1
    return ended.value.code, json.loads((output_dir / "export_report.json").read_text())


@pytest.fixture
def exported(tone_checkpoint, tones, tmp_path, quick_export) -> Path:
    export(tone_checkpoint, tmp_path / "exported", "--quantize", "int8", "--dataset_name", tones)
    return tmp_path / "exported"


@pytest.fixture(scope="module")
def waveforms(tones) -> list[np.ndarray]:
    rows = Source(str(tones)).load("validation").select(range(4))
    return [read_row(row, sampling_rate=16000) for row in rows]


def test_the_report_has_the_measures_and_the_digest_of_the_weights(exported):
    report = json.loads((exported / "export_report.json").read_text())
    graphs = report["graphs"]
    assert [graph["file"] for graph in graphs] == ["model.onnx", "model.int8.onnx"] and report["refused"] == []
    assert graphs[0]["max_difference"] < 1e-4 and graphs[0]["same_text"] == graphs[0]["same_batched_text"] == 1.0
    assert graphs[1]["max_difference"] > 1e-4 and 0 < graphs[1]["divergence"] < 0.003
    assert graphs[0]["cer_before"] == graphs[0]["cer_after"] < 0.02
    assert graphs[1]["size_mb"] == pytest.approx((exported / "model.int8.onnx").stat().st_size / 1e6)
    assert all(graph["real_time_factor"] > 0 and graph["utterances"] == 40 for graph in graphs)
    assert {graph["tried_on"] for graph in graphs} == {"40 utterances of data, 'validation'"}
    assert len({graph["model_sha256"] for graph in graphs}) == 1 and len(graphs[0]["model_sha256"]) == 64
    assert not [path for path in exported.iterdir() if path.is_dir() or "partial" in path.name]


def test_an_export_folder_is_loaded_like_a_checkpoint(exported, tone_checkpoint, waveforms, tmp_path):
    ours = load(str(tone_checkpoint)).transcribe(waveforms)
    graph = load(str(exported)).transcribe(waveforms)
    assert [item.text for item in graph] == [item.text for item in ours] and all(item.text for item in ours)
    assert isinstance(load_checkpoint(str(exported / "model.int8.onnx"))[0], OrtConformerForCTC)
    OrtConformerForCTC.from_pretrained(exported, file_name="model.int8.onnx").save_pretrained(tmp_path / "again")
    assert OrtConformerForCTC.from_pretrained(tmp_path / "again", file_name="model.int8.onnx").config.vocab_size


def test_a_graph_runs_in_transformers_pipeline(exported, tone_checkpoint, waveforms):
    model = OrtConformerForCTC.from_pretrained(exported)
    _, processor = load_checkpoint(str(exported))
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    graph = pipeline("automatic-speech-recognition", model=model, **parts)
    source = pipeline("automatic-speech-recognition", model=str(tone_checkpoint))
    for waveform in (waveforms[0], np.concatenate(waveforms)):
        options = {"chunk_length_s": 8, "return_timestamps": "word"}
        assert graph(waveform.copy(), **options) == source(waveform.copy(), **options)


def test_evaluate_and_transcribe_accept_an_export_folder(exported, tone_checkpoint, tones, capsys):
    scores = []
    for model in (tone_checkpoint, exported):
        main(["evaluate", "--model_name_or_path", str(model), "--dataset_name", str(tones)])
        scores.append(json.loads(capsys.readouterr().out.splitlines()[-1])["cer"])
    assert scores[0] == scores[1] < 0.02
    recording = str(tones / "validation" / "0.wav")
    main(["transcribe", "--model_name_or_path", str(exported), recording, "--output_format", "json"])
    assert json.loads(capsys.readouterr().out)["file"] == recording


@pytest.mark.slow
def test_by_default_a_graph_is_checked_on_the_validation_data_of_the_training(
    tone_checkpoint, tones, tmp_path, quick_export
):
    """On speech that the model was not trained for, such as espeak-ng's, correct graphs would be refused."""
    run_folder = shutil.copytree(tone_checkpoint, tmp_path / "run")
    recorded = {"dataset_name": [{"name": str(tones)}], "speaker_column_name": "speaker", "exclude_speakers": None}
    recorded |= {"held_out_share": 0.05, "streaming": False}
    (run_folder / "data_arguments.json").write_text(json.dumps({"arguments": recorded, "seed": 42}))
    report = export(run_folder, tmp_path / "out", "--target", "sherpa-onnx")
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx", "model.int8.onnx"]
    assert report["graphs"][0]["tried_on"] == "40 utterances of the validation data of its training (data)"
    assert (tmp_path / "out" / "tokens.txt").read_text().startswith("<blk> 0\n")


def test_the_data_arguments_of_a_run_are_read_back(tone_checkpoint, tones, tmp_path, quick_export):
    run_folder = shutil.copytree(tone_checkpoint, tmp_path / "run")
    write_data_arguments(run_folder, DataArguments(dataset_name=str(tones)), seed=42)
    assert export(run_folder, tmp_path / "out", "--max_utterances", "3")["graphs"][0]["tried_on"].startswith("3 utter")


@pytest.mark.slow
def test_fp16(tone_checkpoint, tones, tmp_path, quick_export):
    report = export(tone_checkpoint, tmp_path, "--quantize", "fp16", "--dataset_name", tones)
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx", "model.fp16.onnx"]
    assert 1e-4 < report["graphs"][1]["max_difference"] < 0.5 and report["graphs"][1]["cer_after"] < 0.02
    weights = onnx.load(tmp_path / "model.fp16.onnx").graph.initializer
    is_half = [item.data_type == onnx.TensorProto.FLOAT16 for item in weights if len(item.dims) == 2]
    assert is_half and all(is_half)


def test_static_int8(tone_checkpoint, tones, tmp_path, quick_export):
    options = ["--quantize", "int8-static", "--dataset_name", tones, "--allow_differences"]
    report = export(tone_checkpoint, tmp_path, *options)
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx", "model.int8.onnx"]
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.int8.onnx").graph.node}
    assert "QuantizeLinear" in kinds and "DynamicQuantizeLinear" not in kinds  # ranges that were measured beforehand
    assert report["graphs"][1]["cer_after"] < 0.05 and report["graphs"][1]["same_short_text"] > 0.8


@pytest.mark.slow
def test_with_frontend(tone_checkpoint, tones, waveforms, tmp_path, quick_export):
    # In the pauses, near silence, two Fourier transforms differ by more than the check allows for speech.
    options = ["--with_frontend", "--quantize", "int8", "--dataset_name", tones, "--allow_differences"]
    report = export(tone_checkpoint, tmp_path, *options)
    names = ["model_with_frontend.onnx", "model_with_frontend.int8.onnx"]
    assert [graph["file"] for graph in report["graphs"]] == names and report["graphs"][0]["max_difference"] < 0.02
    assert report["graphs"][0]["same_text"] == report["graphs"][0]["same_batched_text"] == 1.0
    session = open_session(tmp_path / names[0], provider="cpu")
    log_probs, lengths = session.run(None, {"waveforms": waveforms[0][None], "lengths": np.array([len(waveforms[0])])})
    model, processor = load_checkpoint(str(tone_checkpoint))
    (expected,) = Recognizer(model, processor).transcribe(waveforms[:1])
    assert greedy_transcriber(processor.tokenizer)(log_probs[0, : lengths[0]]) == expected.text != ""


@pytest.mark.slow
@pytest.mark.skipif(IS_WITHOUT_OPENVINO, reason="OpenVINO is not installed: pip install 'hf_asr[openvino]'")
def test_openvino(tone_checkpoint, tones, tmp_path, quick_export):
    options = ["--target", "openvino", "--dataset_name", tones, "--max_utterances", "8"]
    report = export(tone_checkpoint, tmp_path, *options)
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx", "model.xml"]
    assert report["graphs"][1]["provider"] == "OpenVINO CPU" and report["graphs"][1]["max_difference"] < 1e-4
    assert (tmp_path / "model.bin").stat().st_size > 1000


@pytest.mark.slow
def test_a_refused_int8_graph_is_left_out_and_the_others_are_kept(silent_checkpoint, tones, tmp_path, quick_export):
    """Two models without transcripts have the same CER, which proves nothing."""
    options = ["--target", "sherpa-onnx", "--dataset_name", tones, "--max_utterances", "4"]
    message, report = refused_export(silent_checkpoint, tmp_path, *options)
    assert message.startswith("refused: model.int8.onnx cannot be judged: PyTorch writes 0 characters")
    assert "on 4 utterances of data, 'validation'" in message and len(message.splitlines()) == 1
    assert (tmp_path / "model.onnx").is_file() and (tmp_path / "tokens.txt").is_file()
    assert not (tmp_path / "model.int8.onnx").exists()
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx"]
    assert [graph["file"] for graph in report["refused"]] == ["model.int8.onnx"]
    assert "writes 0 characters" in report["refused"][0]["reason"] and report["refused"][0]["characters"] == 0
    kept = export(silent_checkpoint, tmp_path, *options, "--allow_differences")["graphs"]
    assert [graph["file"] for graph in kept] == ["model.onnx", "model.int8.onnx"] and "0 characters" in kept[1][
        "reason"
    ]


def test_a_graph_that_cannot_be_built_does_not_affect_the_others(
    tone_checkpoint, tones, tmp_path, monkeypatch, quick_export
):
    def fails(source, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError(f"[ShapeInferenceError]\n {path} of nothing")

    monkeypatch.setattr(build, "quantize_int8", fails)
    options = ["--quantize", "int8", "--dataset_name", tones, "--max_utterances", "2"]
    message, report = refused_export(tone_checkpoint, tmp_path, *options)
    assert message == "refused: model.int8.onnx cannot be made or run: [ShapeInferenceError] model.int8.onnx of nothing"
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"model.onnx"}
    assert str(tmp_path) not in json.dumps(report)  # the report is published


def test_a_graph_that_ignores_the_mask_is_refused(tone_checkpoint, tones, tmp_path, monkeypatch):
    forward = FeaturesToLogProbs.forward

    def without_mask(graph: FeaturesToLogProbs, input_features: torch.Tensor, attention_mask: torch.Tensor):
        return forward(graph, input_features, torch.ones_like(attention_mask) + 0 * attention_mask)

    monkeypatch.setattr(FeaturesToLogProbs, "forward", without_mask)
    options = ["--dataset_name", tones, "--max_utterances", "4", "--quantize", "int8"]
    message, report = refused_export(tone_checkpoint, tmp_path / "out", *options)
    assert message.startswith("refused: model.onnx differs from PyTorch by") and "--allow_differences" in message
    assert report["graphs"] == [] and [graph["file"] for graph in report["refused"]] == ["model.onnx"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export_report.json"]


def test_a_graph_that_is_wrong_only_below_half_a_second_is_refused(tone_checkpoint, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(SherpaToLogProbs, "forward", other_silence)
    options = ["--target", "sherpa-onnx", "--dataset_name", tones, "--max_utterances", "2"]
    message, _ = refused_export(tone_checkpoint, tmp_path, *options)
    assert "model.onnx differs from PyTorch" in message


def other_silence(graph: SherpaToLogProbs, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the graph with another silence after short recordings than PyTorch has."""
    own, graph.extractor = graph.extractor, ConformerFeatureExtractor(energy_floor=2.0**-23)
    try:
        return FORWARD(graph, x, x_lens)
    finally:
        graph.extractor = own


@pytest.mark.slow
def test_an_export_of_other_weights_replaces_the_earlier_one(
    tone_checkpoint, silent_checkpoint, tones, tmp_path, quick_export
):
    data = ["--dataset_name", tones, "--max_utterances", "2", "--quantize", "int8"]
    export(tone_checkpoint, tmp_path, *data, "--allow_differences")
    (tmp_path / "notes.txt").write_text("mine")
    _, report = refused_export(silent_checkpoint, tmp_path, *data)  # the int8 graph is refused
    assert not (tmp_path / "model.int8.onnx").exists() and (tmp_path / "notes.txt").read_text() == "mine"
    assert [graph["file"] for graph in report["graphs"]] == ["model.onnx"]


def test_a_killed_export_leaves_the_earlier_one(
    tone_checkpoint, silent_checkpoint, tones, tmp_path, monkeypatch, quick_export
):
    data = ["--dataset_name", tones, "--max_utterances", "2", "--quantize", "int8", "--allow_differences"]
    export(tone_checkpoint, tmp_path, *data)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    compare_with_source = build.compare_with_source

    def killed(session, path, **options):
        if "int8" in path.name:
            raise KeyboardInterrupt
        return compare_with_source(session, path, **options)

    monkeypatch.setattr(build, "compare_with_source", killed)
    with pytest.raises(SystemExit, match="130"):
        export(silent_checkpoint, tmp_path, *data)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tensorrt_without_a_gpu_writes_graph_and_profile_and_names_what_is_missing(
    tone_checkpoint, tones, tmp_path, capsys, quick_export
):
    options = ["--target", "tensorrt", "--dataset_name", tones, "--max_utterances", "2"]
    export(tone_checkpoint, tmp_path, *options)
    assert (tmp_path / "model.onnx").is_file()
    assert json.loads((tmp_path / "tensorrt_profile.json").read_text())["opt"]["input_features"] == [4, 1000, 80]
    assert "no engine was built: tensorrt needs an NVIDIA GPU" in capsys.readouterr().out


class WrongEngine:
    """Replaces TensorRT: the graph on the CPU, with its frames in reverse order."""

    def __init__(self, path: Path):
        self.session = open_session(path, provider="cpu")
        self.get_inputs = self.session.get_inputs
        (path.parent / "tensorrt_engine").mkdir(exist_ok=True)
        (path.parent / "tensorrt_engine" / "graph.engine").write_bytes(b"engine")

    def get_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CPUExecutionProvider"]

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        if inputs["input_features"].size > 10**6:
            return []  # the largest shape of the profile, of zeros
        return [self.session.run(outputs, inputs)[0][:, ::-1].copy()]


def test_a_refused_engine_is_removed_with_its_profile(tone_checkpoint, tones, tmp_path, monkeypatch, quick_export):
    monkeypatch.setattr(
        build,
        "open_session",
        lambda path, *, provider: (
            WrongEngine(path) if provider == "tensorrt" else open_session(path, provider=provider)
        ),
    )
    options = ["--target", "tensorrt", "--dataset_name", tones, "--max_utterances", "2"]
    message, report = refused_export(tone_checkpoint, tmp_path, *options)
    assert message.startswith("refused: model.onnx differs from PyTorch by") and "by Tensorrt" in message
    assert not (tmp_path / "tensorrt_profile.json").exists() and not (tmp_path / "tensorrt_engine").exists()
    assert [graph["provider"] for graph in report["graphs"]] == ["CPUExecutionProvider"]
    assert [graph["provider"] for graph in report["refused"]] == ["TensorrtExecutionProvider"]
    export(tone_checkpoint, tmp_path, *options, "--allow_differences")
    assert (tmp_path / "tensorrt_profile.json").is_file() and (tmp_path / "tensorrt_engine" / "graph.engine").is_file()


def with_features(checkpoint: Path, folder: Path, **settings: object) -> Path:
    shutil.copytree(checkpoint, folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config["feature_extractor"] |= settings
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--target", "sherpa-onnx", "--allow_differences"], "relies on denoising, which sherpa-onnx does not do"),
        (["--with_frontend"], "relies on denoising, which a graph cannot do"),
        (["--quantize", "int8-static"], "give --dataset_name"),
        (["--target", "tensorrt", "--quantize", "int8"], "chooses its precision itself"),
        (["--target", "tensorrt", "--with_frontend"], "goes with --target onnx"),
        (["--max_utterances", "0"], "max_utterances must be 1 or more, not 0"),
    ],
)
def test_options_and_features_that_a_target_does_not_support_are_refused(tone_checkpoint, tmp_path, arguments, message):
    checkpoint = with_features(tone_checkpoint, tmp_path / "denoising", denoise=True)
    with pytest.raises(SystemExit, match=message):
        export(checkpoint, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_other_features_than_sherpas_need_their_own_option(tone_checkpoint, tones, tmp_path, quick_export):
    checkpoint = with_features(tone_checkpoint, tmp_path / "other", energy_floor=2.0**-23)
    options = ["--target", "sherpa-onnx", "--dataset_name", tones, "--max_utterances", "2", "--allow_differences"]
    with pytest.raises(SystemExit, match="features that sherpa-onnx does not compute: energy_floor .*other_features"):
        export(checkpoint, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
    assert export(checkpoint, tmp_path / "out", *options, "--allow_other_features")["graphs"]


def wav2vec2(folder: Path) -> Path:
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    config = Wav2Vec2Config(
        vocab_size=6, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **sizes, **convolutions
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def damaged(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    return folder


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda checkpoint, folder: folder, "does not exist"),
        (lambda checkpoint, folder: checkpoint / "config.json", "is not a checkpoint"),
        (lambda checkpoint, folder: wav2vec2(folder), "not a checkpoint of hf_asr but Wav2Vec2ForCTC: .*optimum-onnx"),
        (damaged, "cannot be loaded"),
    ],
    ids=["nowhere", "a file", "another family", "damaged"],
)
def test_a_wrong_model_is_an_error_of_one_line(tone_checkpoint, tmp_path, make, message):
    with pytest.raises(SystemExit, match=message) as ended:
        export(make(tone_checkpoint, tmp_path / "model"), tmp_path / "out")
    assert ended.value.code.startswith("error: ") and len(ended.value.code.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_exported_graph_cannot_be_exported(exported, tmp_path):
    with pytest.raises(SystemExit, match="is an exported graph: give the checkpoint that it was made from"):
        export(exported, tmp_path / "out")


def test_an_output_dir_that_is_a_file_is_an_error_before_anything_is_loaded(tone_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "load_checkpoint", lambda *args, **options: pytest.fail("loaded before"))
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit, match="--output_dir .*out is a file, a folder is expected"):
        export(tone_checkpoint, tmp_path / "out")


def test_a_missing_package_is_an_error_before_anything_is_loaded(tone_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "load_checkpoint", lambda *args, **options: pytest.fail("loaded before"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SystemExit, match=r"error: OpenVINO is not installed: pip install 'hf_asr\[openvino\]'"):
        export(tone_checkpoint, tmp_path, "--target", "openvino")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_optimum_cli_names_a_missing_package(tmp_path, repository, package):
    code = f"import sys; sys.modules[{package!r}] = None; from optimum.commands.optimum_cli import main; "
    code += "sys.argv[0] = 'optimum-cli'; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "export",
        "hf-asr",
        "--model_name_or_path",
        "m",
        "--output_dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"error: {package} is not installed")
    assert "pip install 'hf_asr[export]'" in done.stderr and "Traceback" not in done.stderr


def test_optimum_cli_exports(tone_checkpoint, tones, tmp_path, repository):
    code = "import sys; from optimum.commands.optimum_cli import main; sys.argv[0] = 'optimum-cli'; main()"
    command = [sys.executable, "-c", code, "export", "hf-asr", "--model_name_or_path", str(tone_checkpoint)]
    command += ["--output_dir", str(tmp_path / "out"), "--dataset_name", str(tones), "--max_utterances", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx").is_file()
