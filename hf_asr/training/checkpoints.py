"""Find the checkpoints of a run: complete and undamaged ones, those to keep, and the one to resume from."""

import fnmatch
import json
import logging
import math
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..files import WEIGHTS, write_text
from ..provenance import file_sha256
from .arguments import ConformerTrainingArguments
from .run_folder import STATE, holds_results, is_inside, is_run, list_checkpoints, step_of

logger = logging.getLogger("hf_asr")

CHECKSUMS = "checksums.json"
WEIGHT_FILES = ("*.safetensors", "pytorch_model*")  # the second pattern is FSDP's
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "optimizer_*")  # the last two patterns are FSDP's


def write_checksums(folder: Path) -> None:
    """Write the size and SHA-256 of each file of a checkpoint into checksums.json."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / CHECKSUMS
    }
    write_text(folder / CHECKSUMS, json.dumps(files, indent=2) + "\n")


def damage(folder: Path) -> str | None:
    """Return why a checkpoint cannot be resumed from; None if every file exists and is unchanged."""
    return altered(folder) or _missing(folder)


def altered(folder: Path, *, only: Sequence[str] = ("*",)) -> str | None:
    """Return which file of a checkpoint has changed since it was written; None if no file has.

    Args:
        only: Patterns of the file names to check.
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
    """Return which file of a checkpoint without checksums cannot be read; None if all can.

    For safetensors the header and the length are checked, because the format has no checksum.
    """
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
    """Return the missing files that resuming needs; without them, Trainer would silently start a new optimiser."""
    needed = {STATE: (STATE,), "rng_state.pth": ("rng_state*.pth",)}
    if not any(folder.glob("global_step*")):  # DeepSpeed saves the rest in that folder
        needed |= {
            WEIGHTS: ("*model*.safetensors", *WEIGHT_FILES[1:]),
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
    """Return the checkpoint that `resume_from_checkpoint` names (`true`: the last undamaged one); None for a new run.

    Args:
        base: The checkpoint that a new run fine-tunes.

    Raises:
        ValueError: The folder contains a run, and the arguments neither resume nor overwrite it, or would delete
            files that do not belong to a run; or the checkpoint does not exist or is damaged.
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
            logger.warning(f"{folder} is damaged ({problem}): the previous checkpoint is used")
        if complete:
            raise ValueError(
                f"{output_dir}: every checkpoint is damaged, the last one: {damage(complete[-1])}; if its weights are "
                f"undamaged, fine-tune them: model_name_or_path {complete[-1]} with another output_dir"
            )
        raise ValueError(
            f"{output_dir} contains no complete checkpoint to resume from: leave out resume_from_checkpoint"
        )
    folder = Path(asked)
    others = f"complete checkpoints of {output_dir}: {', '.join(path.name for path in complete) or 'none'}"
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder} is not a complete checkpoint; {others}")
    if (problem := damage(folder)) is not None:
        raise ValueError(f"{folder} is damaged: {problem}; {others}")
    if not is_inside(folder, output_dir):
        _check_may_begin(output_dir, args, base)
    later = [path.name for path in complete if step_of(path) > step_of(folder)]
    if is_inside(folder, output_dir) and later and not args.overwrite_output_dir:
        raise ValueError(
            f"{output_dir} contains later checkpoints than {folder.name}: {', '.join(later)}; overwrite_output_dir "
            "true deletes them, another output_dir keeps them"
        )
    return folder


def keep_optimizer_options(checkpoint: Path, args: ConformerTrainingArguments) -> None:
    """Set the options of the optimiser to those of a checkpoint, which goes on with them, and log each change."""
    kept, scheduler, optimizer = {}, checkpoint / "scheduler.pt", checkpoint / "optimizer.pt"
    if scheduler.is_file() and (rates := torch.load(scheduler, weights_only=True).get("base_lrs")):
        kept["learning_rate"] = max(rates)  # lower layers may have lower rates
    if optimizer.is_file():  # FSDP and DeepSpeed have other files
        groups = torch.load(optimizer, weights_only=True, mmap=True)["param_groups"]
        kept["weight_decay"] = max(group.get("weight_decay", args.weight_decay) for group in groups)
        kept["adam_beta1"], kept["adam_beta2"] = groups[0].get("betas", (args.adam_beta1, args.adam_beta2))
    for name, own in kept.items():
        if not math.isclose(own, given := getattr(args, name), rel_tol=1e-6):
            logger.warning(f"a resumed run keeps its {name}: {own:g}, not {given:g}")
            setattr(args, name, own)


def _check_may_begin(output_dir: Path, args: ConformerTrainingArguments, base: str | None) -> None:
    """Raise ValueError if a new run in the folder would destroy what it contains."""
    if not holds_results(output_dir):
        return
    if not is_run(output_dir):
        raise ValueError(f"{output_dir} contains a model that hf_asr did not train: choose another output_dir")
    if not args.overwrite_output_dir:
        raise ValueError(
            f"{output_dir} already contains a run: resume_from_checkpoint true continues it, overwrite_output_dir true "
            "deletes it and starts a new one, another output_dir keeps both"
        )
    if base is not None and Path(base).exists() and is_inside(Path(base) / "config.json", output_dir):
        raise ValueError(f"{base} is in the run that overwrite_output_dir deletes: choose another output_dir")


def scores(state_log: list[dict], *, metric: str) -> dict[int, float]:
    """Return {step: value} of a metric of each evaluation, from `log_history` of a trainer state."""
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    return {entry["step"]: entry[name] for entry in state_log if name in entry}


def chosen_checkpoints(
    folders: Iterable[Path], values: dict[int, float], *, count: int, by: str, greater_is_better: bool
) -> list[Path]:
    """Return `count` checkpoints: the best by `values` with `by="best"`, the last ones with `by="last"`."""
    complete = sorted(folders, key=step_of)
    if by == "last":
        return complete[max(0, len(complete) - count) :]
    scored = [folder for folder in complete if step_of(folder) in values]
    scored.sort(key=lambda folder: values[step_of(folder)], reverse=greater_is_better)
    return scored[:count]


def with_sound_weights(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the checkpoints whose weights are undamaged; log a warning for each other one."""
    for folder in folders:
        problem = altered(folder, only=WEIGHT_FILES)
        if not any(path for pattern in ("*model*.safetensors", "pytorch_model*") for path in folder.glob(pattern)):
            problem = problem or "its weights are missing"
        if problem is None:
            yield folder
        else:
            logger.warning(f"{folder} is damaged ({problem}): another checkpoint is used")


def delete_others(output_dir: str | Path, keep: list[Path], *, limit: int | None) -> None:
    """Delete the oldest checkpoints until at most `limit` are left; those to `keep` are never deleted."""
    if limit is None:
        return
    kept = {folder.resolve() for folder in keep}
    spare = [folder for folder in list_checkpoints(output_dir) if folder.resolve() not in kept]
    for folder in spare[: max(0, len(spare) - max(0, limit - len(kept)))]:
        shutil.rmtree(folder)
