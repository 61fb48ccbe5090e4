"""Checkpoints of a run on disk: which are complete and undamaged, which are kept, which a run resumes from."""

import fnmatch
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..files import write_text
from ..provenance import file_sha256
from .arguments import ConformerTrainingArguments
from .run_folder import STATE, holds_results, is_inside, is_run, list_checkpoints, step_of

logger = logging.getLogger("hf_asr")

CHECKSUMS = "checksums.json"
WEIGHT_FILES = ("*.safetensors", "pytorch_model*")  # adapters and the moving average, and FSDP's
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "optimizer_*")  # Trainer's, and FSDP's whole or sharded one


def write_checksums(folder: Path) -> None:
    """Write the size and SHA-256 of each file of a checkpoint into checksums.json."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / CHECKSUMS
    }
    write_text(folder / CHECKSUMS, json.dumps(files, indent=2) + "\n")


def damage(folder: Path) -> str | None:
    """Say what keeps a checkpoint from being resumed from; None if every file is there, as it was written."""
    return altered(folder) or _missing(folder)


def altered(folder: Path, *, only: Sequence[str] = ("*",)) -> str | None:
    """Say which file of a checkpoint is not as it was written; None if all are.

    Args:
        only: Patterns of the names to look at, where the other files are not needed.
    """
    if not (folder / CHECKSUMS).is_file():  # written by an older version
        return _unreadable(folder, only=only)
    name = CHECKSUMS
    try:
        for name, expected in json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")).items():
            path = folder / name
            if not any(fnmatch.fnmatch(name, pattern) for pattern in only):
                continue
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["size"]:
                return f"{name} has {path.stat().st_size} bytes, {expected['size']} were written"
            if file_sha256(path) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except OSError as error:
        return f"{name}: {error}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUMS} cannot be read"
    return None


def _unreadable(folder: Path, *, only: Sequence[str]) -> str | None:
    """Say which file cannot be read to its end; safetensors have a header and a length to compare, and no checksum."""
    for path in sorted({path for pattern in only for path in folder.glob(pattern)}):
        try:
            if path.name == STATE:
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    file.keys()
            elif path.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(path) as archive:
                    if (bad := archive.testzip()) is not None:
                        return f"{path.name}: {bad} does not match its checksum"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.name}: {error}"
    return None


def _missing(folder: Path) -> str | None:
    """Say which of the files that resuming needs are not there; without them Trainer goes on from a new optimiser."""
    needed = {STATE: (STATE,), "rng_state.pth": ("rng_state*.pth",)}
    if not any(folder.glob("global_step*")):  # DeepSpeed's folder holds the rest
        needed |= {
            "model.safetensors": ("*model*.safetensors", *WEIGHT_FILES[1:]),
            "optimizer.pt": OPTIMIZER_FILES,
            "scheduler.pt": ("scheduler.pt",),
        }
    missing = [
        name for name, patterns in needed.items() if not any(path for glob in patterns for path in folder.glob(glob))
    ]
    ranks = {int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"rng_state_(\d+)\.pth", path.name))}
    missing += [f"rng_state_{rank}.pth" for rank in sorted(set(range(max(ranks, default=-1))) - ranks)]
    if index := next(folder.glob("*.safetensors.index.json"), None):
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing += [name for name in sorted(parts) if not (folder / name).is_file()]
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else None


def find_checkpoint(output_dir: Path, args: ConformerTrainingArguments, *, base: str | None = None) -> Path | None:
    """The checkpoint to resume from, if `--resume_from_checkpoint` asks for one (`true`: the last that is undamaged).

    Args:
        base: The checkpoint that a new run begins with.

    Raises:
        ValueError: The folder holds a run and no argument says what becomes of it, or it cannot become that, or the
            checkpoint asked for is not there or is damaged.
    """
    asked, complete = args.resume_from_checkpoint, list_checkpoints(output_dir)
    if asked is None or str(asked).lower() == "false":
        _check_may_begin(output_dir, args, base)
        return None
    if str(asked).lower() == "true":
        for folder in reversed(complete):
            problem = damage(folder)
            if problem is None:
                return folder
            logger.warning(f"{folder} is damaged ({problem}): resuming from the one before")
        if complete:
            raise ValueError(
                f"{output_dir}: every checkpoint is damaged, the last one: {damage(complete[-1])}; if its weights are "
                f"whole, --model_name_or_path {complete[-1]} with another --output_dir trains on from them"
            )
        raise ValueError(f"{output_dir} holds no complete checkpoint to resume from: leave out the argument")
    folder = Path(asked)
    there = f"in {output_dir}: {', '.join(path.name for path in complete) or 'none'}"
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder} is no complete checkpoint; {there}")
    if (problem := damage(folder)) is not None:
        raise ValueError(f"{folder} is damaged: {problem}; {there}")
    if not is_inside(folder, output_dir):
        _check_may_begin(output_dir, args, base)
    later = [path.name for path in complete if step_of(path) > step_of(folder)]
    if is_inside(folder, output_dir) and later and not args.overwrite_output_dir:
        raise ValueError(
            f"{output_dir} holds later checkpoints than {folder.name}: {', '.join(later)}; --overwrite_output_dir true "
            "deletes them, another --output_dir keeps them"
        )
    return folder


def _check_may_begin(output_dir: Path, args: ConformerTrainingArguments, base: str | None) -> None:
    """Raise ValueError if a run must not begin in the folder, because of what it holds."""
    if not holds_results(output_dir):
        return
    if not is_run(output_dir):
        raise ValueError(f"{output_dir} holds a model that is no run of hf_asr's: give another --output_dir")
    if not args.overwrite_output_dir:
        raise ValueError(
            f"{output_dir} already holds a run: --resume_from_checkpoint true goes on with it, "
            "--overwrite_output_dir true deletes it and starts anew, another --output_dir keeps both"
        )
    if base is not None and Path(base).exists() and is_inside(Path(base) / "config.json", output_dir):
        raise ValueError(f"{base} is in the run that --overwrite_output_dir deletes: give another --output_dir")


def scores(state_log: list[dict], *, metric: str) -> dict[int, float]:
    """{step: value} of each evaluation, out of a trainer state's `log_history`."""
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    return {entry["step"]: entry[name] for entry in state_log if name in entry}


def chosen_checkpoints(
    folders: Iterable[Path], values: dict[int, float], *, count: int, by: str, greater_is_better: bool
) -> list[Path]:
    """The `count` checkpoints to take: the best by `values`, or the last."""
    complete = sorted(folders, key=step_of)
    if by == "last":
        return complete[max(0, len(complete) - count) :]
    scored = [folder for folder in complete if step_of(folder) in values]
    scored.sort(key=lambda folder: values[step_of(folder)], reverse=greater_is_better)
    return scored[:count]


def with_sound_weights(folders: Iterable[Path]) -> Iterator[Path]:
    """Those whose weights are as they were written, read one by one; a warning names the others."""
    for folder in folders:
        problem = altered(folder, only=WEIGHT_FILES)
        if not any(path for pattern in ("*model*.safetensors", "pytorch_model*") for path in folder.glob(pattern)):
            problem = problem or "its weights are missing"
        if problem is None:
            yield folder
        else:
            logger.warning(f"{folder} is damaged ({problem}): another checkpoint takes its place")


def delete_others(output_dir: str | Path, keep: list[Path], *, limit: int | None) -> None:
    """Deletes finished checkpoints, oldest first, until `limit` are left besides those to `keep`."""
    if limit is None:
        return
    kept = {folder.resolve() for folder in keep}
    spare = [folder for folder in list_checkpoints(output_dir) if folder.resolve() not in kept]
    for folder in spare[: max(0, len(spare) - max(0, limit - len(kept)))]:
        shutil.rmtree(folder)
