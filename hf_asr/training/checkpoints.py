"""Checkpoints of a run on disk: which are complete, which are kept, which a run resumes from."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .arguments import ConformerTrainingArguments

logger = logging.getLogger("hf_asr")

UNFINISHED = "unfinished"  # the folder in which a checkpoint is written before it is renamed
STATE = "trainer_state.json"


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """The finished ones, oldest step first."""
    found = Path(output_dir).glob(f"checkpoint-*/{STATE}")
    return sorted((path.parent for path in found), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if they can be read to their ends."""
    for path in sorted(folder.iterdir()):
        try:
            if path.name == STATE:
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:  # holds the header against the file's length
                    file.keys()
            elif path.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(path) as archive:
                    if (bad := archive.testzip()) is not None:
                        return f"{path.name}: {bad} does not match its checksum"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.name}: {error}"
    return None


def find_checkpoint(output_dir: Path, args: ConformerTrainingArguments) -> Path | None:
    """The checkpoint to resume from, if `--resume_from_checkpoint` asks for one (`true`: the last that is whole).

    Raises:
        ValueError: The folder holds a run and nothing was said about it, or the checkpoint asked for is not there.
    """
    complete = list_checkpoints(output_dir)
    asked = args.resume_from_checkpoint
    if asked is None or str(asked).lower() == "false":
        holds_a_run = output_dir.is_dir() and (complete or (output_dir / "config.json").exists())
        if holds_a_run and not args.overwrite_output_dir:
            raise ValueError(
                f"{output_dir} already holds a run: --resume_from_checkpoint true goes on with it, "
                "--overwrite_output_dir true starts anew, another --output_dir keeps both"
            )
        return None
    if str(asked).lower() == "true":
        for folder in reversed(complete):
            problem = damage(folder)
            if problem is None:
                return folder
            logger.warning(f"{folder.name} is damaged ({problem}): resuming from the one before")
        raise ValueError(f"{output_dir} holds no complete checkpoint to resume from: leave out the argument")
    if not (Path(asked) / STATE).is_file():
        raise ValueError(f"{asked} is no complete checkpoint; in {output_dir}: {[path.name for path in complete]}")
    if (problem := damage(Path(asked))) is not None:
        raise ValueError(f"{asked} is damaged: {problem}; in {output_dir}: {[path.name for path in complete]}")
    return Path(asked)


def scores(state_log: list[dict], *, metric: str) -> dict[int, float]:
    """{step: value} of each evaluation, out of a trainer state's `log_history`."""
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    return {entry["step"]: entry[name] for entry in state_log if name in entry}


def chosen_checkpoints(
    output_dir: str | Path, values: dict[int, float], *, count: int, by: str, greater_is_better: bool
) -> list[Path]:
    """The `count` finished checkpoints to average: the best by `values`, or the last."""
    complete = list_checkpoints(output_dir)
    if by == "last":
        return complete[-count:]
    scored = [folder for folder in complete if _step(folder) in values]
    scored.sort(key=lambda folder: values[_step(folder)], reverse=greater_is_better)
    return scored[:count]


def delete_others(output_dir: str | Path, keep: list[Path], *, limit: int | None) -> None:
    """Deletes finished checkpoints, oldest first, until `limit` are left besides those to `keep`."""
    if limit is None:
        return
    kept = {folder.resolve() for folder in keep}
    spare = [folder for folder in list_checkpoints(output_dir) if folder.resolve() not in kept]
    for folder in spare[: max(0, len(spare) - max(0, limit - len(kept)))]:
        shutil.rmtree(folder)
