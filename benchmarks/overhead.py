"""Measure the time of a training run relative to the bare forward, backward and optimiser steps of the same batches.

    python benchmarks/overhead.py [--config configs/medium.yaml] [--dataset_name DATA] [--steps 24] [--rounds 3]

The lower bound is 1; the rest is reading, augmentation (speed), features, batching, logging and Trainer itself. Both
are timed in turns, after the first quarter of the steps; the bare loop has its batches in memory. Without DATA, a
synthetic corpus with sentences of 1 to 4 s is used.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import torch
import yaml
from ablation import Task, arguments, read_recipe, time_recipe
from torch.utils.data import DataLoader

from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus
from hf_asr.training.prepare import prepare

SPEED = [{"name": "SpeedPerturbation", "factors": [0.9, 1.0, 1.1]}]


def bare_loop(task: Task, folder: Path, steps: int) -> float:
    """Return the seconds per step of the same model, precision and optimiser on the same batches, kept in memory."""
    model_args, data_args, args = arguments(task, task.recipe, folder / "bare", steps)
    prepared = prepare(model_args, data_args, args)
    sampler = DurationBatchSampler(prepared.durations, max_batch_seconds=args.max_batch_seconds, seed=args.seed)
    batches, epoch = [], 0
    while len(batches) < steps:
        sampler.set_epoch(epoch)
        batches += list(DataLoader(prepared.train_dataset, batch_sampler=sampler, collate_fn=prepared.collator))
        epoch += 1
    model = prepared.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    started = time.perf_counter()
    for step, batch in enumerate(batches[:steps], start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == steps // 4:
            started = time.perf_counter()
    return (time.perf_counter() - started) / (steps - steps // 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/medium.yaml")
    parser.add_argument("--dataset_name")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset_name = args.dataset_name
        if dataset_name is None:
            sizes = SyntheticCorpusArguments(train_sentences=1200, validation_sentences=8)
            dataset_name = str(make_corpus(folder / "corpus", sizes))
        recipe = read_recipe(args.config, augmentations=SPEED, ema_decay=0.0, max_batch_seconds=60)
        recipe |= {"dataloader_num_workers": 1}
        task = Task("overhead", dataset_name, recipe)
        whole, bare = [], []
        for _ in range(args.rounds):
            whole.append(1 / time_recipe(task, task.recipe, folder / "run", steps=args.steps))
            bare.append(bare_loop(task, folder, args.steps))
    ratio = statistics.median(whole) / statistics.median(bare)
    print(yaml.safe_dump({"model": recipe["model"]}, default_flow_style=True).strip())
    print(
        f"seconds per step, medians of {args.rounds} rounds in turns: whole run {statistics.median(whole):.2f}, "
        f"bare loop {statistics.median(bare):.2f}: {ratio:.2f} times"
    )
    print(json.dumps({"whole": whole, "bare": bare, "ratio": ratio}))


if __name__ == "__main__":
    main()
