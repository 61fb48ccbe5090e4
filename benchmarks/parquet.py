"""Measure decoding, writing and memory of training on parquet with embedded audio: the first run and the second run.

python benchmarks/parquet.py [--rows 10000 100000]

The first run must decode every recording once, and `datasets` converts parquet to Arrow once, into its cache. The
second run must do neither, and its memory must not grow with the audio.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

SAMPLES = 4000  # a quarter of a second at 16 kHz
TINY = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, subsampling_channels: 8}"
# Train in this process, and count decoded recordings, written bytes and memory.
COUNTED = """
import json, sys, threading, time
import hf_asr.data.sources as sources
from hf_asr.cli import main

decoded, peak, read = 0, 0, sources.read_recording
def watch():  # RssAnon excludes mapped files, whose memory the system can reclaim
    global peak
    while True:
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        peak = max(peak, int(status["RssAnon"].split()[0]) * 1024)
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
def counted(*args, **options):
    global decoded
    decoded += 1
    return read(*args, **options)
sources.read_recording = counted
started = time.perf_counter()
main(["train", *sys.argv[1:]])
figures = {"seconds": time.perf_counter() - started, "decoded": decoded}
figures["peak"] = peak
io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
print(json.dumps(figures | {"written": int(io["wchar"])}))
"""


def write_corpus(folder: Path, count: int, *, shard_rows: int = 10_000) -> int:
    """Write parquet shards of `count` different recordings of noise, and ten for validation; return their bytes."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    total = 0
    for split, rows in (("train", count), ("validation", 10)):
        for start in range(0, rows, shard_rows):
            audio = []
            for number in range(start, min(rows, start + shard_rows)):
                file = io.BytesIO()
                soundfile.write(file, generator.integers(-3000, 3000, SAMPLES, dtype=np.int16), 16000, format="WAV")
                audio.append({"bytes": file.getvalue(), "path": f"{number}.wav"})
            total += sum(len(item["bytes"]) for item in audio)
            texts = [("go", "no", "up")[i % 3] for i in range(len(audio))]
            table = pa.table({"audio": audio, "text": texts})
            pq.write_table(table, folder / f"{split}-{start:07d}.parquet", row_group_size=100)
    return total


def run(folder: Path, output_dir: Path, home: Path) -> dict:
    """Train two steps on `folder` in a separate process; return its counts."""
    command = [sys.executable, "-c", COUNTED, "--dataset_name", str(folder), "--output_dir", str(output_dir)]
    command += ["--model", TINY, "--max_steps", "2", "--report_to", "none", "--dataloader_num_workers", "0"]
    environment = os.environ | {"HF_HOME": str(home)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="Rows of each corpus.")
    args = parser.parse_args()
    results = {}
    print("    rows  audio, MB  command  seconds  decoded  written, MB  peak, MB")
    for count in args.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size = write_corpus(folder / "corpus", count)
            for number, label in enumerate(("first", "second")):
                figures = run(folder / "corpus", folder / f"run{number}", folder / "home")
                results[f"{count} {label}"] = figures
                print(
                    f"{count:>8} {size / 1e6:>10.0f} {label:>8} {figures['seconds']:>8.1f} "
                    f"{figures['decoded']:>8} {figures['written'] / 1e6:>12.1f} {figures['peak'] / 1e6:>9.0f}",
                    flush=True,
                )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
