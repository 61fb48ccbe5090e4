"""Compare the article's plain loop, the recipe for a few hours, and each of its levers, with half an hour for each run.

    python benchmarks/ablation_long.py --data ../shared/data [--minutes 30] [--tasks sentences_zh sentences_en spoken]
        [--variants recipe "with SpecAugment" …] [--seeds 0 1] [--only_finished]
    python benchmarks/ablation_long.py … --gpu --jobs 12    # with the speeds that a CPU has measured

This is the second part of ablation.py, whose five minutes are too short for many levers: the models stay on CTC's
plateau. All variants have the same data, model and time. First the speed of each variant is measured with one thread:
leave the machine idle until "speeds" is printed. The time is then converted to a number of steps, so that other work
does not change the results. Then two runs at a time are trained, with one thread each.

Speeds and finished runs are stored in --output_dir and are not repeated; a run of the recipe that was interrupted
continues from its last checkpoint. With --gpu the runs are trained on a GPU, for as many steps as one CPU thread
computes in the time. The seeds of a variant are averaged.

Tasks: sentences_zh; sentences_en, whose validation has speakers that are not in the training; and the synthetic corpus
of ablation.py with voices left out, clean and with noise at 5 dB that is not in the training.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
import numpy as np
from ablation import (
    LEVERS,
    PLAIN_MODEL,
    RATES,
    Task,
    arguments,
    cer,
    changed,
    load_recipe,
    measure_speeds,
    plain_loop,
    plain_setup,
    score,
    split_noise,
    spoken_task,
    time_aligning,
    with_noise,
)
from few_hours import MASKS, NO_REGULARIZATION, RECIPE
from runs import ONE_THREAD, file_name, fresh_processes, read_finished, resuming, run_missing

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.sources import Source, read_row
from hf_asr.files import write_text
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit
from hf_asr.training.run_folder import list_checkpoints

TASKS = ("sentences_zh", "sentences_en", "spoken")
OUR_START = "plain, with our initialisation"
PLAIN = {f"plain, rate {rate:g}": rate for rate in RATES} | {OUR_START: 1e-3}  # learning rates
CR_CTC, SYNTHETIC, WITHOUT_SPLICING = "with CR-CTC", "with synthetic speech", "without splicing"
ALIGNING = "seconds of aligning"  # beside the speeds of a task
CHECKPOINTS = 6  # of a run


def variants(task: str, steps: int) -> dict[str, dict]:
    """Return the changes of each variant to the recipe, for a run of `steps`."""
    found = {
        "recipe": {},
        "with SpecAugment": {"model": MASKS},
        "with label smoothing 0.1": LEVERS["with label smoothing 0.1"],
        CR_CTC: {"model": MASKS | {"consistency_weight": 0.2}},
        "with an attention decoder": LEVERS["with an attention decoder"],
        "without phonemes": {"model": {"phoneme_language": None}},
        "without shared rows": {"model": {"num_sounds": 0}},
        WITHOUT_SPLICING: {"splicing": None},
        "without intermediate CTC": {"model": {"intermediate_ctc_layers": []}},
        "with E-Branchformer blocks": LEVERS["with E-Branchformer blocks"],
        "without the moving average": LEVERS["without the moving average"],
        SYNTHETIC: {"warm_start": {"steps": steps // 4, "share": 0.5, "fade_steps": steps // 4}},
    }
    if task == "spoken":  # warm_start speaks in all voices of espeak-ng, also in those that are left out for the test
        del found[SYNTHETIC]
    return found


@dataclass
class Run:
    """One training."""

    task: str
    variant: str
    minutes: float
    seed: int

    def path(self, output_dir: Path) -> Path:
        """Return where the result is stored."""
        return output_dir / "runs" / f"{file_name(*asdict(self).values())}.json"


def load_task(name: str, data: Path, output_dir: Path, *, seed: int = 0, on_gpu: bool = False) -> Task:
    """Return a task with the recipe for a few hours."""
    place = {"dataloader_num_workers": 1} if on_gpu else ONE_THREAD
    recipe = load_recipe(RECIPE) | place | {"inspect_audio": False, "seed": seed}
    if name == "spoken":
        files, noises = split_noise(data / "noise")
        task = spoken_task(output_dir, files, noises)
        task.recipe, task.is_watched = with_noise(recipe, files), False
    else:
        folder = str(data / name)
        rows = Source(folder).load("validation")
        scored = [read_row(row, sampling_rate=16000) for row in rows], rows["text"][:]
        task = Task(name, folder, recipe, scored={"clean": scored})
    task.plain_model = PLAIN_MODEL | NO_REGULARIZATION
    return task


def run_one(run: Run, data: Path, output_dir: Path, steps: int, on_gpu: bool) -> dict:
    """Train a variant, and return what it scored."""
    datasets.disable_progress_bars()
    task = load_task(run.task, data, output_dir, seed=run.seed, on_gpu=on_gpu)
    folder = run.path(output_dir).with_suffix("")
    left_at = None
    if run.variant in PLAIN:
        prepared, loader = plain_setup(task, folder, starts_as_ours=run.variant == OUR_START)
        model, processor = prepared.model.to("cuda" if on_gpu else "cpu"), prepared.processor
        plain_loop(model, loader, learning_rate=PLAIN[run.variant], steps=steps)
    else:
        recipe = changed(task.recipe, variants(run.task, steps)[run.variant])
        saving = {"save_strategy": "steps", "save_steps": max(1, steps // CHECKPOINTS), "save_total_limit": 1}
        model_args, data_args, args = arguments(task, recipe, folder, steps, **saving, **resuming(folder))
        left_at = fit(prepare(model_args, data_args, args), args).plateau.left_at
        model, processor = load_checkpoint(str(folder))
    counts = score(model, processor, task)
    for checkpoint in list_checkpoints(folder):
        shutil.rmtree(checkpoint)
    return {**asdict(run), "steps": steps, "left_at": left_at, "counts": counts}


def speeds_of(runs: Sequence[Run], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the steps per second of each task and variant, with full regularisation, and the seconds of `ALIGNING`.

    Those that are stored are not measured.
    """
    path = args.output_dir / "speeds.json"
    speeds = json.loads(path.read_text()) if path.is_file() else {}
    for name in dict.fromkeys(run.task for run in runs):
        known = speeds.setdefault(name, {})
        wanted = {"plain" if run.variant in PLAIN else run.variant for run in runs if run.task == name} | {"recipe"}
        if missing := wanted - set(known):
            task = load_task(name, args.data, args.output_dir)
            task.recipe["regularization_start"] = None
            changes = variants(name, args.speed_steps)
            levers = {variant: changes[variant] for variant in changes if variant in missing}
            options = {"steps": args.speed_steps, "rounds": args.speed_rounds}
            measured = measure_speeds(task, args.output_dir / "speed", levers, **options)
            known |= {variant: rate for variant, (rate, *_) in measured.items() if variant not in known}
            write_text(path, json.dumps(speeds))
        if ALIGNING not in known:
            task = load_task(name, args.data, args.output_dir)
            with fresh_processes(1) as pool:
                job = pool.submit(time_aligning, replace(task, scored={}), task.recipe, args.output_dir / "speed")
                known[ALIGNING] = job.result()
            write_text(path, json.dumps(speeds))
    print(f"speeds: {json.dumps(speeds)}", flush=True)
    return speeds


def steps_of(run: Run, rates: dict[str, float], *, plateau_steps: int) -> int:
    """Return how many steps a variant computes in the time of its run.

    On the plateau, a recipe that delays the regularisation computes each batch once, even with CR-CTC.

    Args:
        rates: Steps per second of each variant, and the seconds of `ALIGNING`.
        plateau_steps: Estimated steps before the plateau is left.
    """
    seconds = 60 * run.minutes
    if run.variant not in PLAIN and run.variant != WITHOUT_SPLICING:
        seconds -= rates[ALIGNING]
    if run.variant != CR_CTC or load_recipe(RECIPE).get("regularization_start") is None:
        return max(1, round(seconds * rates["plain" if run.variant in PLAIN else run.variant]))
    plateau_steps = min(plateau_steps, round(seconds * rates["recipe"]))
    return max(1, plateau_steps + round((seconds - plateau_steps / rates["recipe"]) * rates[CR_CTC]))


def averaged(results: Sequence[dict], condition: str) -> np.ndarray:
    """Return the counts of errors of each utterance, as means over the seeds."""
    return np.mean([result["counts"][condition] for result in results], axis=0)


def table(results: Sequence[dict], variants: Sequence[str]) -> str:
    """Return the table of a task: the finished runs of each variant beside the best plain loop."""
    by_variant = {name: [result for result in results if result["variant"] == name] for name in variants}
    by_variant = {name: found for name, found in by_variant.items() if found}
    names = list(results[0]["counts"])
    rates = {name: {kind: cer(averaged(found, kind)) for kind in names} for name, found in by_variant.items()}
    plain = [rates[name] for name in by_variant if name in PLAIN and name != OUR_START]
    best = min(plain, key=lambda row: sum(rate for rate, *_ in row.values())) if plain else None
    kinds = "".join(f" CER {kind}, % (95 % interval), change |" for kind in names)
    lines = [f"| variant |{kinds} seconds per step | steps | plateau left at step | seeds |"]
    lines.append("|---" * (len(names) + 5) + "|")
    for name, found in by_variant.items():
        cells = [name]
        for kind, (rate, low, high) in rates[name].items():
            change = f" {rate / best[kind][0] - 1:+.0%}" if best else ""
            cells.append(f"{100 * rate:.1f} ({100 * low:.1f}-{100 * high:.1f}){change}")
        left_at = ["no" if result["left_at"] is None else str(result["left_at"]) for result in found]
        cells += [f"{60 * found[0]['minutes'] / found[0]['steps']:.2f}", str(found[0]["steps"])]
        cells += ["" if name in PLAIN else ", ".join(left_at), ", ".join(str(result["seed"]) for result in found)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(runs: Sequence[Run], output_dir: Path) -> None:
    """Print the table of each task."""
    found = read_finished(run.path(output_dir) for run in runs)
    for task in dict.fromkeys(run.task for run in runs):
        if results := [result for result in found if result["task"] == task]:
            print(f"\n{task}, {results[0]['minutes']:g} minutes; the change is against the best plain loop")
            print(table(results, list(dict.fromkeys(run.variant for run in runs))))
    print(json.dumps([{name: value for name, value in result.items() if name != "counts"} for result in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*PLAIN, *variants("sentences_zh", 1)]
    parser.add_argument("--data", type=Path, help="folder with sentences_zh, sentences_en and noise")
    parser.add_argument("--minutes", type=float, default=30.0, help="training time of each run")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--variants", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--speed_steps", type=int, default=40)
    parser.add_argument("--speed_rounds", type=int, default=3)
    parser.add_argument("--plateau_steps", type=int, default=1000, help="estimated steps in which CR-CTC is not in use")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, with one thread each")
    parser.add_argument("--gpu", action="store_true", help="train on a GPU, for as many steps as a CPU thread computes")
    parser.add_argument("--only_finished", action="store_true", help="report on the finished runs only")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablation_long"))
    args = parser.parse_args()
    if args.data is None and not args.only_finished:
        parser.error("--data or --only_finished is required")
    datasets.disable_progress_bars()
    runs = [
        Run(task, variant, args.minutes, seed)
        for seed in args.seeds
        for task in args.tasks
        for variant in args.variants
        if variant in PLAIN or variant in variants(task, 1)
    ]
    if not args.only_finished:
        os.environ["OMP_NUM_THREADS"] = "1"
        args.output_dir.mkdir(parents=True, exist_ok=True)
        speeds = speeds_of(runs, args)  # on the CPU; stored ones are read
        jobs = {}
        for run in runs:
            steps = steps_of(run, speeds[run.task], plateau_steps=args.plateau_steps)
            jobs[run.path(args.output_dir)] = (run, args.data, args.output_dir, steps, args.gpu)
        run_missing(run_one, jobs, workers=args.jobs)
    report(runs, args.output_dir)


if __name__ == "__main__":
    main()
