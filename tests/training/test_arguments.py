import os
from pathlib import Path

import pytest
import torch

from hf_asr.arguments import parse, parse_arguments
from hf_asr.cli import build_parser
from hf_asr.training.arguments import (
    ConformerTrainingArguments,
    DataArguments,
    ModelArguments,
)

CLASSES = (ModelArguments, DataArguments, ConformerTrainingArguments)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"dataset_name: data\noutput_dir: {tmp_path}/run\nlearning_rate: 1e-3\nmodel: {{hidden_size: 64}}\n"
        "augmentations:\n  - {name: Gain}\nexclude_speakers: [theo]\nprecision: fp32\n"
    )
    return path


def test_the_command_line_overrides_the_recipe(recipe):
    model, data, training = parse_arguments(CLASSES, ["--config", str(recipe), "--learning_rate", "0.5"])
    assert model.model == {"hidden_size": 64}
    assert (data.dataset_name, data.exclude_speakers, data.augmentations) == ("data", ["theo"], [{"name": "Gain"}])
    assert training.learning_rate == 0.5
    assert parse_arguments(CLASSES, ["--config", str(recipe)])[2].learning_rate == 1e-3  # YAML's 1e-3 is a string


def test_mappings_on_the_command_line_are_parsed_as_yaml(recipe):
    model, *_ = parse_arguments(CLASSES, ["--config", str(recipe), "--model", "{hidden_size: 32, causal_conv: true}"])
    assert model.model == {"hidden_size": 32, "causal_conv": True}


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(recipe, monkeypatch):
    monkeypatch.setenv("HOME", "/home/eve")
    recipe.write_text(
        "dataset_name: [{name: ~/d}]\nmodel_name_or_path: ~/m\naugmentations: '[{name: A, sounds_path: ~/n}]'\n"
    )
    model, data, _ = parse_arguments(CLASSES, [f"--config={recipe}", f"--output_dir={recipe.parent}"])
    assert data.sources()[0].name == "/home/eve/d" and model.model_name_or_path == "/home/eve/m"
    assert data.augmentations == [{"name": "A", "sounds_path": "/home/eve/n"}]
    args = parse(
        build_parser("transcribe"), ["--model_name_or_path=~/m", "--output_dir=~/x", "~/a.wav", "~b/c.wav", "d~/e.wav"]
    )
    assert args.model_name_or_path == "/home/eve/m" and args.output_dir == Path("/home/eve/x")
    assert args.paths == [Path("/home/eve/a.wav"), Path("~b/c.wav"), Path("d~/e.wav")]


def test_an_unknown_key_is_an_error_with_the_nearest_known_one(recipe, capsys):
    recipe.write_text(recipe.read_text() + "learning_rat: 1\n")
    with pytest.raises(SystemExit):
        parse_arguments(CLASSES, ["--config", str(recipe)])
    assert "unknown key 'learning_rat' (did you mean 'learning_rate'?)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_arguments(CLASSES, ["--output_dir", "x", "--max_batch_second", "3"])
    assert "did you mean '--max_batch_seconds'" in capsys.readouterr().err


@pytest.fixture
def cpu(monkeypatch):
    """Return a function that makes torch report a CPU with the given instructions."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)

    def has(*instructions: str) -> None:
        known = dict.fromkeys(["avx2", "avx512_bf16", "amx_bf16", "bf16"], False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known | dict.fromkeys(instructions, True))

    return has


def precision(tmp_path, **options) -> tuple[str, bool, bool]:
    args = ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    return args.precision, args.bf16, args.fp16


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        (["avx2"], ("fp32", False, False)),  # this CPU would emulate bf16
        (["avx2", "avx512_bf16"], ("bf16", True, False)),
        (["amx_bf16"], ("bf16", True, False)),
        (["bf16"], ("bf16", True, False)),  # the name on ARM
    ],
)
def test_precision_auto_follows_the_hardware(instructions, expected, cpu, tmp_path):
    cpu(*instructions)
    assert precision(tmp_path) == expected
    assert precision(tmp_path, precision="fp32") == ("fp32", False, False)
    assert precision(tmp_path, precision="bf16") == ("bf16", True, False)
    assert precision(tmp_path, bf16=True) == ("bf16", True, False)
    with pytest.raises(ValueError, match="precision must be auto, bf16, fp16 or fp32"):
        precision(tmp_path, precision="bf61")


def test_precision_auto_follows_the_config_file_of_accelerate(cpu, tmp_path, monkeypatch):
    cpu("avx2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision(tmp_path) == ("bf16", True, False)
    assert precision(tmp_path, precision="fp32") == ("fp32", False, False)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"  # accelerate reads the variable again
    assert precision(tmp_path) == ("fp32", False, False)  # accelerate launch sets "no" without a file
    cpu("avx512_bf16")
    assert precision(tmp_path) == ("bf16", True, False)


def test_cpu_threads_overrides_the_launcher(tmp_path):
    threads = torch.get_num_threads()
    try:
        ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, cpu_threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
