"""Publications contain no transcript, name or path of the training machine, unless the user asks for transcripts."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from hf_asr.cli import main
from hf_asr.data import spoken
from hf_asr.hub.privacy import public_command, public_configuration, public_figures, public_training

from .test_publish import NAME, export_report
from .tiny_training import TINY_TRAINING, command

SENTENCES = ["marmalade for quokkas", "jumbled gherkins waltz", "a bashful zeppelin"]
PRODUCTS = ["kumquat catapult", "obsidian flugelhorn"]  # texts without recordings
SPEAKERS = ["xanthippe", "ozymandias", "wilhelmina"]
HOST = "machineofalice"


@pytest.fixture(scope="module")
def home(corpus, tmp_path_factory) -> Path:
    """Return a home folder with private recordings and noises, for a training that is published."""
    home = tmp_path_factory.mktemp("home") / "alice.liddell"
    data = home / "spoken"
    recordings = sorted((corpus / "train").rglob("*.flac"))
    for split, count in (("train", 12), ("validation", 6)):
        (data / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            name = f"confidential-{split}-{number}.flac"
            shutil.copyfile(recordings.pop(), data / split / name)
            row = {"file_name": name, "text": SENTENCES[number % 3], "speaker": SPEAKERS[number % 3]}
            lines.append(json.dumps(row | {"utterance_id": f"patientid-{split}-{number}"}) + "\n")
        (data / split / "metadata.jsonl").write_text("".join(lines))
    (home / "wordlists").mkdir()
    (home / "wordlists" / "products.txt").write_text("\n".join(PRODUCTS), encoding="utf-8")
    (home / "noises").mkdir()
    shutil.copyfile(recordings.pop(), home / "noises" / "scullery.flac")
    return home


@pytest.fixture
def published(hub, home, tmp_path, monkeypatch) -> Path:
    """Train with --push_to_hub, then run the publish command with graphs and the demo; return the run's folder."""
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(spoken, "HF_HOME", str(tmp_path / "home"))
    run = home / "runs of mine" / "first"
    options = TINY_TRAINING | {
        "dataset_name": home / "spoken",
        "output_dir": run,
        "text_normalization": "en",
        "augmentations": f"[{{name: AddBackgroundNoise, sounds_path: {home / 'noises'}}}]",
        "warm_start": f"{{steps: 1, voices: 1, texts: {home / 'wordlists' / 'products.txt'}}}",
        "exclude_speakers": SPEAKERS[2],
        "push_to_hub": "true",
        "hub_model_id": NAME,
        "hub_always_push": "true",
        "report_to": "tensorboard",
    }
    words = command("train", options)
    monkeypatch.setattr("sys.argv", [str(home / "hf_asr" / "scripts" / "train.py"), *words[1:]])
    main(words)
    graph = export_report(run, tmp_path / "onnx")
    refused = {"file": "model.int8.onnx", "reason": f"predicted {SENTENCES[0]!r} in {home / 'spoken'}"}
    report = {"graphs": [graph | {"examples": [SENTENCES[0]], "note": str(home)}], "refused": [refused]}
    (tmp_path / "onnx" / "export_report.json").write_text(json.dumps(report))
    config = json.loads((run / "config.json").read_text()) | {"_name_or_path": str(home / "base")}
    (tmp_path / "onnx" / "config.json").write_text(json.dumps(config))
    options = ["--hub_model_id", NAME, "--create_space", "--onnx_dir", str(tmp_path / "onnx")]
    main(["publish", "--model_name_or_path", str(run), *options])
    return run


def test_uploads_contain_no_names_paths_or_transcripts(hub, published, home):
    secrets = [word for sentence in SENTENCES + PRODUCTS for word in sentence.split() if len(word) > 4]
    secrets += [*SPEAKERS, "confidential-", "patientid-", str(home), home.name, str(home.parent), HOST]
    secrets += ["runs of mine", "scullery", "/home/alice"]
    found = [
        (secret, path)
        for path, content in hub.uploads
        for secret in secrets
        if secret in path or secret.encode() in content or secret.encode("utf-16-le") in content
    ]
    assert not found
    names = {path for path, _ in hub.uploads}
    assert {"README.md", "report.html", "training.json", "metrics.json", "curves.png", "config.json"} <= names
    assert {"onnx/model.onnx", "onnx/export_report.json", "onnx/config.json", "app.py"} <= names
    assert [path for path in names if path.startswith("runs/0/events.out.tfevents.")]
    messages = [message for repository in hub.repositories.values() for message, _ in repository.commits]
    assert len(messages) >= 4 and not [message for message in messages if any(secret in message for secret in secrets)]
    # The files on this machine are unchanged.
    assert SENTENCES[0] in (published / "predictions.jsonl").read_text()
    record = json.loads(hub.repositories[f"models/{NAME}"].files["training.json"])
    assert "--dataset_name spoken" in record["command"] and "--exclude_speakers …" in record["command"]
    assert record["recipe"]["augmentations"][0]["sounds_path"] == "noises"
    assert record["recipe"]["warm_start"] == {"steps": 1, "voices": 1, "texts": "products.txt"}
    assert "texts: products.txt" in record["command"] and record["synthetic_speech"]["sentences"] > 2
    # Transcripts are uploaded if the user asks for them.
    main(["publish", "--model_name_or_path", str(published), "--hub_model_id", NAME, "--include_transcripts"])
    report = hub.repositories[f"models/{NAME}"].files["report.html"].decode()
    assert "patientid-validation-0" in report and "marmalade" in report and str(home) not in report


def test_a_public_command_has_no_paths_and_no_names():
    command = (
        "torchrun --nproc_per_node 2 /home/alice/hf_asr/scripts/train.py --config configs/fine tune.yaml "
        "--config private/alice.yaml --model_name_or_path owner/base --dataset_name=data/clinic --exclude_speakers "
        "bob carol --learning_rate 1e-3 --hub_token … --output_dir 'C:\\alice\\run' --synthetic_corpus ~/x/y"
    )
    assert public_command(command, {"owner/base"}) == (
        "torchrun --nproc_per_node 2 train.py --config configs/fine tune.yaml --config alice.yaml --model_name_or_path "
        "owner/base --dataset_name=clinic --exclude_speakers … … --learning_rate 1e-3 --hub_token … --output_dir run "
        "--synthetic_corpus y"
    )
    assert public_command("train.py --hub-token hf_a --exclude-speakers bob --hub-model-id o/n") == (
        "train.py --hub-token … --exclude-speakers … --hub-model-id o/n"
    )
    assert public_command("train --datasets '[{name: owner/a, weight: 2}, {name: ./b/c}]'", {"owner/a"}) == (
        "train --datasets '[{name: owner/a, weight: 2}, {name: c}]'"
    )
    assert (
        public_command("train --name 'half a quotation /home/alice", ())
        == "train --name ''\"'\"'half' a quotation alice"
    )


@pytest.mark.parametrize(
    "value",
    ["{steps: 9, texts: /home/alice/words.txt}", "{steps: 9, texts: [~/words.txt]}", "texts: data/clinic/words.txt"],
)
def test_a_public_warm_start_has_no_paths(value):
    public = public_command(f"train --warm_start '{value}'")
    assert "words.txt" in public and not re.search("alice|home|~|clinic", public)
    warm_start = yaml.safe_load(value)
    record = {"command": None, "datasets": [], "recipe": {"warm_start": warm_start}}
    public = json.dumps(public_training(record))
    assert "words.txt" in public and not re.search("alice|home|~|clinic", public)


def test_a_public_configuration_has_no_paths():
    content = b'{"hidden_size": 32, "pad_token": "/", "separator": "~", "auto_map": {"AutoModel": "m--x.Y"}}'
    assert public_configuration(content) == content
    found = {"a": 1, "_name_or_path": "/home/alice/x", "inner": [{"file": "~/y", "size": 2}], "w": "C:\\alice\\z"}
    assert json.loads(public_configuration(json.dumps(found).encode())) == {"a": 1, "inner": [{"size": 2}]}


def test_public_figures_keep_words_with_slashes():
    figures = {"cer": 0.1, "hardware": "AMD Ryzen 7 w/ Radeon", "dataset": "owner/name", "tried": "/home/alice/d"}
    assert public_figures(figures) == figures | {"tried": "d"}
    record = {"command": "train", "datasets": [{"name": "owner/name"}], "recipe": {"x": ["owner/name", "data/noise"]}}
    assert public_training(record | {"hardware": "a w/ b"}) == record | {
        "hardware": "a w/ b",
        "recipe": {"x": ["owner/name", "noise"]},
    }
