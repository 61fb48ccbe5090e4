"""Measure a training with several threads alone and beside a busy process, by how long its threads wait in a loop.

    python benchmarks/threads.py [--threads 2] [--steps 40] [--rounds 3]

GNU OpenMP's threads wait for one another in a loop before they sleep; GOMP_SPINCOUNT is the number of its turns. Beside
another busy process, the one that is waited for may not run. Each value is measured in rounds, each run in a process of
its own. Leave the machine idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
from ablation import Task, load_recipe, time_recipe
from few_hours import RECIPE

from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus

SETTINGS = {
    "GNU's default": {"GOMP_SPINCOUNT": "300000"},
    "hf_asr": {"GOMP_SPINCOUNT": "3000"},
    "asleep": {"OMP_WAIT_POLICY": "passive"},
}
BUSY = [sys.executable, "-c", "while True: pass"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measured", type=Path, help=argparse.SUPPRESS)  # a process of its own: the corpus
    args = parser.parse_args()
    datasets.disable_progress_bars()
    if args.measured:
        recipe = load_recipe(RECIPE) | {"use_cpu": True, "cpu_threads": args.threads, "inspect_audio": False}
        task = Task("threads", str(args.measured), recipe)
        print(json.dumps(time_recipe(task, recipe, args.measured.parent / "run", steps=args.steps, seed=0)))
        return
    with tempfile.TemporaryDirectory() as name:
        sizes = SyntheticCorpusArguments(train_sentences=1000, validation_sentences=8)
        corpus = make_corpus(Path(name) / "corpus", sizes)
        rates = {(setting, is_beside): [] for setting in SETTINGS for is_beside in (False, True)}
        for _ in range(args.rounds):
            for (setting, is_beside), values in rates.items():
                values.append(steps_per_second(args, corpus, SETTINGS[setting], is_beside=is_beside))
    print(f"| {args.threads} threads wait as | steps a second alone | beside a busy process |\n|---|---|---|")
    for setting in SETTINGS:
        alone, beside = (statistics.median(rates[setting, is_beside]) for is_beside in (False, True))
        print(f"| {setting} | {alone:.2f} | {beside:.2f} |")


def steps_per_second(args: argparse.Namespace, corpus: Path, environment: dict, *, is_beside: bool) -> float:
    """Return the speed of a training in a new process, maybe beside one that is always busy."""
    busy = subprocess.Popen(BUSY) if is_beside else None
    try:
        command = [sys.executable, __file__, "--measured", corpus, "--threads", args.threads, "--steps", args.steps]
        inherited = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        done = subprocess.run(list(map(str, command)), env=inherited | environment, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        if busy:
            busy.kill()


if __name__ == "__main__":
    main()
