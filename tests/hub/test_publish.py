"""A published model loads without hf_asr, and its card has the figures of metrics.json."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import ModelCard, SpaceCard
from torch.utils.tensorboard import SummaryWriter

from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import main
from hf_asr.provenance import artifacts_sha256, weights_sha256

NAME = "someone/tiny-zh-en"
RECORDING = b"not public"


@pytest.fixture(scope="session")
def measured(checkpoint, corpus, tmp_path_factory) -> Path:
    """Return a checkpoint with an evaluation, and with other files of a run's folder."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(checkpoint, folder)
    options = ["--dataset_name", str(corpus), "--output_dir", str(folder)]
    main(["evaluate", "--model_name_or_path", str(folder), *options])
    for name in (
        "curves.png",
        "runs/Nov25_host/events.out.tfevents.1.host.7.0",
        "runs/Nov25_host/notes.txt",
        "training_args.bin",
        "optimizer.pt",
        "data_report.jsonl",
        "recording.wav",
        "my_own_code.py",
        "checkpoint-2/model.safetensors",
        "checkpoint-2/config.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(RECORDING)
    return folder


@pytest.fixture
def run_folder(measured, tmp_path) -> Path:
    """Return a copy that a test may change."""
    return shutil.copytree(measured, tmp_path / "run")


def publish(folder, *options) -> None:
    main(["publish", "--model_name_or_path", str(folder), "--hub_model_id", NAME, *map(str, options)])


def refusal(folder, *options) -> str:
    with pytest.raises(SystemExit) as stopped:
        publish(folder, *options)
    message = stopped.value.code
    assert message.startswith("error: ") and "\n" not in message
    return message


def noted_graph() -> onnx.ModelProto:
    """Return a graph with notes of PyTorch's exporter and with properties of the model."""
    node = onnx.helper.make_node("Identity", ["x"], ["y"], doc_string="/home/alice/notes.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/alice/hf_asr/graphs.py", line 30')
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "main", values[:1], values[1:]))
    model.metadata_props.add(key="model_type", value="wenet_ctc")
    return model


def training_record(folder: Path, **changes) -> dict:
    """Return training.json as a training run writes it for the weights in the folder."""
    return {
        "command": "python scripts/train.py --config configs/quickstart.yaml",
        "base_model": None,
        "datasets": [{"name": "spoken", "config": None, "split": "train"}],
        "synthetic_corpus": None,
        "chosen_on": {"dataset": "spoken", "split": "validation"},
        "replayed": None,
        "utterances": 40,
        "hours": 0.03,
        "steps": 2,
        "epochs": 1.0,
        "seconds": 1.5,
        "resumed": False,
        "hardware": "a CPU w/ two cores",
        "processes": 1,
        "precision": "fp32",
        "recipe": {
            "learning_rate": 0.001,
            "lr_scheduler_type": "linear",
            "max_batch_seconds": 20,
            "gradient_accumulation_steps": 1,
            "augmentations": [],
        },
        "versions": {"python": "3.11"},
        "model_sha256": weights_sha256(folder),
        "artifacts_sha256": artifacts_sha256(folder),
    } | changes


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def export_report(folder: Path, onnx_dir: Path) -> dict:
    """Write a graph and export_report.json as scripts/export.py does, and return the graph's entry."""
    graph = {
        "file": "model.onnx",
        "target": "onnx",
        "utterances": 8,
        "max_difference": 2.5e-6,
        "same_text": 1.0,
        "cer_before": 0.5,
        "cer_after": 0.501,
        "size_mb": 12.5,
        "real_time_factor": 0.0042,
        "source_real_time_factor": 0.0066,
        "tried_on": "8 utterances",
        "model_sha256": weights_sha256(folder),
    }
    onnx_dir.mkdir()
    (onnx_dir / "model.onnx").write_bytes(noted_graph().SerializeToString())
    (onnx_dir / "left_over.onnx").write_bytes(b"\0of another day")
    (onnx_dir / "export_report.json").write_text(json.dumps({"graphs": [graph]}))
    return graph


def in_another_process(code: str, hub, cwd: Path) -> str:
    """Run `code` in a process without hf_asr and with an empty cache of the Hub; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= hub.environment | {"HF_HOME": str(cwd / "home")}
    code = f"import sys\nsys.modules['hf_asr'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_published_model_loads_without_hf_asr_and_gives_the_same_logits(hub, run_folder, tmp_path):
    publish(run_folder)
    waveform = np.sin(np.arange(16000, dtype=np.float32) / 20) / 3
    np.save(tmp_path / "waveform.npy", waveform)
    model, processor = load_checkpoint(str(run_folder), device="cpu")
    with torch.inference_mode():
        logits = model(**processor(waveform, sampling_rate=16000)).logits
    code = f"""
try:
    import hf_asr
except ImportError:
    print("not installed")
import numpy as np, torch
from transformers import AutoModelForCTC, AutoProcessor, pipeline
waveform = np.load("waveform.npy")
model = AutoModelForCTC.from_pretrained({NAME!r}, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained({NAME!r}, trust_remote_code=True)
with torch.inference_mode():
    np.save("logits.npy", model(**processor(waveform, sampling_rate=16000)).logits.numpy())
recognizer = pipeline("automatic-speech-recognition", model={NAME!r}, trust_remote_code=True, device="cpu")
print(sorted(recognizer(waveform, chunk_length_s=30, return_timestamps="word")))
"""
    printed = in_another_process(code, hub, tmp_path)
    assert printed.splitlines() == ["not installed", "['chunks', 'text']"]
    assert np.array_equal(np.load(tmp_path / "logits.npy"), logits.numpy())


def test_the_card_has_the_figures_of_metrics_json(hub, run_folder):
    publish(run_folder)
    files = hub.repositories[f"models/{NAME}"].files
    metrics = json.loads(files["metrics.json"])
    assert metrics == json.loads((run_folder / "metrics.json").read_text())
    card = ModelCard(files["README.md"].decode())
    found = {result.metric_type: result for result in card.data.eval_results}
    assert set(found) == {"cer", "wer"}
    for name, result in found.items():
        assert result.metric_value == metrics[name]
        assert result.metric_args["interval_95"] == metrics[f"{name}_interval"]
        assert (result.dataset_name, result.dataset_split) == ("spoken", "validation")
        assert f"{100 * metrics[name]:.2f} %" in card.text
    assert card.data.language == ["zh", "en"]  # from the text normalisation
    assert (card.data.pipeline_tag, card.data.library_name) == ("automatic-speech-recognition", "transformers")
    assert not {"widget", "license", "base_model", "datasets"} & set(card.data.to_dict())
    assert "No licence was stated" in card.text
    assert "were not recorded with these weights" in card.text  # no training.json
    assert "This repository has no exported graphs" in card.text


def test_only_files_of_the_model_are_uploaded_to_a_private_repository(hub, run_folder):
    publish(run_folder)
    repository = hub.repositories[f"models/{NAME}"]
    assert repository.is_private and len(repository.commits) == 1
    code = {path.name for path in run_folder.glob("*_conformer.py")}
    assert len(code) >= 9
    assert set(repository.files) == code | {
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "processor_config.json",
        "published_files.json",
        "report.html",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    # The report on this machine has recordings and transcripts; the published one has neither.
    assert b"data:audio" in (run_folder / "report.html").read_bytes()
    published = repository.files["report.html"]
    assert b"data:audio" not in published and b"<audio" not in published and b"worst utterances" not in published
    assert b"Error by duration" in published or b"Most common confusions" in published


def test_include_transcripts_publishes_the_full_report(hub, run_folder):
    publish(run_folder, "--include_transcripts")
    published = hub.repositories[f"models/{NAME}"].files["report.html"].decode()
    records = [json.loads(line) for line in (run_folder / "predictions.jsonl").read_text().splitlines()]
    assert "worst utterances" in published and any(record["utterance_id"] in published for record in records)
    assert "<audio" not in published and str(run_folder) not in published


def test_a_report_of_another_evaluation_is_not_published(hub, run_folder, capsys):
    lines = (run_folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "predictions.jsonl").write_text("".join(lines[:-1]))
    publish(run_folder)
    assert "predictions.jsonl is of another evaluation" in capsys.readouterr().err
    (run_folder / "predictions.jsonl").unlink()
    publish(run_folder)
    assert "has no predictions to make it from" in capsys.readouterr().err
    assert "report.html" not in hub.repositories[f"models/{NAME}"].files


def test_curves_and_logs_of_other_weights_are_not_published(hub, run_folder, capsys):
    for path in run_folder.glob("runs/*/*"):
        path.unlink()
    with SummaryWriter(run_folder / "runs" / "Nov25_host") as writer:
        writer.add_scalar("eval/cer", 0.5, 7)
        writer.add_text("args", f"output_dir: {run_folder}")
    write_json(run_folder / "training.json", training_record(run_folder))
    publish(run_folder)
    repository = hub.repositories[f"models/{NAME}"]
    (log,) = [content for name, content in repository.files.items() if name.startswith("runs/0/events.out.tfevents.")]
    assert b"eval/cer" in log and str(run_folder).encode() not in log and b"args" not in log
    assert repository.files["curves.png"] == (run_folder / "curves.png").read_bytes()
    (run_folder / "curves.png").write_bytes(b"of another run")
    next(run_folder.glob("runs/*/events*")).write_bytes(b"of another run")
    publish(run_folder)
    assert capsys.readouterr().err.count("training.json does not list it as a file of these weights") == 2
    assert not [name for name in repository.files if name == "curves.png" or name.startswith("runs/")]
    assert "training.json" in repository.files


def test_publishing_again_deletes_files_of_the_first_publication_only(hub, run_folder, tmp_path, corpus):
    export_report(run_folder, tmp_path / "onnx")
    recording = next((corpus / "validation").glob("*.flac"))
    publish(run_folder, "--onnx_dir", tmp_path / "onnx", "--examples", recording)
    repository = hub.repositories[f"models/{NAME}"]
    assert f"examples/{recording.name}" in repository.files and "onnx/model.onnx" in repository.files
    theirs = ("LICENSE", "onnx/other.onnx", "runs/mine/log", "examples/mine.wav", "notes.html", "my_own_conformer.py")
    repository.files |= dict.fromkeys(theirs, b"the owner's own")
    publish(run_folder)
    assert len(repository.commits) == 2
    kept = [name for name in repository.files if name.startswith(("onnx/", "examples/", "runs/")) or name in theirs]
    assert sorted(kept) == sorted(theirs)
    assert {repository.files[name] for name in theirs} == {b"the owner's own"}


EARLIER_FILES = {
    "training.json": b"{}",
    "curves.png": b"old",
    "runs/0/events.out.tfevents.17": b"old",
    "onnx/model.onnx": b"old",
    "onnx/export_report.json": b'{"graphs": [{"file": "model.onnx"}]}',
}
OWNERS_FILES = ("onnx/mine.onnx", "runs/mine/events.out.tfevents.1", "examples/a.wav", "their_conformer.py")


@pytest.mark.parametrize("tag", ["hf_asr", "other"])
def test_without_a_list_of_files_only_certain_files_are_deleted(hub, run_folder, tag):
    publish(run_folder)
    repository = hub.repositories[f"models/{NAME}"]
    repository.files.pop("published_files.json", None)
    repository.files["README.md"] = f"---\ntags: [{tag}]\n---\n# A model".encode()
    repository.files |= EARLIER_FILES | dict.fromkeys(OWNERS_FILES, b"the owner's own")
    publish(run_folder)
    left = set(EARLIER_FILES) & set(repository.files)
    assert left == (set() if tag == "hf_asr" else set(EARLIER_FILES))
    assert set(OWNERS_FILES) <= set(repository.files)


def test_a_damaged_list_deletes_nothing(hub, run_folder):
    publish(run_folder)
    repository = hub.repositories[f"models/{NAME}"]
    repository.files["published_files.json"] = b"[1"
    repository.files["onnx/model.onnx"] = b"of unknown origin"
    publish(run_folder)
    assert "onnx/model.onnx" in repository.files


SELECTIONS = {
    "some speakers": ({"speakers": 1, "of": 6}, "1 of 6 speakers"),
    "held out": (
        {"held_out_share": 0.05, "by": "speaker", "seed": 42},
        "5 % held out of training (by speaker, seed 42)",
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_card_states_which_rows_were_scored(hub, run_folder, name):
    selection, words = SELECTIONS[name]
    metrics = json.loads((run_folder / "metrics.json").read_text()) | {"split": "train", "selection": selection}
    write_json(run_folder / "metrics.json", metrics)
    if name == "some speakers":
        message = refusal(run_folder)
        assert "is the score of 1 of 6 speakers, not of the whole split" in message
        assert "--allow_partial_score" in message and not hub.repositories
        publish(run_folder, "--allow_partial_score")
    else:
        publish(run_folder)
    files = hub.repositories[f"models/{NAME}"].files
    card = ModelCard(files["README.md"].decode())
    assert f"| spoken | train, {words} | {metrics['utterances']} |" in card.text
    for result in card.data.eval_results:
        assert (result.dataset_split, result.dataset_args) == ("train", {"selection": words})
        assert words in result.metric_name
    assert json.loads(files["metrics.json"])["selection"] == selection
    assert words in files["report.html"].decode()


def test_the_card_states_a_score_on_training_data(hub, run_folder):
    write_json(run_folder / "training.json", training_record(run_folder))
    publish(run_folder)
    card = hub.repositories[f"models/{NAME}"].files["README.md"].decode()
    assert "The checkpoint was chosen by its CER on `validation` of spoken" in card
    assert "The model was trained on" not in card
    metrics = json.loads((run_folder / "metrics.json").read_text())
    write_json(run_folder / "metrics.json", metrics | {"split": "train"})
    publish(run_folder)
    assert (
        "The model was trained on `train` of spoken" in hub.repositories[f"models/{NAME}"].files["README.md"].decode()
    )


def test_the_card_states_how_much_synthetic_speech_was_used(hub, run_folder):
    figures = {"voice": "en-us", "hours": 3.512, "utterances": 6600, "sentences": 1100, "speakers": 61}
    record = training_record(run_folder, synthetic_speech=figures | {"share_of_batches": 0.7059})
    write_json(run_folder / "training.json", record)
    publish(run_folder)
    files = hub.repositories[f"models/{NAME}"].files
    card = files["README.md"].decode()
    assert (
        "| synthetic speech | 3.51 hours of espeak-ng (en-us): 1100 sentences in 61 voices; "
        "70.59 % of the training batches |\n| amount | 0.03 hours, 40 utterances |" in card
    )
    assert "* 70.59 % of its training batches were synthetic speech of espeak-ng, not human speech." in card
    assert json.loads(files["training.json"])["synthetic_speech"]["share_of_batches"] == 0.7059
    write_json(run_folder / "training.json", training_record(run_folder))
    publish(run_folder)
    assert "synthetic speech" not in hub.repositories[f"models/{NAME}"].files["README.md"].decode()


def test_graphs_are_published_with_their_measures(hub, run_folder, tmp_path):
    export_report(run_folder, tmp_path / "onnx")
    publish(run_folder, "--onnx_dir", tmp_path / "onnx", "--license", "apache-2.0", "--language", "yue")
    files = hub.repositories[f"models/{NAME}"].files
    assert {name for name in files if name.startswith("onnx/")} == {"onnx/model.onnx", "onnx/export_report.json"}
    card = ModelCard(files["README.md"].decode())
    row = next(line for line in card.text.splitlines() if line.startswith("| [model.onnx]"))
    for figure in ("12.5 MB", "50.00 %", "50.10 %", "0.0042 (0.0066)", "2.5e-06"):
        assert figure in row
    assert (card.data.license, card.data.language) == ("apache-2.0", "yue")
    graph = onnx.load_from_string(files["onnx/model.onnx"])
    assert b"alice" not in files["onnx/model.onnx"]
    assert list(graph.graph.node) == [onnx.helper.make_node("Identity", ["x"], ["y"])]
    assert [(entry.key, entry.value) for entry in graph.metadata_props] == [("model_type", "wenet_ctc")]


def test_the_card_marks_a_graph_that_failed_the_check(hub, run_folder, tmp_path):
    reason = "model.onnx costs 0.10 points of CER"
    graph = export_report(run_folder, tmp_path / "onnx") | {"reason": reason}
    (tmp_path / "onnx" / "export_report.json").write_text(json.dumps({"graphs": [graph]}))
    publish(run_folder, "--onnx_dir", tmp_path / "onnx")
    files = hub.repositories[f"models/{NAME}"].files
    card = files["README.md"].decode()
    assert f"refused by the check: {reason}" in card and "OrtConformerForCTC" not in card
    assert json.loads(files["onnx/export_report.json"])["graphs"][0]["reason"] == reason


def test_a_damaged_graph_is_an_error(hub, run_folder, tmp_path):
    export_report(run_folder, tmp_path / "onnx")
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"\0damaged")
    assert "model.onnx is not an ONNX graph" in refusal(run_folder, "--onnx_dir", tmp_path / "onnx")


def test_more_evaluations_are_more_rows_of_the_card(hub, run_folder, tmp_path):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy" / "metrics.json").write_text(json.dumps(metrics | {"dataset": "owner/noisy", "cer": 0.75}))
    publish(run_folder, "--evaluations", tmp_path / "noisy")
    card = ModelCard(hub.repositories[f"models/{NAME}"].files["README.md"].decode())
    results = [(result.dataset_name, result.metric_value) for result in card.data.eval_results]
    assert ("owner/noisy", 0.75) in results and ("spoken", metrics["cer"]) in results and len(results) == 4


def test_examples_are_uploaded_and_linked(hub, run_folder, corpus):
    recording = next((corpus / "validation").glob("*.flac"))
    publish(run_folder, "--examples", recording, "--public")
    repository = hub.repositories[f"models/{NAME}"]
    assert not repository.is_private
    assert repository.files[f"examples/{recording.name}"] == recording.read_bytes()
    widget = ModelCard(repository.files["README.md"].decode()).data.widget
    source = f"{hub.address}/{NAME}/resolve/main/examples/{recording.name}"
    assert widget == [{"example_title": recording.stem, "src": source}]


def test_examples_that_are_missing_or_have_equal_names_are_errors(hub, run_folder, tmp_path):
    (tmp_path / "a.wav").write_bytes(RECORDING)
    assert "nowhere.wav does not exist" in refusal(run_folder, "--examples", tmp_path / "nowhere.wav")
    message = refusal(run_folder, "--examples", tmp_path / "a.wav", run_folder / ".." / "a.wav")
    assert "two files have the same name" in message


def test_a_dry_run_writes_the_card_and_lists_the_files(run_folder, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    publish(run_folder, "--dry_run", "--create_space")
    printed = capsys.readouterr().out
    assert f"{NAME}  model.safetensors" in printed and f"{NAME}-demo  app.py" in printed
    assert "training_args.bin" not in printed and "nothing was uploaded (private)" in printed
    assert ModelCard.load(run_folder / "README.md").data.model_name == "tiny-zh-en"


@pytest.mark.slow
def test_the_space_starts_from_its_own_files(hub, run_folder, tmp_path, capsys):
    publish(run_folder, "--create_space")
    space = hub.repositories[f"spaces/{NAME}-demo"]
    assert space.is_private and space.variables == {"HF_ASR_MODEL": NAME}
    assert f"give the Space a secret HF_TOKEN that may read {NAME}" in capsys.readouterr().out
    data = SpaceCard(space.files["README.md"].decode()).data
    assert (data.sdk, data.app_file, data.models, data.python_version) == ("gradio", "app.py", [NAME], "3.11")
    requirements = space.files["requirements.txt"].decode().splitlines()
    assert any(line.startswith("transformers>=") for line in requirements)
    assert any(line.startswith("websockets>=") for line in requirements)  # of the live text
    assert not any(line.startswith(("gradio", "hf_asr", "#")) for line in requirements)
    for name, content in space.files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    code = "import app, hf_asr.checkpoint; print(app.parse_options([]).model_name_or_path); print(hf_asr.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | space.variables
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "space", env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [NAME, str(tmp_path / "space" / "hf_asr" / "__init__.py")], done.stderr


def test_without_an_evaluation_of_the_weights_nothing_is_published(hub, run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    again = f"python scripts/evaluate.py --model_name_or_path {run_folder}"
    (run_folder / "metrics.json").write_text(json.dumps(metrics | {"model_sha256": "0" * 64}))
    message = refusal(run_folder)
    assert "is of other weights" in message and again in message
    (run_folder / "metrics.json").write_text(json.dumps({"cer": 0.01}))
    assert "does not record its weights" in refusal(run_folder)
    (run_folder / "metrics.json").write_text("{")
    assert "metrics.json is damaged" in refusal(run_folder)
    (run_folder / "metrics.json").unlink()
    message = refusal(run_folder)
    assert "has no evaluation" in message and again in message
    assert not hub.repositories


def test_graphs_and_training_records_of_other_weights_are_not_published(hub, run_folder, tmp_path):
    export_report(run_folder, tmp_path / "onnx")
    report = (tmp_path / "onnx" / "export_report.json").read_text()
    report = report.replace(weights_sha256(run_folder), "0" * 64)
    (tmp_path / "onnx" / "export_report.json").write_text(report)
    assert "model.onnx was not exported from these weights" in refusal(run_folder, "--onnx_dir", tmp_path / "onnx")
    assert "has no ONNX graph" in refusal(run_folder, "--onnx_dir", tmp_path)
    (run_folder / "training.json").write_text(json.dumps({"model_sha256": "0" * 64, "command": "another"}))
    publish(run_folder)
    assert not {"training.json", "curves.png"} & set(hub.repositories[f"models/{NAME}"].files)


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/", "own er/name"])
def test_a_malformed_id_is_an_error(run_folder, name):
    with pytest.raises(SystemExit, match="is not an id of the Hub: owner/name"):
        main(["publish", "--model_name_or_path", str(run_folder), "--hub_model_id", name])


def test_a_folder_that_is_not_a_checkpoint_is_an_error(hub, run_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a checkpoint" in refusal(tmp_path / "empty")
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (run_folder / "modeling_conformer.py").unlink()
    assert "lacks the code that trust_remote_code loads" in refusal(run_folder)
    (run_folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(run_folder)


def test_a_missing_token_or_network_is_an_error_of_one_line(hub, run_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "it does not know the token" in refusal(run_folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token for the Hub: run `hf auth login`" in refusal(run_folder)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in refusal(run_folder)


def test_a_public_repository_is_changed_only_with_public(hub, run_folder):
    publish(run_folder, "--public")
    assert "is public: give --public, or another id" in refusal(run_folder)
    publish(run_folder, "--public")
    assert len(hub.repositories[f"models/{NAME}"].commits) == 2


@pytest.mark.slow
def test_a_published_graph_is_loaded_by_its_id(run_folder, corpus, recording, tmp_path, hub, repository):
    data = ["--dataset_name", str(corpus), "--max_utterances", "2", "--allow_differences"]
    main(["export", "--model_name_or_path", str(run_folder), "--output_dir", str(tmp_path / "onnx"), *data])
    publish(run_folder, "--onnx_dir", tmp_path / "onnx")
    assert str(repository).encode() in (tmp_path / "onnx" / "model.onnx").read_bytes()  # a note of PyTorch's exporter
    assert str(repository).encode() not in hub.repositories[f"models/{NAME}"].files["onnx/model.onnx"]
    environment = os.environ | hub.environment | {"HF_HOME": str(tmp_path / "home")}
    texts = []
    for name in (f"{NAME}/onnx/model.onnx", str(run_folder)):
        command = [sys.executable, "scripts/transcribe.py", "--model_name_or_path", name, str(recording)]
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[1]
