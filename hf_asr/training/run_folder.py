"""The folder of a run: which of its files are the run's, and how a new run takes the place of an old one.

A run that overwrites another is prepared beside it, in `unfinished`, so that a mistake costs nothing. As training
begins, that folder is renamed `overwriting`, the old run is deleted, and what was prepared moves up. As long as
`overwriting` is there, what lies beside it is the old run's: the next process deletes what a killed one left.

Only what hf_asr itself writes is deleted. Notes, exports in folders of their own and everything else stay.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .. import model as model_package
from ..hub.upload import MODEL_FILES

logger = logging.getLogger("hf_asr")

UNFINISHED = "unfinished"  # what is not yet whole is written there: a checkpoint, the result, a run to be begun
OVERWRITING = "overwriting"
STATE = "trainer_state.json"
PROOFS = ("data_report.jsonl", "training.json")  # which every run of ours writes first and last
FIGURES = ("before.json", "max_batch_seconds.json")  # found before the first step, read again by a resumed run
RESULTS = (  # of the weights beside them
    "metrics.json",
    "predictions.jsonl",
    "report.html",
    "curves.png",
    "data_arguments.json",
    "training.json",
)
LOGS = "runs/*/events.out.tfevents.*"
MORE_MODEL_FILES = (
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "training_args.bin",
)
EXPORTS = (
    "model*.onnx",
    "model*.onnx.data",
    "model*.xml",
    "model*.bin",
    "tensorrt_*",
    "tokens.txt",
    "export_report.json",
)
CHECKPOINT = re.compile(r"(damaged-)?checkpoint-\d+")


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """The finished ones, oldest step first."""
    found = [path.parent for path in Path(output_dir).glob(f"checkpoint-*/{STATE}")]
    return sorted((folder for folder in found if CHECKPOINT.fullmatch(folder.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimiser steps after which it was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def holds_results(output_dir: Path) -> bool:
    """Whether there is a model or a checkpoint in the folder."""
    return (output_dir / "config.json").exists() or bool(list_checkpoints(output_dir))


def is_run(output_dir: Path) -> bool:
    """Whether hf_asr has trained into the folder."""
    return any((output_dir / name).is_file() for name in PROOFS)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` lies somewhere below `folder`."""
    return folder.resolve() in path.resolve().parents


def run_files(output_dir: Path) -> Iterator[Path]:
    """The files and folders that hf_asr writes into the folder of a run, the proofs that it is one last."""
    code = [path.name for path in Path(model_package.__file__).parent.glob("*_conformer.py")]
    names = [*(name for name in MODEL_FILES if not name.endswith(".py")), *code, *MORE_MODEL_FILES, *FIGURES, *RESULTS]
    names += ["data_report.html", *(EXPORTS if (output_dir / "export_report.json").is_file() else ())]
    for name in names:
        yield from output_dir.glob(name)
        yield from output_dir.glob("{0.stem}.partial{0.suffix}".format(Path(name)))  # left by a killed process
    yield from (path for path in output_dir.glob("*checkpoint-*") if CHECKPOINT.fullmatch(path.name) and path.is_dir())
    yield from output_dir.glob(LOGS)
    card = output_dir / "README.md"
    if card.is_file() and "trained with hf_asr" in card.read_text(encoding="utf-8", errors="replace"):
        yield card
    yield from (output_dir / name for name in PROOFS if (output_dir / name).is_file())


def delete_run(output_dir: Path) -> None:
    """Delete a run and leave the rest of the folder."""
    for path in list(run_files(output_dir)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in [*output_dir.glob("runs/*/"), output_dir / "runs"]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def finish_overwriting(output_dir: Path) -> None:
    """Delete what is left of an old run where the process that deleted it was killed meanwhile."""
    # At any moment one of the two has the proof of a run; without it the folder of that name is somebody else's.
    if (output_dir / OVERWRITING).is_dir() and (is_run(output_dir) or is_run(output_dir / OVERWRITING)):
        delete_run(output_dir)
        shutil.rmtree(output_dir / OVERWRITING)


def prepare_folder(output_dir: Path, *, resume_from: Path | None, overwrites: bool, is_main: bool) -> Path:
    """Return where a run writes what it finds before training: in the folder itself, or beside an old run.

    A run that is resumed in another folder takes along what it found when it began.
    """
    goes_on = resume_from is not None and is_inside(resume_from, output_dir)
    prepared = output_dir / UNFINISHED if overwrites and not goes_on and holds_results(output_dir) else output_dir
    if is_main:
        if is_run(output_dir):
            shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
        if prepared == output_dir and not goes_on and is_run(output_dir):
            # It ended before its first checkpoint: what else is there may be anybody's, and nobody asked.
            for name in (PROOFS[0], "data_report.html", *FIGURES):
                (output_dir / name).unlink(missing_ok=True)
        prepared.mkdir(parents=True, exist_ok=True)
        for name in FIGURES:
            if resume_from is not None and not goes_on and (resume_from.parent / name).is_file():
                shutil.copyfile(resume_from.parent / name, prepared / name)
    return prepared


def begin_run(output_dir: Path, prepared: Path, *, resume_from: Path | None, overwrites: bool) -> None:
    """Make the folder that of this run alone, as training begins.

    An old run is deleted. Checkpoints later than the one that is resumed from are deleted where the run overwrites, and
    else, where they are damaged, renamed.
    """
    if prepared != output_dir:
        prepared.replace(output_dir / OVERWRITING)
        delete_run(output_dir)
        rest = sorted(path.name for path in output_dir.iterdir() if path.name != OVERWRITING)
        kept = f"; not a run's, and kept: {', '.join(rest)}" if rest else ""
        logger.info(f"{output_dir}: the old run is deleted{kept}")
        for path in list((output_dir / OVERWRITING).iterdir()):
            path.replace(output_dir / path.name)
        (output_dir / OVERWRITING).rmdir()
    elif resume_from is not None and is_inside(resume_from, output_dir):
        for later in list_checkpoints(output_dir):
            if step_of(later) > step_of(resume_from):
                damaged = later.with_name(f"damaged-{later.name}")
                shutil.rmtree(damaged, ignore_errors=True)
                later.replace(damaged)
                if overwrites:
                    shutil.rmtree(damaged)


def replace_result(output_dir: Path) -> None:
    """Move a result out of `unfinished` to its place; figures and pictures of earlier weights go first."""
    for name in RESULTS:
        (output_dir / name).unlink(missing_ok=True)
    for path in list((output_dir / UNFINISHED).iterdir()):
        path.replace(output_dir / path.name)
    (output_dir / UNFINISHED).rmdir()
