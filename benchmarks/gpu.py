"""On a GPU: fp16, bf16 and torch.compile beside float32, and several GPUs; seconds a step of the 12x256 model.

    python benchmarks/gpu.py [--steps 30]
    torchrun --nproc_per_node 2 benchmarks/gpu.py

Each setting trains the same batches of a synthetic corpus through the package's own training; steps that fp16 skipped
and the loss at the end are told, so that a setting which is fast because it learns nothing shows.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import datasets
import torch
from ablation import Clock, Task, arguments, changed, read_recipe

import hf_asr.training.run as run
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus

SETTINGS = {
    "float32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "torch_compile": True},
}


class Losses(Clock):
    """The clock, and the last loss that was logged."""

    loss = float("nan")

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = (logs or {}).get("loss", self.loss)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure")
    datasets.disable_progress_bars()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.environ.get("HF_ASR_BENCHMARK_FOLDER", name))  # one for all processes
        sizes = SyntheticCorpusArguments(train_sentences=3000, validation_sentences=8)
        task = Task("gpu", str(make_corpus(folder / "corpus", sizes)), read_recipe("configs/medium.yaml"))
        for setting, changes in SETTINGS.items():
            clock, original = Losses(skip=args.steps // 3), run.ShowTranscripts
            run.ShowTranscripts = lambda *_, clock=clock: clock
            recipe = changed(task.recipe, changes | {"augmentations": [], "logging_steps": 5})
            metrics = run.train(*arguments(task, recipe, folder / setting, args.steps))
            run.ShowTranscripts = original
            results[setting] = {
                "seconds_a_step": clock.elapsed / clock.steps,
                "loss": clock.loss,
                "skipped": metrics.get("skipped_steps"),
                "processes": int(os.environ.get("WORLD_SIZE", 1)),
            }
            print(f"{setting:16} {results[setting]}", flush=True)
    print(json.dumps({"device": torch.cuda.get_device_name(), "results": results}))


if __name__ == "__main__":
    main()
