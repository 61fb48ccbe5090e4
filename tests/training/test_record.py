"""What training.json says of a run, and what it keeps to itself."""

import pytest
import torch
from transformers.trainer_callback import TrainerState

from hf_asr.provenance import public_name, weights_sha256
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.record import command_line, training_record


def test_how_the_weights_came_to_be(checkpoint, corpus):
    state = TrainerState(global_step=7, epoch=1.5, log_history=[{"step": 7, "train_runtime": 12.34}])
    record = training_record(
        ModelArguments(model_name_or_path=str(checkpoint)),
        DataArguments(dataset_name=f"[{{name: {corpus}}}, {{name: owner/speech, weight: 2}}]"),
        ConformerTrainingArguments(output_dir=str(checkpoint), precision="fp32", learning_rate=2e-3),
        state,
        scored={"dataset": "spoken, owner/speech", "split": "train", "selection": {"held_out_share": 0.05}},
        durations=[1800.0, 1800.0],
        is_resumed=False,
    )
    assert record["datasets"] == [
        {"name": "spoken", "config": None, "split": "train"},
        {"name": "owner/speech", "config": None, "split": "train"},
    ]
    assert record["chosen_on"]["split"] == "train" and record["chosen_on"]["selection"] == {"held_out_share": 0.05}
    assert record["base_model"] == checkpoint.name and record["model_sha256"] == weights_sha256(checkpoint)
    assert (record["hours"], record["utterances"], record["steps"], record["seconds"]) == (1.0, 2, 7, 12.3)
    assert record["recipe"]["learning_rate"] == 2e-3 and record["recipe"]["augmentations"] == []
    assert record["precision"] == "fp32" and record["processes"] == 1
    if not torch.cuda.is_available():
        assert record["hardware"].endswith(f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")
    assert record["versions"]["transformers"]


@pytest.mark.parametrize(
    ("argv", "environment", "told"),
    [
        (["scripts/train.py", "--config", "a b.yaml"], {}, "python scripts/train.py --config 'a b.yaml'"),
        (["/usr/bin/hf-asr", "train", "--max_steps", "9"], {}, "hf-asr train --max_steps 9"),
        (["s.py"], {"ACCELERATE_MIXED_PRECISION": "no"}, "accelerate launch s.py"),
        (["s.py"], {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, "torchrun --nproc_per_node 2 s.py"),
        (["s.py", "--hub_token", "hf_x", "--hub_token=hf_x"], {}, "python s.py --hub_token … --hub_token=…"),
        (["s.py", "--output_dir", "/home/me/runs", "--x=/a/b c"], {}, "python s.py --output_dir runs '--x=b c'"),
    ],
)
def test_the_command_as_somebody_would_type_it(monkeypatch, argv, environment, told):
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == told


def test_where_data_lie_is_nobody_elses_matter(tmp_path):
    (tmp_path / "mine").mkdir()
    assert public_name(str(tmp_path / "mine")) == "mine"
    assert public_name("owner/speech") == "owner/speech"
    assert public_name("imdb") == "imdb"
