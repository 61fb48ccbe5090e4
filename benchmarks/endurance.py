"""Kill a small run ten times, resume it each time, and compare the weights with those of an uninterrupted run.

    python benchmarks/endurance.py [--kills 10] [--steps 44] [--processes 2] [--workers 1] [--precision bf16]

`kill -9` ends all processes of the run, alternately in the middle of a step or an evaluation and while a checkpoint is
written. The run is started again with --resume_from_checkpoint true until it ends by itself. If it is killed before its
first checkpoint, it starts from the beginning.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
import yaml
from safetensors.torch import load_file

from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus
from hf_asr.training.run_folder import UNFINISHED, list_checkpoints

RECIPE = {
    "model": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "subsampling_channels": 16},
    "text_normalization": "zh-en",
    "augmentations": [{"name": "SpeedPerturbation"}, {"name": "Gain", "p": 0.5}],
    "max_batch_seconds": 20,
    "eval_steps": 2,
    "save_steps": 2,
    "ema_decay": 0.9,
    "report_to": "none",
    "inspect_audio": False,
    "use_cpu": True,
}
TIME_LIMIT = 1800  # seconds; a run that takes longer hangs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=44)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="data loader workers of each process")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(folder / "corpus", SyntheticCorpusArguments(train_sentences=60, validation_sentences=8))
        recipes = {}
        for run in ("whole", "killed"):
            recipes[run] = folder / f"{run}.yaml"
            values = RECIPE | {"dataset_name": str(corpus), "output_dir": str(folder / run), "max_steps": args.steps}
            values |= {"precision": args.precision, "dataloader_num_workers": args.workers}
            recipes[run].write_text(yaml.safe_dump(values))
        log = folder / "log.txt"
        started = time.perf_counter()
        with start(recipes["whole"], log, processes=args.processes) as process:
            check(process.wait(TIME_LIMIT), log)
        print(f"uninterrupted: {time.perf_counter() - started:.0f} s", flush=True)

        kills = []
        while True:
            has_checkpoint = bool(list_checkpoints(folder / "killed"))
            more = ["--resume_from_checkpoint", "true"] if has_checkpoint else ["--overwrite_output_dir", "true"]
            with start(recipes["killed"], log, *more, processes=args.processes) as process:
                if len(kills) == args.kills:
                    check(process.wait(TIME_LIMIT), log)
                    break
                in_save = len(kills) % 2 == 1
                wait_for_moment(process, log, folder / "killed", in_save=in_save)
                if process.poll() is None:
                    kill(process)
                else:  # it ended before the last kill: start from the beginning
                    check(process.returncode, log)
                    subprocess.run(["rm", "-r", str(folder / "killed")], check=True)
                    continue
            unfinished = (folder / "killed" / UNFINISHED).exists()
            left = [path.name for path in list_checkpoints(folder / "killed")]
            kills.append({"in_save": unfinished, "left": left})
            print(f"kill {len(kills)}, in a checkpoint: {unfinished}; checkpoints: {left}", flush=True)

        count, files, different = compare_weights(folder / "whole", folder / "killed")
        in_save = sum(entry["in_save"] for entry in kills)
        print(
            f"{len(kills)} kills, {in_save} of them while a checkpoint was written; {count} tensors in {files} files, "
            f"{len(different)} differ from the uninterrupted run's"
        )
        print(json.dumps(vars(args) | {"kills": kills, "tensors": count, "different": different}))
        sys.exit(1 if different else 0)


def compare_weights(whole: Path, killed: Path) -> tuple[int, int, list[str]]:
    """Return the number of compared tensors and files, and the names of the tensors that differ."""
    files = [Path("model.safetensors")]
    files += [path.relative_to(whole) for path in whole.glob("checkpoint-*/*.safetensors")]
    different, count = [], 0
    for file in files:
        expected, found = load_file(whole / file), load_file(killed / file)
        assert expected.keys() == found.keys()
        count += len(expected)
        different += [f"{file}: {key}" for key in expected if not torch.equal(expected[key], found[key])]
    return count, len(files), different


def start(recipe: Path, log: Path, *more: str, processes: int) -> subprocess.Popen:
    """Start the run; write its output into `log`."""
    script = str(Path(__file__).resolve().parents[1] / "scripts" / "train.py")
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    with open(log, "w") as file:
        return subprocess.Popen([*launcher, script, "--config", str(recipe), *more], stdout=file, stderr=file)


def wait_for_moment(process: subprocess.Popen, log: Path, folder: Path, *, in_save: bool) -> None:
    """Wait until training runs, and then for a random time or until a checkpoint is being written."""
    deadline = time.monotonic() + TIME_LIMIT

    def wait_until(happened) -> float:
        started = time.monotonic()
        while not happened() and process.poll() is None:
            if time.monotonic() > deadline:
                kill(process)
                sys.exit(f"the run hung:\n{log.read_text()[-2000:]}")
            time.sleep(0.002)
        return time.monotonic() - started

    # The first evaluation prints "step N"; the second gives the time of the steps between two.
    wait_until(lambda: "\nstep " in log.read_text(errors="replace"))
    interval = wait_until(lambda: log.read_text(errors="replace").count("\nstep ") > 1)
    if in_save:
        wait_until(lambda: (folder / UNFINISHED).exists())
        time.sleep(random.uniform(0, 0.05))
    else:
        time.sleep(random.uniform(0, 1.5) * interval)


def kill(process: subprocess.Popen) -> None:
    """Kill the launcher and all its child processes with SIGKILL."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    for member in family:
        member.wait()


def check(returncode: int, log: Path) -> None:
    """Exit with the last output of the run if it failed."""
    if returncode:
        sys.exit(f"the run failed:\n{log.read_text(errors='replace')[-2000:]}")


if __name__ == "__main__":
    main()
