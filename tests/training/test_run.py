"""The whole job on a small corpus, and the mistakes a person makes."""

import json
import random
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_asr.cli import evaluate, transcribe
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.run import main, train

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


def run(corpus, output_dir, **changes) -> dict:
    recipe = RECIPE | {"dataset_name": str(corpus), "output_dir": str(output_dir)} | changes

    def own(cls: type) -> dict:
        return {key: value for key, value in recipe.items() if key in cls.__dataclass_fields__}

    return train(ModelArguments(**own(ModelArguments)), DataArguments(**own(DataArguments)),
                 ConformerTrainingArguments(**own(ConformerTrainingArguments)))  # fmt: skip


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(corpus, folder)


def test_the_result_is_complete(finished):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert {"cer", "cer_interval", "wer", "real_time_factor", "steps"} <= set(metrics)
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 8 and {"reference", "prediction", "speaker"} <= set(predictions[0])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "data_report.jsonl").exists()
    assert not list(folder.glob("*partial*"))


def test_the_other_commands_need_only_its_folder(finished, corpus, tmp_path, capsys):
    folder, metrics = finished
    evaluate(["--model_name_or_path", str(folder), "--dataset_name", str(corpus), "--output_dir", str(tmp_path)])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["cer"] == metrics["cer"] == json.loads((tmp_path / "metrics.json").read_text())["cer"]
    transcribe(["--model_name_or_path", str(folder), str(corpus / "validation"), "--output_format", "json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8 and {"file", "text", "duration", "words"} <= set(lines[0])


def test_resumed_is_uninterrupted(finished, corpus, tmp_path):
    """Stopped in the middle of an epoch and of nothing else; augmentation and SpecAugment on."""
    folder, _ = finished
    (tmp_path / "run").mkdir()
    (folder / "checkpoint-2").rename(tmp_path / "run" / "checkpoint-2")
    run(corpus, tmp_path / "run", resume_from_checkpoint="true")
    (tmp_path / "run" / "checkpoint-2").rename(folder / "checkpoint-2")
    expected, resumed = weights(folder / "checkpoint-6"), weights(tmp_path / "run" / "checkpoint-6")
    assert expected.keys() == resumed.keys()
    for name in expected:
        assert torch.equal(expected[name], resumed[name]), name


def test_a_stream_resumed_is_uninterrupted(corpus, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(corpus, whole, streaming=True, streaming_buffer_size=15)
    resumed.mkdir()
    (whole / "checkpoint-4").rename(resumed / "checkpoint-4")
    run(corpus, resumed, streaming=True, streaming_buffer_size=15, resume_from_checkpoint="true")
    expected, found = weights(whole / "checkpoint-6"), weights(resumed / "checkpoint-6")
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_killed_at_a_random_step_and_resumed_is_uninterrupted(finished, corpus, tmp_path):
    folder, _ = finished
    last_step = random.randint(2, 5)  # of six; the first checkpoint is at two
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"dataset_name": str(corpus), "output_dir": str(tmp_path / "run")}))
    code = f"""
import os
import hf_asr.training.run as run

class Kill(run.ShowTranscripts):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {last_step}:
            os._exit(9)

run.ShowTranscripts = Kill
run.main(["--config", {str(recipe)!r}])
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run(corpus, tmp_path / "run", resume_from_checkpoint="true")
    expected, resumed = weights(folder / "checkpoint-6"), weights(tmp_path / "run" / "checkpoint-6")
    for name in expected:
        assert torch.equal(expected[name], resumed[name]), f"{name}, killed after step {last_step}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text_column_name", "txt"], "no column 'txt' (did you mean 'text'?)"),
        (["--eval_split_name", "dev"], "no split 'dev', it has: train, validation"),
        (["--augmentations", "[{name: Gian}]"], "unknown class 'Gian', did you mean Gain?"),
        (["--model", "{hidden_siz: 3}"], "ConformerConfig has no hidden_siz"),
        (["--exclude_speakers", "nobody"], "no such speaker"),
        (["--resume_from_checkpoint", "true"], "no complete checkpoint to resume from"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(corpus, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["--dataset_name", str(corpus), "--output_dir", str(tmp_path / "run"), *arguments])
    assert message in stopped.value.code and "\n" not in stopped.value.code


def test_a_folder_that_holds_a_run_is_not_overwritten(finished, corpus):
    folder, _ = finished
    with pytest.raises(SystemExit) as stopped:
        main(["--dataset_name", str(corpus), "--output_dir", str(folder)])
    assert "already holds a run: --resume_from_checkpoint true" in stopped.value.code
