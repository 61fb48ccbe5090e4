"""Measure how long a streamed training of 10 000 hours takes to its first step, and how much memory.

python benchmarks/data_scale.py [--rows 2400000]

The rows of 15 s are in parquet files that name a few recordings again and again. The training runs in a process of its
own. It should end its first step within 60 s and 2 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from parquet import TINY

SECONDS, RECORDINGS = 15, 20  # seconds of a recording, and the number of different ones
WORDS = ["turn", "on", "the", "kitchen", "light", "play", "some", "music", "please"]
# Train for one step, and print seconds since the start of the process and its largest memory.
MEASURED = """
import time
started = time.perf_counter()
import json, resource
from transformers import TrainerCallback
from hf_asr.arguments import parse_arguments
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit

imported = time.perf_counter() - started
class First(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {"import_seconds": imported, "seconds": time.perf_counter() - started, "peak_bytes": peak}
        print(json.dumps(figures), flush=True)

arguments = parse_arguments((ModelArguments, DataArguments, ConformerTrainingArguments))
fit(prepare(*arguments), arguments[2], callbacks=[First()])
"""


def write_manifest(folder: Path, count: int, *, shard_rows: int = 100_000) -> None:
    """Write parquet files of `count` rows to train on, and one of ten rows to score."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(RECORDINGS)]
    for path in paths:
        soundfile.write(path, generator.integers(-3000, 3000, SECONDS * 16000, dtype=np.int16), 16000)
    texts = [" ".join(generator.choice(WORDS, 30)) for _ in range(1000)]
    for split, rows in (("train", count), ("validation", 10)):
        for start in range(0, rows, shard_rows):
            numbers = range(start, min(rows, start + shard_rows))
            columns = {
                "audio": [str(paths[i % RECORDINGS]) for i in numbers],
                "text": [texts[i % 1000] for i in numbers],
                "id": [f"utterance-{i}" for i in numbers],
                "duration": [float(SECONDS)] * len(numbers),
            }
            pq.write_table(pa.table(columns), folder / f"{split}-{start:07d}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_400_000, help="Rows to train on, of 15 s.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_manifest(folder, args.rows)
        command = [sys.executable, "-c", MEASURED, "--dataset_name", name, "--output_dir", str(folder / "run")]
        command += ["--model", TINY, "--streaming", "true", "--max_steps", "1", "--use_cpu", "true"]
        command += ["--max_batch_seconds", "60", "--report_to", "none", "--dataloader_num_workers", "0"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    hours = args.rows * SECONDS / 3600
    print(f"{args.rows} rows, {hours:.0f} h: first step after {figures['seconds']:.1f} s", end=" ")
    print(f"(imports: {figures['import_seconds']:.1f} s), at most {figures['peak_bytes'] / 1e9:.2f} GB")
    print(json.dumps({"rows": args.rows, "hours": hours} | figures))


if __name__ == "__main__":
    main()
