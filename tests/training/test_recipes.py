"""A mistake in a recipe or a mapping is an error of one line before any data are read."""

import pytest

from hf_asr.arguments import parse_arguments
from hf_asr.cli import main
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments

CLASSES = (ModelArguments, DataArguments, ConformerTrainingArguments)


def parsed(tmp_path, text: str, *argv: str) -> tuple:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: {tmp_path}/run\n{text}\n" if text[:1] not in '-"' else text)
    return parse_arguments(CLASSES, ["--config", str(path), *argv])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: abc", "invalid float value: 'abc'"),
        ("learning_rate: {a: 1}", "learning_rate: {'a': 1} has the wrong type; float is expected"),
        ("max_steps: 1.5", "max_steps: 1.5 has the wrong type; int is expected"),
        ("max_steps: null", "max_steps: None has the wrong type; int is expected"),
        ("max_duration_seconds: null", "max_duration_seconds: None has the wrong type; float is expected"),
        ("max_steps: [1]", "max_steps: [1] has the wrong type; int is expected"),
        ("use_cpu: 3", "use_cpu: 3 has the wrong type; bool is expected"),
        ("model: [5]", "model: [5] has the wrong type; dict | str is expected"),
        ("augmentations: {name: Gain}", "has the wrong type; list | str is expected"),
        ("vocabulary: {a: 1}", "vocabulary: {'a': 1} has the wrong type; str is expected"),
        ("- a\n- b", "a recipe is a mapping, 'argument: value' lines, not ['a', 'b']"),
        ("model: [", "recipe.yaml: while parsing a flow node"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_of_one_line(tmp_path, capsys, text, message):
    with pytest.raises(SystemExit) as stopped:
        parsed(tmp_path, text)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: 5", "model must be a mapping, as {a: 1}, not 5"),
        ("model: '{a'", "model is not YAML: while parsing"),
        ("augmentations: Gain", "augmentations must be a list of mappings, as .{name: A}., not 'Gain'"),
        ("feature_extractor: {num_mel_bins: many}", "num_mel_bins must be a whole number, not 'many'"),
        ("accelerator_config: {batches: 1}", "an argument has the wrong type: AcceleratorConfig"),
        ("greater_is_better: true", "greater_is_better must be false"),
        ("held_out_share: 0", "held_out_share must be between 0 and 1, not 0.0"),
    ],
)
def test_an_invalid_value_is_an_error_with_the_accepted_ones(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parsed(tmp_path, text)


def test_yaml_values_of_another_type_are_converted(tmp_path):
    text = "eval_strategy: no\nload_best_model_at_end: false\nmax_steps: 100.0\nexclude_speakers: [1, theo]"
    model, data, training = parsed(tmp_path, f"{text}\ndataset_name: 5\nmodel: {{layer_norm_eps: 1e-6}}")
    assert training.eval_strategy == "no" and training.max_steps == 100
    assert data.exclude_speakers == ["1", "theo"] and data.dataset_name == "5"
    assert parsed(tmp_path, "exclude_speakers: theo")[1].exclude_speakers == ["theo"]


@pytest.mark.parametrize("output_dir", ["file", "file/run"])
def test_an_output_dir_that_cannot_be_created_is_an_error(tmp_path, output_dir):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file, choose a folder"):
        ConformerTrainingArguments(output_dir=str(tmp_path / output_dir))


def test_an_error_of_the_preview_is_one_line(tmp_path, monkeypatch):
    def gone(*args, **kwargs):
        raise OSError("the disk\nis gone")

    monkeypatch.setattr("hf_asr.commands.augment_preview.load_splits", gone)
    with pytest.raises(SystemExit) as stopped:
        main(["augment-preview", "--dataset_name", str(tmp_path), "--output_dir", str(tmp_path / "run")])
    assert stopped.value.code == "error: the disk is gone"
