"""The command line that training.json records."""

import pytest

from hf_asr.commands.train import command_line


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
