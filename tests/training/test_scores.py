"""Scores of a run are computed in the same way during training and at its end, and describe which rows they are of."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml

from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import main
from hf_asr.data.audio import read_audio
from hf_asr.data.sources import Source
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.model import ConformerForCTC
from hf_asr.scoring.evaluation import evaluate_rows
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.devices import keep_random_state
from hf_asr.training.run import train
from hf_asr.training.trainer import in_float32

RECIPE = {
    "vocabulary": "keep",
    "max_batch_seconds": 20,
    "max_steps": 3,
    "eval_steps": 1,
    "save_steps": 1,
    "logging_steps": 1,
    "learning_rate": 2e-4,  # the weights are random: their transcripts are nonsense and change in each step
    "warmup_steps": 0,
    "save_total_limit": 10,
    "dataloader_num_workers": 0,
    "precision": "fp32",
    "report_to": "none",
    "use_cpu": True,
}


def run(recipe: dict) -> dict:
    """Train in this process."""

    def own(cls: type) -> dict:
        return {key: value for key, value in recipe.items() if key in cls.__dataclass_fields__}

    classes = (ModelArguments, DataArguments, ConformerTrainingArguments)
    return train(*(cls(**own(cls)) for cls in classes))


@pytest.fixture(scope="module")
def awkward(corpus, tmp_path_factory) -> Path:
    """A corpus whose validation split has a recording of several windows, a truncated one and one that is not audio."""
    folder = tmp_path_factory.mktemp("awkward")
    for split, count in (("train", 8), ("validation", 4)):
        (folder / split).mkdir()
        for path in sorted((corpus / split).glob("*.flac"))[:count]:
            shutil.copy(path, folder / split)
        lines = (corpus / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        rows = [row for row in rows if (folder / split / row["file_name"]).exists()]
        if split == "validation":
            speech = np.concatenate([read_audio(folder / split / row["file_name"]) for row in rows])
            soundfile.write(folder / split / "long.wav", np.resize(speech, 35 * 16000), 16000)
            soundfile.write(folder / split / "cut.wav", speech, 16000)
            whole = (folder / split / "cut.wav").read_bytes()
            (folder / split / "cut.wav").write_bytes(whole[: len(whole) // 2])
            (folder / split / "text.wav").write_text("not audio")
            rows += [rows[0] | {"file_name": f"{name}.wav", "id": name} for name in ("long", "cut", "text")]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / split / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def assert_chosen_as_reported(folder: Path, rows: datasets.Dataset) -> None:
    """Check that each score is that of its checkpoint, that the scores differ, and that the best one is the result."""
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    logged = {entry["step"]: entry for entry in state["log_history"] if "eval_cer" in entry}
    assert sorted(logged) == [1, 2, 3]
    for step, entry in logged.items():
        model, processor = load_checkpoint(str(folder / f"checkpoint-{step}"), device="cpu")
        measured, _ = evaluate_rows(Recognizer(model, processor), rows, show_progress=False)
        assert (entry["eval_cer"], entry["eval_wer"]) == (measured["cer"], measured["wer"]), step
    scores = {step: entry["eval_cer"] for step, entry in logged.items()}
    assert len(set(scores.values())) > 1
    best = min(scores, key=scores.get)
    assert Path(state["best_model_checkpoint"]).name == f"checkpoint-{best}"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["cer"] == scores[best] and metrics["utterances"] == len(rows) == 7 and metrics["unreadable"] == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_best_checkpoint_is_chosen_by_the_score_that_is_reported(awkward, checkpoint, tmp_path, precision):
    """Long recordings are split into windows, unreadable ones count as deleted, and scores are computed in float32."""
    places = {"dataset_name": str(awkward), "model_name_or_path": str(checkpoint), "output_dir": str(tmp_path / "run")}
    run(RECIPE | places | {"precision": precision})
    assert_chosen_as_reported(tmp_path / "run", Source(str(awkward)).load("validation"))


def test_two_processes_give_the_scores_of_one(awkward, checkpoint, tmp_path, torchrun):
    places = {"dataset_name": str(awkward), "model_name_or_path": str(checkpoint), "output_dir": str(tmp_path / "run")}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | places))
    script = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
    printed, _ = torchrun(script, "--config", recipe, processes=2, OMP_NUM_THREADS="1")
    assert_chosen_as_reported(tmp_path / "run", Source(str(awkward)).load("validation"))
    assert "prediction:" in printed


def test_training_in_bf16_is_like_float32(awkward, tmp_path):
    model = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    model |= {"subsampling_channels": 16}
    options = {"model": model, "dataset_name": str(awkward), "vocabulary": "auto", "max_steps": 10, "save_steps": 10}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    losses = {}
    for precision in ("bf16", "fp32"):
        folder = tmp_path / precision
        metrics = run(RECIPE | options | {"precision": precision, "output_dir": str(folder)})
        assert metrics["precision"] == precision and metrics["skipped_steps"] == 0
        saved = load_checkpoint(str(folder), device="cpu")[0]
        assert all(value.isfinite().all() and value.dtype == torch.float32 for value in saved.parameters())
        state = json.loads((folder / "checkpoint-10" / "trainer_state.json").read_text())
        losses[precision] = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses["bf16"]) == 10
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05) and losses["bf16"] != losses["fp32"]


def test_scoring_keeps_the_precision_and_the_random_numbers_of_training(tiny_model):
    def autocast_forward(**inputs):
        raise AssertionError("in the precision of training")

    tiny_model.forward = autocast_forward
    with in_float32(tiny_model):
        assert tiny_model(input_features=torch.zeros(1, 80, 80)).logits.dtype == torch.float32
        assert tiny_model.forward.__func__ is ConformerForCTC.forward
    assert tiny_model.forward is autocast_forward
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with keep_random_state(torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture
def few(corpus, tmp_path) -> Path:
    """A manifest of six clips by three speakers, without a validation split."""
    lines = [json.loads(line) for line in (corpus / "train" / "metadata.jsonl").read_text().splitlines()[:6]]
    for place, line in enumerate(lines):
        line |= {"audio": str(corpus / "train" / line.pop("file_name")), "speaker": "abc"[place % 3]}
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "m.jsonl"


def test_metrics_describe_which_rows_were_scored(few, checkpoint, tmp_path, capsys):
    options = {"dataset_name": str(few), "model_name_or_path": str(checkpoint), "output_dir": str(tmp_path / "run")}
    metrics = run(RECIPE | options | {"max_steps": 1, "held_out_share": 0.4, "exclude_speakers": ["a"]})
    selection = {"held_out_share": 0.4, "by": "speaker", "seed": 42, "excluded_speakers": 1}
    scored = {"dataset": "m.jsonl", "dataset_config": None, "split": "train", "selection": selection}
    assert {name: metrics[name] for name in scored} == scored and metrics["utterances"] == 2
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["chosen_on"] == scored
    assert "on 2 utterances of 'train' (40 % held out of training" in capsys.readouterr().out


def message(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    assert "\n" not in stopped.value.code and stopped.value.code.startswith("error: ")
    return stopped.value.code


@pytest.mark.parametrize("what", ["validation", "train"])
def test_a_split_without_usable_rows_is_an_error_before_training(awkward, checkpoint, tmp_path, what, monkeypatch):
    folder = tmp_path / "data"
    shutil.copytree(awkward, folder)
    for path in (folder / what).glob("*.flac"):
        path.write_bytes(b"not audio")
    for name in ("long", "cut"):
        (folder / "validation" / f"{name}.wav").write_bytes(b"not audio")
    monkeypatch.setattr("hf_asr.training.trainer.ConformerTrainer.train", lambda *_, **__: pytest.fail("it trains"))
    error = message(
        ["--dataset_name", str(folder), "--model_name_or_path", str(checkpoint), "--output_dir", str(tmp_path / "run")]
        + ["--max_unusable_share", "1", "--use_cpu", "true"]
    )
    purpose, count = ("scored", 7) if what == "validation" else ("trained on", 8)
    assert f"{what}: none of its {count} rows can be {purpose}: unreadable audio, as " in error


def test_transcripts_that_are_empty_after_normalisation_cannot_be_scored(awkward, checkpoint, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(awkward, folder)
    path = folder / "validation" / "metadata.jsonl"
    rows = [json.loads(line) | {"text": "?!"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = message(
        ["--dataset_name", str(folder), "--model_name_or_path", str(checkpoint), "--output_dir", str(tmp_path / "run")]
        + ["--use_cpu", "true"]
    )
    assert "validation: none of its 7 rows can be scored" in error and "empty transcript" in error


def test_a_split_without_rows_is_an_error(tmp_path):
    empty = datasets.Dataset.from_dict({"audio": [], "text": []})
    features = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    empty = empty.cast(datasets.Features({**features, "text": datasets.Value("string")}))
    empty.save_to_disk(tmp_path / "saved")
    error = message(["--dataset_name", str(tmp_path / "saved"), "--output_dir", str(tmp_path / "run")])
    assert "saved contains no rows" in error
