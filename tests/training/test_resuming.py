"""A resumed run gives the result of an uninterrupted one, and never a mixture of two runs."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.averaging import AVERAGE_FILE, mean_of_checkpoints, weights_of
from hf_asr.training.run import train
from hf_asr.training.run_folder import delete_run, list_checkpoints, step_of
from hf_asr.training.trainer import ConformerTrainer

from .test_run import RECIPE as SHORT_RUN

PHONEMES = {"num_hidden_layers": 2, "intermediate_ctc_layers": [1], "phoneme_language": "auto"}
RECIPE = SHORT_RUN | {"report_to": "tensorboard", "inspect_audio": False}


def run(corpus, output_dir, **changes) -> dict:
    recipe = RECIPE | {"dataset_name": str(corpus), "output_dir": str(output_dir)} | changes
    parts = (ModelArguments, DataArguments, ConformerTrainingArguments)
    return train(
        *(cls(**{key: value for key, value in recipe.items() if key in cls.__dataclass_fields__}) for cls in parts)
    )


def assert_same(a: Path, b: Path) -> None:
    expected, found = load_file(a), load_file(b)
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def flip_last_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text())


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(corpus, folder)
    return folder


@pytest.fixture
def old(finished, tmp_path) -> Path:
    """A copy of a finished run, with a file of the user."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    return tmp_path / "run"


def test_an_error_before_training_keeps_the_run_to_overwrite(old, corpus, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*") if path.is_file()}
    error = ValueError("a mistake")
    monkeypatch.setattr("hf_asr.training.prepare.describe", lambda *args: (_ for _ in ()).throw(error))
    with pytest.raises(ValueError, match="a mistake"):
        run(corpus, old, overwrite_output_dir=True)
    there = {path: path.stat().st_mtime_ns for path in old.rglob("*") if path.is_file()}
    assert {path: time for path, time in there.items() if "unfinished" not in path.parts} == before


def test_delete_run_knows_all_files_of_a_run(old):
    delete_run(old)
    assert names(old) == {"notes.txt"}


def test_overwriting_deletes_all_of_the_old_run(old, finished, corpus):
    """The old run has a later step than the new one, which keeps one checkpoint."""
    (old / "checkpoint-6").rename(old / "checkpoint-60")
    for name in ("model.safetensors", "before.json", "max_batch_seconds.json"):
        (old / name).write_bytes(b"old")
    run(corpus, old, overwrite_output_dir=True, save_total_limit=1)
    there = {name for name in names(old) if not name.startswith("checkpoint-")}
    assert there == {name for name in names(finished) if not name.startswith("checkpoint-")} | {"notes.txt"}
    assert {step_of(path) for path in list_checkpoints(old)} <= {2, 4, 6} and len(names(old / "runs")) == 1
    assert_same(old / "model.safetensors", finished / "model.safetensors")


def test_a_run_stopped_after_its_last_step_only_writes_its_results(old, finished, corpus):
    """It was killed while the result was written."""
    for name in ("metrics.json", "training.json", "model.safetensors"):
        (old / name).unlink()
    (old / "unfinished").mkdir()
    (old / "unfinished" / "model.safetensors").write_bytes(b"half")
    metrics = run(corpus, old, resume_from_checkpoint="true")
    assert_same(old / "model.safetensors", finished / "model.safetensors")
    assert metrics["steps"] == 6 and names(old) == names(finished) | {"notes.txt"}


def test_results_of_earlier_weights_are_deleted_before_new_weights_are_saved(old, corpus, monkeypatch):
    """A resumed run that is stopped between its new weights and their scores has no scores."""
    error = ValueError("stopped")
    monkeypatch.setattr("hf_asr.training.results.plot_curves", lambda *args, **options: (_ for _ in ()).throw(error))
    with pytest.raises(ValueError, match="stopped"):
        run(corpus, old, resume_from_checkpoint="true", max_steps=7)
    gone = {"metrics.json", "predictions.jsonl", "report.html", "curves.png", "training.json"}
    assert not gone & names(old) and {"model.safetensors", "config.json", "tokenizer.json"} <= names(old)


def test_a_copied_run_with_a_damaged_checkpoint_is_independent_of_the_original(old, finished, corpus):
    """The state of a checkpoint has the path of the best one in the original; the damaged checkpoint is renamed."""
    flip_last_bit(old / "checkpoint-6" / "model.safetensors")
    run(corpus, old, resume_from_checkpoint="true", save_total_limit=2)
    assert (old / "damaged-checkpoint-6").is_dir() and list_checkpoints(old)[-1].name == "checkpoint-6"
    assert Path(state(old / "checkpoint-6")["best_model_checkpoint"]).parent == old
    for name in ("checkpoint-6/model.safetensors", "model.safetensors"):
        assert_same(old / name, finished / name)


def test_the_result_is_an_undamaged_saved_checkpoint(corpus, tmp_path, monkeypatch, caplog):
    """Scores are computed twice as often as checkpoints; a bit of the best average flips at the end of training."""
    caplog.set_level(logging.WARNING, logger="hf_asr")
    folder, best = tmp_path / "run", []

    def load_best_model(trainer):
        best.append(Path(trainer.state.best_model_checkpoint))
        flip_last_bit(best[0] / AVERAGE_FILE)
        original(trainer)

    original = ConformerTrainer._load_best_model
    monkeypatch.setattr(ConformerTrainer, "_load_best_model", load_best_model)
    run(corpus, folder, eval_steps=1, learning_rate=1e-2, ema_decay=0.5, average_checkpoints=2, average_by="last")
    scored = {
        entry["step"]: entry["eval_cer"]
        for entry in state(folder / "checkpoint-6")["log_history"]
        if "eval_cer" in entry
    }
    assert len(scored) == 6
    by_score = sorted(list_checkpoints(folder), key=lambda path: scored[step_of(path)])
    assert best[0] == by_score[0]
    assert f"{best[0]} is damaged ({AVERAGE_FILE} does not match its checksum)" in caplog.text
    result = load_file(folder / "model.safetensors")
    accepted = [mean_of_checkpoints(by_score[1:]), weights_of(by_score[1])]
    assert any(all(torch.equal(result[name], value) for name, value in weights.items()) for weights in accepted)


def test_the_result_of_a_run_without_evaluations_is_its_moving_average(corpus, tmp_path):
    run(corpus, tmp_path / "run", ema_decay=0.5, max_steps=2, eval_steps=10, save_steps=10)
    result = load_file(tmp_path / "run" / "model.safetensors")
    average = load_file(tmp_path / "run" / "checkpoint-2" / "average.safetensors")
    assert all(torch.equal(result[name], value) for name, value in average.items())


def test_resuming_with_dataloader_workers_gives_the_same_weights(finished, corpus, tmp_path):
    """The run was stopped in the middle of an epoch."""
    shutil.copytree(finished / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    run(corpus, tmp_path / "run", resume_from_checkpoint="true", dataloader_num_workers=2)
    for name in ("checkpoint-6/model.safetensors", "model.safetensors"):
        assert_same(finished / name, tmp_path / "run" / name)


SCRIPT = """
import torch
from transformers import TrainerCallback
from hf_asr.arguments import parse_arguments
from hf_asr.training import plateau
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit

plateau.LEFT_PLATEAU, plateau.MEASURED_EVERY, plateau.NUM_MEASUREMENTS = 100.0, 1, 1  # is left at once

class Keep(TrainerCallback):
    def on_evaluate(self, args, state, control, model=None, **kwargs):
        buffers = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
        torch.save(buffers, f"{args.output_dir}/buffers-{state.global_step}-{args.process_index}.pt")

if __name__ == "__main__":
    arguments = parse_arguments((ModelArguments, DataArguments, ConformerTrainingArguments))
    fit(prepare(*arguments), arguments[2], callbacks=[Keep()])
    torch.distributed.destroy_process_group()
"""


@pytest.fixture
def launch(corpus, tmp_path, torchrun):
    """A function that trains in two processes."""
    (tmp_path / "train.py").write_text(SCRIPT)

    def launch(folder: Path, *more: str, **options) -> None:
        recipe = RECIPE | {"dataset_name": str(corpus), "output_dir": str(folder), "use_cpu": True} | options
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        command = [tmp_path / "train.py", "--config", tmp_path / "recipe.yaml", *more]
        torchrun(*command, processes=2, timeout=600, HF_HOME=str(tmp_path / "home"))

    return launch


def test_a_stream_in_two_processes_resumes_to_the_same_weights(corpus, tmp_path, launch):
    """In the middle of a buffer and of an optimiser step's batches; the rows before the buffer are not read again."""
    options = {"streaming": True, "streaming_buffer_size": 4, "max_steps": 4, "gradient_accumulation_steps": 2}
    options["model"] = RECIPE["model"] | PHONEMES
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launch(whole, **options, max_batch_seconds=6)
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    places = [json.loads((whole / "checkpoint-2" / f"stream-{rank}.json").read_text()) for rank in range(2)]
    assert all(place["states"][0]["batches"] == 4 and place["states"][0]["first_row"] for place in places)
    launch(resumed, "--resume_from_checkpoint", "true", **options, max_batch_seconds=6)
    assert_same(whole / "checkpoint-4" / "model.safetensors", resumed / "checkpoint-4" / "model.safetensors")
    with pytest.raises(ValueError, match="read with processes 2: .*ignore_data_skip true"):
        run(corpus, resumed, resume_from_checkpoint="true", **options | {"max_steps": 5})


def test_two_processes_with_workers_in_bf16_resume_to_the_same_weights(tmp_path, launch):
    """With concatenated and spliced utterances, and batch norm, whose statistics differ until they are scored.

    The resumed run reads recordings that one of its processes has decoded.
    """
    model = RECIPE["model"] | PHONEMES | {"hidden_size": 128, "conv_norm": "batch_norm"}
    options = {"precision": "bf16", "dataloader_num_workers": 1, "ema_decay": 0.5, "max_steps": 4, "model": model}
    options |= {"concatenation": {"share": 0.4, "max_seconds": 6.0, "max_gap_seconds": 0.5}}
    options |= {"splicing": {"share": 0.7, "after_steps": 0}, "max_batch_seconds": 200}

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launch(whole, **options)
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    assert {"rng_state_0.pth", "rng_state_1.pth", "word_cuts.safetensors"} <= set(
        json.loads((whole / "checkpoint-2" / "checksums.json").read_text())
    )
    launch(resumed, "--resume_from_checkpoint", "true", **options, cache_audio=True)
    for name in ("checkpoint-4/model.safetensors", "checkpoint-4/average.safetensors", "model.safetensors"):
        assert_same(whole / name, resumed / name)
    names = [set(load_file(whole / folder / "model.safetensors")) for folder in ("checkpoint-4", ".")]
    assert names[0] - names[1] == {"ctc_head.shared", "ctc_head.shares"}  # the result has an ordinary head
    scored = [torch.load(whole / f"buffers-4-{rank}.pt") for rank in range(2)]
    saved = load_file(whole / "checkpoint-4" / "average.safetensors")
    assert scored[0] and all(torch.equal(buffers[name], saved[name]) for buffers in scored for name in buffers)
