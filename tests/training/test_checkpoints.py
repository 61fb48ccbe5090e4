import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from hf_asr.training.arguments import ConformerTrainingArguments
from hf_asr.training.checkpoints import (
    chosen_checkpoints,
    damage,
    delete_others,
    find_checkpoint,
    list_checkpoints,
    scores,
)


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at steps 2, 4, 10."""
    for step in (2, 4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": torch.full((100,), float(step))}, folder / "model.safetensors")
        torch.save({"step": torch.full((100,), step)}, folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return tmp_path


def names(folders) -> list[str]:
    return [folder.name for folder in folders]


def resume(run, value="true"):
    return find_checkpoint(run, ConformerTrainingArguments(output_dir=str(run), resume_from_checkpoint=value))


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "harm"),
    [("model.safetensors", cut), ("optimizer.pt", cut), ("optimizer.pt", flip), ("trainer_state.json", cut)],
)
def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(run, file, harm, caplog):
    assert resume(run).name == "checkpoint-10"
    harm(run / "checkpoint-10" / file)
    caplog.set_level(logging.WARNING, logger="hf_asr")
    assert resume(run).name == "checkpoint-4"
    assert f"checkpoint-10 is damaged ({file}: " in caplog.text
    with pytest.raises(ValueError, match=f"checkpoint-10 is damaged: {file}"):
        resume(run, str(run / "checkpoint-10"))


def test_an_unfinished_checkpoint_is_none(run):
    (run / "checkpoint-10" / "trainer_state.json").unlink()
    assert names(list_checkpoints(run)) == ["checkpoint-2", "checkpoint-4"]
    assert damage(run / "checkpoint-4") is None


def test_which_are_averaged_and_which_deleted(run):
    log = [{"step": 2, "eval_cer": 0.5}, {"step": 4, "loss": 1.0}, {"step": 4, "eval_cer": 0.2}]
    values = scores([*log, {"step": 10, "eval_cer": 0.3}], metric="cer")
    assert values == {2: 0.5, 4: 0.2, 10: 0.3}
    best = chosen_checkpoints(run, values, count=2, by="best", greater_is_better=False)
    assert names(best) == ["checkpoint-4", "checkpoint-10"]
    assert names(chosen_checkpoints(run, values, count=2, by="last", greater_is_better=False)) == names(best)
    delete_others(run, best, limit=3)
    assert len(list_checkpoints(run)) == 3
    delete_others(run, best, limit=1)
    assert names(list_checkpoints(run)) == ["checkpoint-4", "checkpoint-10"]
