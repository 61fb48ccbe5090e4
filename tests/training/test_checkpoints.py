"""Which checkpoints a run resumes from, reports as damaged, and keeps."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import save_file

from hf_asr.training.arguments import ConformerTrainingArguments
from hf_asr.training.averaging import AVERAGE_FILE
from hf_asr.training.checkpoints import (
    CHECKSUMS,
    altered,
    chosen_checkpoints,
    damage,
    delete_others,
    find_checkpoint,
    scores,
    with_sound_weights,
    write_checksums,
)
from hf_asr.training.run_folder import list_checkpoints

FILES = ("model.safetensors", AVERAGE_FILE, "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth")


@pytest.fixture
def run(tmp_path):
    """A run of two processes with checkpoints at steps 2, 4, 10."""
    for step in (2, 4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for file in FILES:
            if file.endswith(".safetensors"):
                save_file({"w": torch.full((100,), float(step))}, folder / file)
            else:
                torch.save({"step": torch.full((100,), step)}, folder / file)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        write_checksums(folder)
    (tmp_path / "data_report.jsonl").touch()  # the proof of a run of hf_asr
    return tmp_path


def names(folders) -> list[str]:
    return [folder.name for folder in folders]


def find(run, value="true", *, base=None, **options):
    args = ConformerTrainingArguments(output_dir=str(run), resume_from_checkpoint=value, **options)
    return find_checkpoint(run, args, base=base)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    """Change a byte in the middle: in safetensors, that is in the numbers, and the length stays the same."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def remove(path):
    path.unlink()


HARM = [
    *((file, harm) for file in FILES for harm in (flip, remove)),
    ("model.safetensors", cut),
    ("optimizer.pt", cut),
    ("trainer_state.json", cut),
    (CHECKSUMS, cut),
]


@pytest.mark.parametrize(("file", "harm"), HARM)
def test_a_damaged_last_checkpoint_is_reported_and_the_previous_one_is_used(run, file, harm, caplog):
    assert find(run).name == "checkpoint-10"
    harm(run / "checkpoint-10" / file)
    caplog.set_level(logging.WARNING, logger="hf_asr")
    assert find(run).name == "checkpoint-4"
    assert f"{run / 'checkpoint-10'} is damaged ({file} " in caplog.text
    with pytest.raises(ValueError, match=f"checkpoint-10 is damaged: {file} .*checkpoint-2, checkpoint-4"):
        find(run, str(run / "checkpoint-10"))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("optimizer.pt", flip),
        ("optimizer.pt", remove),
        ("scheduler.pt", remove),
        ("model.safetensors", cut),
        ("model.safetensors", remove),
        ("trainer_state.json", cut),
        ("rng_state_0.pth", remove),
        ("rng_state_*.pth", remove),
    ],
)
def test_damage_of_a_checkpoint_without_checksums_is_found(run, file, harm):
    folder = run / "checkpoint-10"
    (folder / CHECKSUMS).unlink()
    assert damage(folder) is None
    for path in list(folder.glob(file)):
        harm(path)
    assert file.replace("_*", "") in damage(folder)
    assert find(run).name == "checkpoint-4"


def test_a_checkpoint_without_an_optimizer_is_damaged(run):
    """`save_only_model` writes such checkpoints, with correct checksums."""
    for file in ("optimizer.pt", "scheduler.pt"):
        (run / "checkpoint-10" / file).unlink()
    write_checksums(run / "checkpoint-10")
    assert altered(run / "checkpoint-10") is None
    assert damage(run / "checkpoint-10") == "optimizer.pt, scheduler.pt are missing"


@pytest.mark.parametrize(
    "files",
    [
        ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
        ("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt", "rng_state_0.pth"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp", "scheduler.pt", "rng_state_0.pth"),
        ("global_step2/mp_rank_00_model_states.pt", "rng_state_0.pth"),
    ],
)
def test_adapters_and_the_layouts_of_fsdp_and_deepspeed_are_complete(tmp_path, files):
    for name in (*files, "trainer_state.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"w": torch.zeros(1)}, path)
        elif name.endswith(".json"):
            path.write_text("{}")
        else:
            torch.save({}, path)
    assert damage(tmp_path) is None
    write_checksums(tmp_path)
    assert damage(tmp_path) is None
    flip(tmp_path / files[0])
    assert damage(tmp_path) == f"{files[0]} does not match its checksum"


def test_an_incomplete_checkpoint_is_not_listed(run):
    (run / "checkpoint-10" / "trainer_state.json").unlink()
    (run / "checkpoint-best").mkdir()
    (run / "checkpoint-best" / "trainer_state.json").write_text("{}")  # a copy that a user made
    assert names(list_checkpoints(run)) == ["checkpoint-2", "checkpoint-4"]


def test_resuming_never_mixes_two_runs(run, tmp_path_factory):
    """A checkpoint of another folder starts a new run; an earlier checkpoint of this folder removes the later ones."""
    other = tmp_path_factory.mktemp("other") / "checkpoint-4"
    shutil.copytree(run / "checkpoint-4", other)
    with pytest.raises(ValueError, match="already contains a run"):
        find(run, str(other))
    assert find(run, str(other), overwrite_output_dir=True) == other
    with pytest.raises(
        ValueError, match="contains later checkpoints than checkpoint-4: checkpoint-10; overwrite_output"
    ):
        find(run, str(run / "checkpoint-4"))
    assert find(run, str(run / "checkpoint-4"), overwrite_output_dir=True).name == "checkpoint-4"
    assert find(run, str(run / "checkpoint-10")).name == "checkpoint-10"


def test_overwriting_the_base_model_or_a_foreign_model_is_an_error(run):
    assert find(run, None, overwrite_output_dir=True) is None
    with pytest.raises(ValueError, match="checkpoint-4 is in the run that overwrite_output_dir deletes"):
        find(run, None, overwrite_output_dir=True, base=str(run / "checkpoint-4"))
    assert find(run, None, overwrite_output_dir=True, base="someone/model") is None
    (run / "data_report.jsonl").unlink()
    with pytest.raises(ValueError, match="contains a model that hf_asr did not train: choose another output_dir"):
        find(run, None, overwrite_output_dir=True)


def test_the_checkpoints_to_average_are_not_deleted(run):
    log = [{"step": 2, "eval_cer": 0.5}, {"step": 4, "loss": 1.0}, {"step": 4, "eval_cer": 0.2}]
    values = scores([*log, {"step": 10, "eval_cer": 0.3}], metric="cer")
    assert values == {2: 0.5, 4: 0.2, 10: 0.3}
    there = list_checkpoints(run)
    best = chosen_checkpoints(there, values, count=2, by="best", greater_is_better=False)
    assert names(best) == ["checkpoint-4", "checkpoint-10"]
    assert names(chosen_checkpoints(there, values, count=2, by="last", greater_is_better=False)) == names(best)
    assert chosen_checkpoints(there, values, count=0, by="last", greater_is_better=False) == []
    delete_others(run, best, limit=3)
    assert len(list_checkpoints(run)) == 3
    delete_others(run, best, limit=1)
    assert names(list_checkpoints(run)) == ["checkpoint-4", "checkpoint-10"]


@pytest.mark.parametrize("file", ["model.safetensors", AVERAGE_FILE])
def test_checkpoints_with_damaged_weights_are_skipped(run, file, caplog):
    flip(run / "checkpoint-4" / file)
    flip(run / "checkpoint-10" / "optimizer.pt")  # the result does not need it
    assert names(with_sound_weights(list_checkpoints(run))) == ["checkpoint-2", "checkpoint-10"]
    assert f"checkpoint-4 is damaged ({file} does not match its checksum)" in caplog.text
