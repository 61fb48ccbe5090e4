import pytest
import torch

from hf_asr.training.arguments import (
    ConformerTrainingArguments,
    DataArguments,
    ModelArguments,
    has_bf16,
    parse_arguments,
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


def test_yaml_first_then_the_command_line(recipe):
    model, data, training = parse_arguments(CLASSES, ["--config", str(recipe), "--learning_rate", "0.5"])
    assert model.model == {"hidden_size": 64}
    assert (data.dataset_name, data.exclude_speakers, data.augmentations) == ("data", ["theo"], [{"name": "Gain"}])
    assert training.learning_rate == 0.5
    assert parse_arguments(CLASSES, ["--config", str(recipe)])[2].learning_rate == 1e-3  # YAML's 1e-3 is a string


def test_mappings_on_the_command_line_are_yaml(recipe):
    model, *_ = parse_arguments(CLASSES, ["--config", str(recipe), "--model", "{hidden_size: 32, causal_conv: true}"])
    assert model.model == {"hidden_size": 32, "causal_conv": True}


def test_a_misspelt_key_or_argument_is_named_with_the_nearest(recipe, capsys):
    recipe.write_text(recipe.read_text() + "learning_rat: 1\n")
    with pytest.raises(SystemExit):
        parse_arguments(CLASSES, ["--config", str(recipe)])
    assert "unknown key 'learning_rat' (did you mean 'learning_rate'?)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_arguments(CLASSES, ["--output_dir", "x", "--max_batch_second", "3"])
    assert "did you mean 'max_batch_seconds'" in capsys.readouterr().err


def test_precision_auto_follows_the_hardware(tmp_path):
    args = ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert args.bf16 == has_bf16(use_cpu=True) and args.precision == ("bf16" if args.bf16 else "fp32")
    assert not ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, precision="fp32").bf16
    with pytest.raises(ValueError, match="precision is auto, bf16, fp16 or fp32"):
        ConformerTrainingArguments(output_dir=str(tmp_path), precision="bf61")


def test_precision_auto_follows_the_file_that_accelerate_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert args.bf16 and args.precision == "bf16"
    assert not ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, precision="fp32").bf16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # what accelerate launch sets without a file
    assert ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True).bf16 == has_bf16(use_cpu=True)


def test_launchers_that_set_one_thread_do_not_leave_cores_idle(tmp_path):
    threads = torch.get_num_threads()
    try:
        ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, cpu_threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
