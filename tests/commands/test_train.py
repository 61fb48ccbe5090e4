"""Options that contradict the recipe, and the command line that training.json records."""

import pytest

from hf_asr.cli import main
from hf_asr.commands.train import command_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_train_epochs", "2"], "--num_train_epochs has no effect, because max_steps is 4 in "),
        (["--dataset_name", "google/fleurs"], "makes a synthetic corpus there. To train on recordings, add"),
    ],
)
def test_an_option_that_the_recipe_makes_useless_is_an_error(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    recipe = "max_steps: 4\noutput_dir: run\ndataset_name: corpus\nsynthetic_corpus: {languages: [en]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--config", "recipe.yaml", *arguments])
    assert message in stopped.value.code and "\n" not in stopped.value.code
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        (["scripts/train.py", "--config", "a b.yaml"], {}, "python scripts/train.py --config 'a b.yaml'"),
        (["/usr/bin/hf-asr", "train", "--max_steps", "9"], {}, "hf-asr train --max_steps 9"),
        (["s.py"], {"ACCELERATE_MIXED_PRECISION": "no"}, "accelerate launch s.py"),
        (["s.py"], {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, "torchrun --nproc_per_node 2 s.py"),
        (["s.py", "--hub_token", "hf_x", "--hub_token=hf_x"], {}, "python s.py --hub_token … --hub_token=…"),
        (["s.py", "--output_dir", "/home/me/runs", "--x=/a/b c"], {}, "python s.py --output_dir runs '--x=b c'"),
    ],
)
def test_the_recorded_command_has_no_tokens_and_no_paths(monkeypatch, argv, environment, expected):
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == expected
