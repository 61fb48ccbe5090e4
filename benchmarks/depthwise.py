"""Measure the cost of the workaround for depthwise convolutions that hang in bf16 on a CPU.

    python benchmarks/depthwise.py --rounds 5

At some widths, `F.conv2d` over (1, frames), a row, hangs; the model then uses (frames, 1), a column. A training step
and an inference of a Conformer (12 layers, 4 heads, kernel 15) on 8 utterances of 6 s in bf16 are timed: as a row, as a
column, with `F.conv1d`, and as a row in float32. Each has its own process, the processes are interleaved, and the
medians of the rounds are printed in seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.model import layers_conformer

WIDTHS = (128, 144, 192, 208, 256, 272, 384, 512)
WAYS = ("row", "column", "conv1d", "float32")
BATCH, FRAMES, VOCABULARY = 8, 600, 1000


def choose(way: str) -> None:
    """Make the model use one way of convolution at every width."""
    if way == "conv1d":
        layers_conformer._depthwise = lambda conv, hidden: conv(hidden)
        return
    layers_conformer.hangs_as_a_row = lambda *_, **__: way == "column"
    if way == "float32":
        row = layers_conformer._depthwise

        def in_float32(conv: torch.nn.Conv1d, hidden: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return row(conv, hidden.float()).to(hidden.dtype)

        layers_conformer._depthwise = in_float32


def measure(way: str, width: int) -> dict[str, float]:
    """Return the seconds of a step and of an inference, the best of three after a warm-up."""
    choose(way)
    torch.manual_seed(0)
    config = ConformerConfig(
        hidden_size=width, intermediate_size=4 * width, subsampling_depthwise=True, vocab_size=VOCABULARY
    )
    model = ConformerForCTC(config)
    features, labels = torch.randn(BATCH, FRAMES, 80), torch.randint(3, VOCABULARY, (BATCH, 20))

    def step() -> None:
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(features, labels=labels).loss
        loss.backward()
        model.zero_grad()

    @torch.inference_mode()
    def infer() -> None:
        model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            model(features)

    seconds = {}
    for name, function in (("step", step), ("inference", infer)):
        times = []
        for _ in range(4):
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
        seconds[name] = min(times[1:])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "WIDTH"), help=argparse.SUPPRESS)  # runs in its own process
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    threads = torch.get_num_threads()
    print(f"{threads} threads, torch {torch.__version__}, medians of {args.rounds} rounds: step, inference (s)")
    for width in args.widths:
        hangs = layers_conformer.hangs_as_a_row(width, num_threads=threads)
        ways = [way for way in WAYS if way != "row" or not hangs]
        results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way in ways:
                command = [sys.executable, __file__, "--one", way, str(width)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[way].append(json.loads(done.stdout.splitlines()[-1]))
        medians = {
            way: [statistics.median(result[name] for result in results[way]) for name in ("step", "inference")]
            for way in ways
        }
        used = "column" if hangs else "row"
        cells = [
            f"{way} {medians[way][0]:.3f} {medians[way][1]:.3f}" if way in medians else "row hangs" for way in WAYS
        ]
        print(f"  {width:4} ({used:6} used): " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
