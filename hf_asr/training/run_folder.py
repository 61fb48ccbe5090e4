"""Manage the folder of a run: find the files that belong to the run, and replace an old run by a new one.

A run that overwrites another one is prepared inside it, in `unfinished`, so that a mistake costs nothing. When training
begins, that folder is renamed to `overwriting`, the old run is deleted, and the content of `overwriting` is moved up.
While `overwriting` exists, the files beside it belong to the old run: if a process is killed, the next run deletes
them.

Only files that hf_asr writes are deleted. Notes, exports in folders of their own and all other files are kept.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .. import model as model_package
from ..files import (
    CURVES,
    DATA_ARGUMENTS,
    DATA_REPORT,
    DATA_REPORT_PAGE,
    DECODING,
    EXPORT_REPORT,
    METRICS,
    PREDICTIONS,
    REPORT,
    TOKENS,
    TRAINING,
)
from ..hub.upload import MODEL_FILES

logger = logging.getLogger("hf_asr")

UNFINISHED = "unfinished"  # folder for incomplete files: a checkpoint, the result, a run that is prepared
OVERWRITING = "overwriting"
STATE = "trainer_state.json"
PROOFS = (DATA_REPORT, TRAINING)  # the first and the last file that every run writes
SCORES_BEFORE = "before.json"
BATCH_SECONDS = "max_batch_seconds.json"
FIGURES = (SCORES_BEFORE, BATCH_SECONDS)  # measured before the first step; a resumed run reads them
# They describe the weights beside them.
RESULTS = (METRICS, PREDICTIONS, REPORT, CURVES, DATA_ARGUMENTS, DECODING, TRAINING)
# Only the logs of this run: files.LOGS would also find those of another run in a folder below `runs`.
OWN_LOGS = "runs/*/events.out.tfevents.*"
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
    TOKENS,
    EXPORT_REPORT,
)
CHECKPOINT = re.compile(r"(damaged-)?checkpoint-\d+")


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the complete checkpoints of a folder, sorted by step."""
    found = [path.parent for path in Path(output_dir).glob(f"checkpoint-*/{STATE}")]
    return sorted((folder for folder in found if CHECKPOINT.fullmatch(folder.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def holds_results(output_dir: Path) -> bool:
    """Return whether the folder contains a model or a checkpoint."""
    return (output_dir / "config.json").exists() or bool(list_checkpoints(output_dir))


def is_run(output_dir: Path) -> bool:
    """Return whether the folder contains a run of hf_asr."""
    return any((output_dir / name).is_file() for name in PROOFS)


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether `path` is below `folder`, at any depth."""
    return folder.resolve() in path.resolve().parents


def run_files(output_dir: Path) -> Iterator[Path]:
    """Yield the files and folders that hf_asr writes into the folder of a run; `PROOFS` come last."""
    code = [path.name for path in Path(model_package.__file__).parent.glob("*_conformer.py")]
    names = [*(name for name in MODEL_FILES if not name.endswith(".py")), *code, *MORE_MODEL_FILES, *FIGURES, *RESULTS]
    names += [DATA_REPORT_PAGE, *(EXPORTS if (output_dir / EXPORT_REPORT).is_file() else ())]
    for name in names:
        yield from output_dir.glob(name)
        yield from output_dir.glob("{0.stem}.partial{0.suffix}".format(Path(name)))  # left by a killed process
    yield from (path for path in output_dir.glob("*checkpoint-*") if CHECKPOINT.fullmatch(path.name) and path.is_dir())
    yield from output_dir.glob(OWN_LOGS)
    card = output_dir / "README.md"
    if card.is_file() and "trained with hf_asr" in card.read_text(encoding="utf-8", errors="replace"):
        yield card
    yield from (output_dir / name for name in PROOFS if (output_dir / name).is_file())


def delete_run(output_dir: Path) -> None:
    """Delete a run; other files of the folder are kept."""
    for path in list(run_files(output_dir)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in [*output_dir.glob("runs/*/"), output_dir / "runs"]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def finish_overwriting(output_dir: Path) -> None:
    """Delete the rest of an old run if the process that deleted it was killed."""
    # While a run is overwritten, one of the two folders has the proof of a run; otherwise another program created it.
    if (output_dir / OVERWRITING).is_dir() and (is_run(output_dir) or is_run(output_dir / OVERWRITING)):
        delete_run(output_dir)
        shutil.rmtree(output_dir / OVERWRITING)


def prepare_folder(output_dir: Path, *, resume_from: Path | None, overwrites: bool, is_main: bool) -> Path:
    """Create and return the folder that a run writes into before training: the output folder, or one inside it.

    It is `output_dir / "unfinished"` if the run overwrites an old one. A run that is resumed in another folder copies
    the measurements that were made before its first step.
    """
    goes_on = resume_from is not None and is_inside(resume_from, output_dir)
    prepared = output_dir / UNFINISHED if overwrites and not goes_on and holds_results(output_dir) else output_dir
    if is_main:
        if is_run(output_dir):
            shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
        if prepared == output_dir and not goes_on and is_run(output_dir):
            # That run ended before its first checkpoint. Delete only what every run writes before training.
            for name in (DATA_REPORT, DATA_REPORT_PAGE, *FIGURES):
                (output_dir / name).unlink(missing_ok=True)
        prepared.mkdir(parents=True, exist_ok=True)
        for name in FIGURES:
            if resume_from is not None and not goes_on and (resume_from.parent / name).is_file():
                shutil.copyfile(resume_from.parent / name, prepared / name)
    return prepared


def begin_run(output_dir: Path, prepared: Path, *, resume_from: Path | None, overwrites: bool) -> None:
    """Delete the old run when training begins, and move the prepared files into the output folder.

    When a run is resumed, later checkpoints are deleted if the run overwrites them; otherwise they are damaged, and are
    renamed to `damaged-checkpoint-…`.
    """
    if prepared != output_dir:
        prepared.replace(output_dir / OVERWRITING)
        delete_run(output_dir)
        rest = sorted(path.name for path in output_dir.iterdir() if path.name != OVERWRITING)
        kept = f"; kept, because no run wrote them: {', '.join(rest)}" if rest else ""
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
    """Move the result from `unfinished` into the output folder; results of earlier weights are deleted first."""
    for name in RESULTS:
        (output_dir / name).unlink(missing_ok=True)
    for path in list((output_dir / UNFINISHED).iterdir()):
        path.replace(output_dir / path.name)
    (output_dir / UNFINISHED).rmdir()
