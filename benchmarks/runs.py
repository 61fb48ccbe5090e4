"""Run many trainings, several at a time, and store what each of them found, so that a sitting can be interrupted."""

import json
import os
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path

from hf_asr.files import write_text
from hf_asr.training.run_folder import list_checkpoints

# Training arguments of a run with one thread, which also reads the data
ONE_THREAD = {"use_cpu": True, "cpu_threads": 1, "dataloader_num_workers": 0}


def fresh_processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool in which each call has its own process, as a user's run has."""
    fresh = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}
    # The data loader's workers of these processes are forked, as in a user's run on Linux.
    return ProcessPoolExecutor(workers, **fresh, initializer=set_start_method, initargs=("fork", True))


def run_missing(function: Callable[..., dict], runs: dict[Path, tuple], *, workers: int) -> None:
    """Call `function` with the arguments of each run whose file does not exist, and write its result into the file.

    A run that fails is reported, and the others continue.

    Args:
        workers: Number of processes that run at a time, with one thread each.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    missing = {path: arguments for path, arguments in runs.items() if not path.is_file()}
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished", flush=True)
    with fresh_processes(workers) as pool:
        futures = [pool.submit(_run, function, path, arguments) for path, arguments in missing.items()]
        for future in futures:
            future.result()  # raises an error if the system has ended a process


def _run(function: Callable[..., dict], path: Path, arguments: tuple) -> None:
    """Write the result of a run into its file; print what happened."""
    print(f"{path.stem} starts", flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(function(*arguments)))
        print(f"{path.stem} is finished", flush=True)
    except Exception:
        print(f"{path.stem} failed: {traceback.format_exc()}", flush=True)


def file_name(*parts: object) -> str:
    """Return the parts, separated by hyphens, without spaces and commas."""
    return "-".join(map(str, parts)).replace(",", "").replace(" ", "_")


def read_finished(paths: Iterable[Path]) -> list[dict]:
    """Return what the finished runs found: the content of the files that exist."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def resuming(folder: Path) -> dict:
    """Return the training arguments that resume the run in a folder; those of a new run without a checkpoint."""
    is_begun = bool(list_checkpoints(folder))
    return {"resume_from_checkpoint": "true" if is_begun else None, "overwrite_output_dir": not is_begun}
