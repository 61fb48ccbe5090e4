"""Compare fp16, bf16, torch.compile and several GPUs with float32: seconds per step of the 12x256 model.

    python benchmarks/gpu.py [--steps 30]
    torchrun --nproc_per_node 2 benchmarks/gpu.py

Each setting trains on the same batches of a synthetic corpus. The steps that fp16 skipped and the last loss are
printed, to reveal a setting that is fast because it does not learn.
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

from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit

SETTINGS = {
    "float32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "torch_compile": True},
}


class Losses(Clock):
    """Measure time and keep the last loss that was logged."""

    loss = float("nan")

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = (logs or {}).get("loss", self.loss)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: there is nothing to measure")
    datasets.disable_progress_bars()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.environ.get("HF_ASR_BENCHMARK_FOLDER", name))  # the same for all processes
        sizes = SyntheticCorpusArguments(train_sentences=3000, validation_sentences=8)
        task = Task("gpu", str(make_corpus(folder / "corpus", sizes)), read_recipe("configs/medium.yaml"))
        for setting, changes in SETTINGS.items():
            clock = Losses(skip=args.steps // 3)
            recipe = changed(task.recipe, changes | {"augmentations": [], "logging_steps": 5})
            run = arguments(task, recipe, folder / setting, args.steps)
            trainer = fit(prepare(*run), run[2], callbacks=[clock])
            results[setting] = {
                "seconds_a_step": clock.elapsed / clock.steps,
                "loss": clock.loss,
                "skipped": trainer.skipped_steps,
                "processes": int(os.environ.get("WORLD_SIZE", 1)),
            }
            print(f"{setting:16} {results[setting]}", flush=True)
    print(json.dumps({"device": torch.cuda.get_device_name(), "results": results}))


if __name__ == "__main__":
    main()
