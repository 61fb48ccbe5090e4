"""Which files overwriting a run deletes and keeps, also if the process is killed."""

import logging
from pathlib import Path

import pytest

from hf_asr.training import run_folder
from hf_asr.training.run_folder import (
    OVERWRITING,
    UNFINISHED,
    begin_run,
    finish_overwriting,
    holds_results,
    is_run,
    list_checkpoints,
    prepare_folder,
)

RUN = (
    "model.safetensors",
    "config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.bin",
    "modeling_conformer.py",
    "metrics.json",
    "decoding.json",
    "metrics.partial.json",
    "training.json",
    "predictions.jsonl",
    "report.html",
    "curves.png",
    "before.json",
    "max_batch_seconds.json",
    "data_report.html",
    "data_report.jsonl",
    "README.md",
    "model.onnx",
    "tokens.txt",
    "export_report.json",
    "runs/Nov26_10-00-00_machine/events.out.tfevents.1.machine.1.0",
    "checkpoint-4/trainer_state.json",
    "checkpoint-4/model.safetensors",
    "damaged-checkpoint-8/model.safetensors",
    "unfinished/checkpoint-8/model.safetensors",
)
NOT_A_RUN = (
    "notes.txt",
    "corpus/train/metadata.csv",
    "onnx/model.onnx",
    "checkpoint-best/model.safetensors",
    "train_conformer.py",
    "runs/mine/model.safetensors",  # another run, if output_dir is the folder with all runs
    "runs/mine/runs/Nov26/events.out.tfevents.1.machine.1.0",
)


def write(folder: Path, names, text: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        about = "trained with hf_asr" if text != "mine" else "mine as well"
        (folder / name).write_text(f"---\n{text}\n{about}\n")


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text().split()[1] for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def old(tmp_path):
    write(tmp_path, RUN, "old")
    write(tmp_path, NOT_A_RUN, "mine")
    return tmp_path


def prepare(folder: Path, **options) -> Path:
    """Prepare a run as far as its data report."""
    options = {"resume_from": None, "overwrites": True} | options
    prepared = prepare_folder(folder, is_main=True, **options)
    assert prepare_folder(folder, is_main=False, **options) == prepared
    write(prepared, ["data_report.jsonl"], "new")
    return prepared


def test_the_old_run_is_complete_until_training_begins(old):
    before = files(old)
    assert prepare(old) == old / UNFINISHED
    kept = {name: text for name, text in before.items() if not name.startswith(UNFINISHED)}
    assert files(old) == kept | {"unfinished/data_report.jsonl": "new"}
    assert prepare(old) == old / UNFINISHED  # again, after an error


def test_beginning_a_run_deletes_the_old_run_and_keeps_other_files(old, caplog):
    caplog.set_level(logging.INFO, logger="hf_asr")
    begin_run(old, prepare(old), resume_from=None, overwrites=True)
    assert files(old) == dict.fromkeys(NOT_A_RUN, "mine") | {"data_report.jsonl": "new"}
    assert (
        "the old run is deleted; kept, because no run wrote them: checkpoint-best, corpus, notes.txt, onnx"
        in caplog.text
    )


@pytest.mark.parametrize("deletions", [0, 1, 5, 20])
def test_the_next_process_deletes_the_rest_if_one_is_killed(old, monkeypatch, deletions):
    left = iter(range(deletions))

    def unlink(path, missing_ok=False):
        next(left)  # StopIteration: kill -9
        path_unlink(path, missing_ok=missing_ok)

    path_unlink = Path.unlink
    prepared = prepare(old)
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(StopIteration):
        begin_run(old, prepared, resume_from=None, overwrites=True)
    monkeypatch.undo()
    assert (old / OVERWRITING).is_dir()
    finish_overwriting(old)
    assert files(old) == dict.fromkeys(NOT_A_RUN, "mine")
    assert not holds_results(old) and not is_run(old)


def test_no_run_is_left_if_a_process_is_killed_while_moving_files(old, monkeypatch):
    prepared = prepare(old)
    write(prepared, ["before.json"], "new")
    monkeypatch.setattr(Path, "rmdir", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begin_run(old, prepared, resume_from=None, overwrites=True)
    monkeypatch.undo()
    finish_overwriting(old)
    assert files(old) == dict.fromkeys(NOT_A_RUN, "mine")


def test_files_of_a_folder_without_a_run_are_kept(tmp_path):
    names = [name for name in (*RUN, *NOT_A_RUN) if name not in run_folder.PROOFS and "unfinished" not in name]
    names = [name for name in names if name != "config.json" and "trainer_state" not in name]
    write(tmp_path, names, "mine")
    begin_run(tmp_path, prepare(tmp_path), resume_from=None, overwrites=True)
    assert files(tmp_path) == dict.fromkeys(names, "mine") | {"data_report.jsonl": "new"}


def test_other_folders_of_the_same_names_are_kept(tmp_path):
    others = ["overwriting/notes.txt", "unfinished/novel.txt", "README.md"]
    write(tmp_path, others, "mine")
    finish_overwriting(tmp_path)
    prepare(tmp_path, overwrites=False)
    assert files(tmp_path) == dict.fromkeys(others, "mine") | {"data_report.jsonl": "new"}


def test_files_of_a_run_without_a_checkpoint_are_deleted(tmp_path):
    write(tmp_path, ["data_report.jsonl", "data_report.html", "before.json"], "old")
    others = [
        *NOT_A_RUN,
        "metrics.json",
        "decoding.json",
        "runs/Nov26/events.out.tfevents.1.m.1.0",
        "checkpoint-5/mine.txt",
        "README.md",
    ]
    write(tmp_path, others, "mine")
    begin_run(tmp_path, prepare(tmp_path, overwrites=False), resume_from=None, overwrites=False)
    assert files(tmp_path) == dict.fromkeys(others, "mine") | {"data_report.jsonl": "new"}


@pytest.mark.parametrize("overwrites", [True, False])
def test_resuming_from_an_earlier_step_removes_later_checkpoints(old, overwrites):
    for step in (8, 12):
        write(old, [f"checkpoint-{step}/trainer_state.json"], "old")
    prepared = prepare(old, resume_from=old / "checkpoint-4", overwrites=overwrites)
    assert prepared == old
    begin_run(old, prepared, resume_from=old / "checkpoint-4", overwrites=overwrites)
    assert [path.name for path in list_checkpoints(old)] == ["checkpoint-4"]
    damaged = sorted(path.name for path in old.glob("damaged-*"))
    assert damaged == ([] if overwrites else ["damaged-checkpoint-12", "damaged-checkpoint-8"])
    assert (old / "model.safetensors").exists() and not (old / UNFINISHED).exists()


def test_a_run_resumed_in_another_folder_copies_its_first_measurements(old, tmp_path_factory):
    new = tmp_path_factory.mktemp("new")
    prepare(new, resume_from=old / "checkpoint-4", overwrites=False)
    assert files(new) == {"before.json": "old", "max_batch_seconds.json": "old", "data_report.jsonl": "new"}
