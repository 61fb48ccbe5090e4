"""`--push_to_hub` uploads the model of each checkpoint and, at the end, the same files as scripts/publish.py."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, load_file

from hf_asr.provenance import weights_sha256
from hf_asr.training.arguments import ConformerTrainingArguments
from hf_asr.training.results import push_result

from .tiny_training import TINY_MODEL, train

NAME = "someone/trained"


def train_on(corpus, output_dir, **options) -> None:
    train(
        dataset_name=corpus,
        output_dir=output_dir,
        text_normalization="zh-en",
        augmentations="[{name: SpeedPerturbation, factors: [0.9, 1.1]}]",
        **options,
    )


@pytest.mark.slow
def test_the_result_is_published_with_its_card(hub, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py", "--hub_token", "hf_secret"])
    folder = tmp_path / "run"
    train_on(corpus, folder, push_to_hub="true", hub_model_id=NAME, hub_always_push="true")
    repository = hub.repositories[f"models/{NAME}"]
    assert repository.is_private
    messages = [message for message, _ in repository.commits]
    assert messages == [f"Training in progress, step {step}" for step in (1, 2)] + ["Model, code and card by hf_asr"]
    assert repository.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    unwanted = (".bin", ".pt", ".pth", ".jsonl", ".flac")
    assert not [name for name in repository.files if name.endswith(unwanted) or name.startswith("checkpoint-")]
    assert any(name.startswith("runs/") for name in repository.files)
    assert {"training.json", "metrics.json", "curves.png", "report.html"} <= set(repository.files)
    for message, names in repository.commits[:-1]:  # the uploads during training can be loaded, but have no card
        assert {"model.safetensors", "config.json", "modeling_conformer.py", "tokenizer.json"} <= set(names), message
        assert not {"README.md", "training_args.bin", "data_report.jsonl"} & set(names)
    card = ModelCard(repository.files["README.md"].decode())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {result.metric_value for result in card.data.eval_results} == {metrics["cer"], metrics["wer"]}
    assert "python scripts/train.py --hub_token …" in card.text
    assert "The checkpoint was chosen by its CER on `validation` of spoken" in card.text
    record = json.loads(repository.files["training.json"])
    assert record["model_sha256"] == metrics["model_sha256"] == weights_sha256(folder)
    assert (record["steps"], record["utterances"], record["seconds"]) == (2, 40, metrics["train_seconds"])
    assert f"{record['hours']:.2f} hours, 40 utterances" in card.text and "SpeedPerturbation" in card.text


@pytest.mark.slow
def test_the_weights_uploaded_during_training_are_those_that_were_scored(hub, corpus, tmp_path):
    """With `ema_decay`, this includes the averaged statistics of batch norm."""
    folder = tmp_path / "run"
    options = {"ema_decay": 0.5, "learning_rate": 1e-2, "save_total_limit": 3}
    model = TINY_MODEL.replace("{", "{conv_norm: batch_norm, ")
    train_on(corpus, folder, push_to_hub="true", hub_model_id=NAME, hub_always_push="true", model=model, **options)
    uploaded = [load(content) for content in hub.objects.values() if b'"ctc_head.weight"' in content[:100_000]]
    for step in (1, 2):
        average = load_file(folder / f"checkpoint-{step}" / "average.safetensors")
        own = load_file(folder / f"checkpoint-{step}" / "model.safetensors")
        changed = [name for name in average if not torch.equal(average[name], own[name])]
        assert any("running_var" in name for name in changed)
        scored = own | average
        assert any(all(torch.equal(weights[name], scored[name]) for name in scored) for weights in uploaded), step
        assert not any(torch.equal(weights[changed[0]], own[changed[0]]) for weights in uploaded), step


def test_a_refusal_of_the_hub_is_an_error_before_training(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(SystemExit, match="the Hub refuses someone/trained .*hf auth login"):
        train_on(tmp_path / "not there", tmp_path / "run", push_to_hub="true", hub_model_id=NAME)


def test_a_failed_upload_at_the_end_names_the_command_to_repeat_it(hub, checkpoint):
    options = {"push_to_hub": True, "hub_model_id": NAME, "report_to": "none"}
    with pytest.raises(ValueError, match="has no evaluation.*; later: python scripts/publish.py --model_name_or_path"):
        push_result(ConformerTrainingArguments(output_dir=str(checkpoint), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push_to_hub": "true"}, "push_to_hub needs hub_model_id owner/name"),
        ({"push_to_hub": "true", "hub_model_id": "trained"}, "'trained' is not an id of the Hub"),
        (
            {"push_to_hub": "true", "hub_model_id": NAME, "hub_strategy": "checkpoint"},
            "hub_strategy must be every_save or end, not 'checkpoint'",
        ),
    ],
)
def test_wrong_hub_options_are_errors(hub, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        train_on(tmp_path, tmp_path / "run", **options)
