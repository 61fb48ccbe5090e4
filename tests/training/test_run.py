"""A whole training run on a small corpus, and the errors that wrong arguments give."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_asr.cli import main
from hf_asr.model import modeling_conformer
from hf_asr.model.losses_conformer import summed_loss
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.averaging import mean_of_checkpoints
from hf_asr.training.batch_search import trial_step
from hf_asr.training.prepare import prepare
from hf_asr.training.run import train
from hf_asr.training.trainer import ConformerTrainer

RECIPE = {
    "model": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "subsampling_channels": 8,
    },
    "text_normalization": "zh-en",
    "augmentations": [{"name": "SpeedPerturbation", "factors": [0.9, 1.1]}],
    "max_batch_seconds": 20,
    "max_steps": 6,
    "eval_steps": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "precision": "fp32",
    "report_to": "none",
    "save_total_limit": 10,
}


def arguments(corpus, output_dir, **changes) -> tuple:
    recipe = RECIPE | {"dataset_name": str(corpus), "output_dir": str(output_dir)} | changes
    classes = (ModelArguments, DataArguments, ConformerTrainingArguments)
    return tuple(cls(**{key: recipe[key] for key in recipe if key in cls.__dataclass_fields__}) for cls in classes)


def run(corpus, output_dir, **changes) -> dict:
    return train(*arguments(corpus, output_dir, **changes))


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(a, b, *, name: str = "model.safetensors") -> None:
    expected, found = load_file(a / name), load_file(b / name)
    assert expected.keys() == found.keys()
    for key in expected:
        assert torch.equal(expected[key], found[key]), key


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(corpus, folder)


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The number of each optimiser step: a run that started again from step 0 would end with the same weights."""
    taken, original = [], ConformerTrainer.training_step

    def step(trainer, *args, **kwargs):
        taken.append(trainer.state.global_step + 1)
        return original(trainer, *args, **kwargs)

    monkeypatch.setattr(ConformerTrainer, "training_step", step)
    return taken


def test_a_run_writes_all_result_files(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert {"cer", "cer_interval", "wer", "real_time_factor", "steps"} <= set(metrics)
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 8 and {"reference", "prediction", "speaker"} <= set(predictions[0])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "data_report.jsonl").exists()
    assert not list(folder.glob("*partial*"))


def test_others_may_read_the_weights_as_they_may_read_the_configuration(finished):
    run_folder, _ = finished
    for folder in (run_folder, *run_folder.glob("checkpoint-*")):
        modes = {path.stat().st_mode for path in (folder / "config.json", *folder.glob("*.safetensors"))}
        assert len(modes) == 1


def test_evaluate_and_transcribe_need_only_the_folder_of_a_run(finished, corpus, tmp_path, capsys):
    folder, metrics = finished
    main(
        ["evaluate", "--model_name_or_path", str(folder), "--dataset_name", str(corpus), "--output_dir", str(tmp_path)]
    )
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["cer"] == metrics["cer"] == json.loads((tmp_path / "metrics.json").read_text())["cer"]
    main(["transcribe", "--model_name_or_path", str(folder), str(corpus / "validation"), "--output_format", "json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8 and {"file", "text", "duration", "words"} <= set(lines[0])


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(finished, corpus, tmp_path, steps):
    """It was stopped in the middle of an epoch, with augmentation and SpecAugment."""
    folder, _ = finished
    (tmp_path / "run").mkdir()
    (folder / "checkpoint-2").rename(tmp_path / "run" / "checkpoint-2")
    run(corpus, tmp_path / "run", resume_from_checkpoint="true")
    assert steps == [3, 4, 5, 6]
    (tmp_path / "run" / "checkpoint-2").rename(folder / "checkpoint-2")
    assert_same_weights(folder / "checkpoint-6", tmp_path / "run" / "checkpoint-6")


def test_a_resumed_run_on_a_stream_ends_with_the_weights_of_an_uninterrupted_one(corpus, tmp_path, steps):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(corpus, whole, streaming=True, streaming_buffer_size=15)
    steps.clear()
    resumed.mkdir()
    (whole / "checkpoint-4").rename(resumed / "checkpoint-4")
    run(corpus, resumed, streaming=True, streaming_buffer_size=15, resume_from_checkpoint="true")
    assert steps == [5, 6]
    assert_same_weights(whole / "checkpoint-6", resumed / "checkpoint-6")


@pytest.mark.parametrize("moment", ["in a step", "while a checkpoint is written"])
def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    finished, corpus, tmp_path, moment, steps
):
    """kill -9 in step 5 of 6, or while the second checkpoint is half written."""
    folder, _ = finished
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"dataset_name": str(corpus), "output_dir": str(tmp_path / "run")}))
    code = f"""
import os, signal
from transformers import TrainerCallback
from hf_asr.arguments import parse_arguments
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit
from hf_asr.training.trainer import ConformerTrainer

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if {moment!r} == "in a step" and state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

def save_optimizer(trainer, folder):
    if {moment!r} != "in a step" and trainer.state.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    original(trainer, folder)

original = ConformerTrainer._save_optimizer_and_scheduler
ConformerTrainer._save_optimizer_and_scheduler = save_optimizer
classes = (ModelArguments, DataArguments, ConformerTrainingArguments)
arguments = parse_arguments(classes, ["--config", {str(recipe)!r}])
fit(prepare(*arguments), arguments[2], callbacks=[Kill()])
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    whole = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    half = sorted(path.name for path in (tmp_path / "run").glob("unfinished/checkpoint-4/*"))
    if moment == "in a step":
        assert whole == ["checkpoint-2", "checkpoint-4"] and not half
    else:
        assert whole == ["checkpoint-2"] and "model.safetensors" in half and "optimizer.pt" not in half
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run(corpus, tmp_path / "run", resume_from_checkpoint="true")
    assert steps == ([5, 6] if moment == "in a step" else [3, 4, 5, 6])
    assert_same_weights(folder / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    assert not (tmp_path / "run" / "unfinished").exists()


def test_a_full_disk_ends_training_and_keeps_the_last_checkpoint(finished, corpus, tmp_path, monkeypatch):
    folder, _ = finished

    def full(trainer, target):
        if trainer.state.global_step == 4:
            raise OSError(28, "No space left on device")
        original(trainer, target)

    original = ConformerTrainer._save_optimizer_and_scheduler
    monkeypatch.setattr(ConformerTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(ValueError, match="checkpoint-4 could not be written .*No space left.*: checkpoint-2.*true"):
        run(corpus, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").glob("*")) == [
        "checkpoint-2",
        "data_report.html",
        "data_report.jsonl",
    ]
    monkeypatch.undo()
    run(corpus, tmp_path / "run", resume_from_checkpoint="true")
    assert_same_weights(folder / "checkpoint-6", tmp_path / "run" / "checkpoint-6")


def test_the_moving_average_is_resumed_and_is_the_result(corpus, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(corpus, whole, ema_decay=0.9)
    best = json.loads((whole / "checkpoint-6" / "trainer_state.json").read_text())["best_global_step"]
    average, own = (
        load_file(whole / f"checkpoint-{best}" / "average.safetensors"),
        weights(whole / f"checkpoint-{best}"),
    )
    assert not torch.equal(average["ctc_head.weight"], own["ctc_head.weight"])
    assert torch.equal(weights(whole)["ctc_head.weight"], average["ctc_head.weight"])
    resumed.mkdir()
    (whole / "checkpoint-4").rename(resumed / "checkpoint-4")
    run(corpus, resumed, ema_decay=0.9, resume_from_checkpoint="true")
    assert_same_weights(whole / "checkpoint-6", resumed / "checkpoint-6")
    assert_same_weights(whole / "checkpoint-6", resumed / "checkpoint-6", name="average.safetensors")


@pytest.mark.parametrize(("cer_of_mean", "result"), [(0.3, "mean"), (0.5, "best checkpoint")])
def test_the_mean_of_checkpoints_is_the_result_if_it_is_better(
    corpus, tmp_path, caplog, monkeypatch, cer_of_mean, result
):
    """Checkpoint 2 is the best; the last two are averaged, and their mean is scored last."""
    scores = iter([{"cer": cer, "wer": cer} for cer in (0.5, 0.7, 0.6, cer_of_mean)])
    monkeypatch.setattr("hf_asr.training.trainer.error_rates", lambda *_: next(scores))
    caplog.set_level("INFO", logger="hf_asr")
    run(corpus, tmp_path / "run", average_checkpoints=2, average_by="last", save_total_limit=2)
    assert f"the {result} is the result" in caplog.text and next(scores, None) is None
    folders = {step: tmp_path / "run" / f"checkpoint-{step}" for step in (2, 4, 6)}  # the best, and those to average
    assert sorted((tmp_path / "run").glob("checkpoint-*")) == sorted(folders.values())
    mean, best = mean_of_checkpoints([folders[4], folders[6]]), weights(folders[2])
    expected, other = (mean, best) if result == "mean" else (best, mean)
    assert torch.equal(weights(tmp_path / "run")["ctc_head.weight"], expected["ctc_head.weight"])
    assert not torch.equal(expected["ctc_head.weight"], other["ctc_head.weight"])


@pytest.mark.parametrize("change", [{"max_batch_seconds": 40}, {"exclude_speakers": None}])
def test_a_run_resumed_with_other_batches_logs_a_warning(finished, corpus, tmp_path, caplog, change):
    """Another max_batch_seconds, or recordings that were deleted since."""
    folder, _ = finished
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    if "exclude_speakers" in change:
        for path in sorted((copy / "train").glob("*.flac"))[:3]:
            path.unlink()
    shutil.copytree(folder / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    metrics = run(copy, tmp_path / "run", resume_from_checkpoint="true", max_unusable_share=0.2, **change)
    assert metrics["steps"] == 6 and "resumed at step 2: the batches are not those of the first run" in caplog.text


def test_a_resumed_run_logs_and_records_the_options_that_it_keeps(finished, corpus, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "checkpoint-6")
    changed = {"model": RECIPE["model"] | {"hidden_size": 64}, "learning_rate": 0.1, "weight_decay": 0.5}
    changed |= {"text_normalization": "zh", "tokenizer": "bpe", "feature_extractor": {"denoise": True}}
    with caplog.at_level("WARNING"):
        run(corpus, folder, resume_from_checkpoint="true", **changed)
    assert "a resumed run keeps its model: hidden_size 32" in caplog.text
    assert "keeps its learning_rate: 0.001, not 0.1" in caplog.text
    assert "keeps its weight_decay: 0.01, not 0.5" in caplog.text and "adam_beta" not in caplog.text
    assert "keeps its feature_extractor: denoise False" in caplog.text
    assert "keeps its text_normalization: zh-en, not zh" in caplog.text
    assert "keeps its tokenizer: char, not bpe" in caplog.text
    recipe = json.loads((folder / "training.json").read_text())["recipe"]
    assert recipe["learning_rate"] == 1e-3 and recipe["model"] == RECIPE["model"]
    assert_same_weights(folder, finished[0])


def test_a_run_resumed_by_two_processes_logs_a_warning(finished, corpus, tmp_path, torchrun):
    folder, _ = finished
    shutil.copytree(folder / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"dataset_name": str(corpus), "output_dir": str(tmp_path / "run")}))
    script = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
    _, errors = torchrun(script, "--config", recipe, "--resume_from_checkpoint", "true", processes=2)
    assert "resumed at step 2: the batches are not those of the first run" in errors
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 6


def test_steps_without_a_finite_gradient_are_skipped_and_counted(corpus, tmp_path, monkeypatch):
    def broken(model, *args, **kwargs):
        loss = summed_loss(model, *args, **kwargs)
        return loss * float("nan") if model.training and steps.pop(0) else loss

    monkeypatch.setattr(modeling_conformer, "summed_loss", broken)
    steps = [False, True, False, True, False, False]
    metrics = run(corpus, tmp_path / "run")
    assert metrics["skipped_steps"] == 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    steps = [True] * 30
    with pytest.raises(ValueError, match="21 steps in a row had gradients that are not finite.*lower learning_rate"):
        run(
            corpus,
            tmp_path / "other",
            max_steps=30,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )


def test_batches_are_bounded_by_the_longest_duration_after_augmentation(corpus, tmp_path):
    """Speed 0.8 makes a recording 1.25 times as long; the batches that `find_batch_seconds` tries are as long."""
    augmentations = [{"name": "SpeedPerturbation", "factors": [0.8, 1.0]}]
    model_args, data_args, args = arguments(corpus, tmp_path / "run", augmentations=augmentations)
    prepared = prepare(model_args, data_args, args)
    durations, dataset = prepared.durations, prepared.train_dataset
    seconds = [len(dataset[(0, place)]["waveform"]) / 16000 for place in range(len(dataset))]
    longer = np.array(durations) / np.array(seconds)
    assert longer.min() == pytest.approx(1, abs=1e-3) and longer.max() == pytest.approx(1.25, abs=1e-3)
    tried = []
    stub = SimpleNamespace(
        train_dataset=dataset,
        processing_class=prepared.processor,
        args=args,
        data_collator=lambda examples: {"labels": torch.zeros(1), "tried": tried.append(examples)},
        accelerator=SimpleNamespace(autocast=contextlib.nullcontext),
        training_step=lambda *_, **__: None,
        model=torch.nn.Linear(1, 1),
    )
    trial_step(stub, durations)(3.5 * max(durations))
    lengths = sorted(len(example["waveform"]) / 16000 for example in tried[0])
    assert lengths == pytest.approx(sorted(durations)[-3:], abs=1e-3)


def test_label_smoothing_is_a_training_argument(corpus, tmp_path):
    run(corpus, tmp_path / "run", label_smoothing_factor=0.1, max_steps=2)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["label_smoothing"] == 0.1
    with pytest.raises(ValueError, match="label_smoothing is the training argument label_smoothing_factor"):
        run(corpus, tmp_path / "other", model={"label_smoothing": 0.1})


def test_fine_tuning_with_replay_scores_old_and_new_data(finished, corpus, tmp_path):
    folder, metrics = finished
    run_dir = tmp_path / "run"
    options = {"replay_dataset_name": str(corpus), "replay_share": 0.5, "layer_lr_decay": 0.5, "max_steps": 2}
    tuned = run(corpus / "validation", run_dir, model_name_or_path=str(folder), held_out_share=0.5, **options)
    assert tuned["replay_cer_before"] == metrics["cer"] and {"replay_cer", "cer_before", "cer"} <= set(tuned)


def test_frozen_steps_change_only_the_head(finished, corpus, tmp_path):
    folder, _ = finished
    run(corpus, tmp_path / "run", model_name_or_path=str(folder), freeze_encoder_steps=2, max_steps=2)
    before, after = weights(folder), weights(tmp_path / "run")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "ctc_head.weight",
        "ctc_head.bias",
    }


def test_low_rank_adapters_are_merged(finished, corpus, tmp_path):
    pytest.importorskip("peft")
    folder, _ = finished
    tuned = run(corpus, tmp_path / "run", model_name_or_path=str(folder), lora={"r": 2}, learning_rate=1e-2)
    before, after = weights(folder), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert (
        "encoder.layers.0.attention.qkv_proj.weight" in changed and "encoder.subsampling.conv.0.weight" not in changed
    )
    rank = torch.linalg.matrix_rank(
        (after["encoder.subsampling.out.weight"] - before["encoder.subsampling.out.weight"]).double(), rtol=1e-3
    )
    assert rank <= 2 and tuned["utterances"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"find_batch_seconds": True}, "find_batch_seconds tries batches until the memory of a GPU is full"),
        ({"torch_compile": True}, "torch_compile is for GPUs"),
        ({"lora": {"r": 2}}, "lora: only for fine-tuning"),
        ({"average_by": "first"}, "average_by must be best or last, not 'first'"),
        ({"ema_decay": 1.0}, "ema_decay must be between 0 and 1"),
        ({"replay_share": 1.5}, "replay_share must be between 0 and 1"),
    ],
)
def test_invalid_arguments_are_an_error(corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(corpus, tmp_path / "run", **options)


def test_a_launcher_that_compiles_is_refused_on_a_cpu(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")  # as `accelerate launch --dynamo_backend inductor` does
    with pytest.raises(ValueError, match="torch_compile is for GPUs"):
        run(corpus, tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text_column_name", "txt"], "no column 'txt' (did you mean 'text'?)"),
        (["--eval_split_name", "dev"], "no split 'dev', it has: train, validation"),
        (["--augmentations", "[{name: Gian}]"], "unknown class 'Gian', did you mean Gain?"),
        (["--model", "{hidden_siz: 3}"], "ConformerConfig has no hidden_siz"),
        (["--exclude_speakers", "nobody"], "no such speaker"),
        (["--resume_from_checkpoint", "true"], "no complete checkpoint to resume from"),
        (["--model_name_or_path", "/no/such/model"], "/no/such/model does not exist"),
        (
            ["--model_name_or_path", "no-such-model"],
            "no-such-model cannot be loaded: it is not a folder, and it cannot be loaded from the Hub",
        ),
        (["--model", "{hidden_size: wide}"], "ConformerConfig: hidden_size must be a whole number, not 'wide'"),
        (["--model", "{hidden_size"], "model is not YAML"),
        (["--model", "3"], "model must be a mapping"),
        (["--augmentations", "[3]"], "augmentations: 3 is not a mapping with a name"),
        (["--output_dir", "/dev/null/run"], "output_dir /dev/null/run: /dev/null is a file, choose a folder"),
        (["--max_batch_seconds", "0"], "max_batch_seconds must be more than 0"),
        (["--metric_for_best_model", "loss"], "metric_for_best_model must be cer or wer, not 'loss'"),
        (["--accelerator_config", '{"batches": 1}'], "an argument has the wrong type: AcceleratorConfig"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(corpus, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--dataset_name", str(corpus), "--output_dir", str(tmp_path / "run"), *arguments])
    assert message in stopped.value.code and "\n" not in stopped.value.code


def test_a_folder_with_a_run_is_not_overwritten(finished, corpus):
    folder, _ = finished
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--dataset_name", str(corpus), "--output_dir", str(folder)])
    assert "already contains a run: resume_from_checkpoint true" in stopped.value.code


def test_the_folder_of_the_dataset_is_not_the_output_folder(corpus):
    with pytest.raises(ValueError, match="is the folder of the dataset: choose another one"):
        run(corpus, corpus / ".")
