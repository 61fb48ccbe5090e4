"""A small run killed ten times at random moments and resumed each time: are the weights the uninterrupted run's?

    python benchmarks/endurance.py [--kills 10] [--steps 60]

`kill -9` comes after a random time, whatever the run does then: a step, a checkpoint, an evaluation. The run is started
again with --resume_from_checkpoint true until it ends by itself; killed before its first checkpoint, it begins anew.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus

RECIPE = {
    "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "subsampling_channels": 16},
    "text_normalization": "zh-en",
    "augmentations": [{"name": "SpeedPerturbation"}, {"name": "Gain", "p": 0.5}],
    "max_batch_seconds": 20,
    "eval_steps": 4,
    "save_steps": 4,
    "ema_decay": 0.9,
    "report_to": "none",
    "inspect_audio": False,
}


def command(recipe: Path, *more: str) -> list[str]:
    code = "from hf_asr.training.run import main; main()"
    return [sys.executable, "-c", code, "--config", str(recipe), *more]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(folder / "corpus", SyntheticCorpusArguments(train_sentences=100, validation_sentences=20))
        recipes = {}
        for run in ("whole", "killed"):
            recipes[run] = folder / f"{run}.yaml"
            values = RECIPE | {"dataset_name": str(corpus), "output_dir": str(folder / run), "max_steps": args.steps}
            recipes[run].write_text(yaml.safe_dump(values))
        started = time.perf_counter()
        subprocess.run(command(recipes["whole"]), check=True, capture_output=True)
        seconds = time.perf_counter() - started
        log, moments = folder / "log.txt", []
        while True:
            has_checkpoint = any((folder / "killed").glob("checkpoint-*/trainer_state.json"))
            more = ["--resume_from_checkpoint", "true"] if has_checkpoint else ["--overwrite_output_dir", "true"]
            with open(log, "w") as file:
                process = subprocess.Popen(command(recipes["killed"], *more), stdout=file, stderr=file)
                try:
                    # Half of its time goes before the first step, and nothing is gained by killing it there.
                    kill_after = random.uniform(0.35, 0.95) * seconds if len(moments) < args.kills else None
                    process.wait(timeout=kill_after)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    unfinished = (folder / "killed" / "unfinished").exists()
                    left = sorted(path.name for path in (folder / "killed").glob("checkpoint-*"))
                    moments.append({"after": round(kill_after, 1), "unfinished": unfinished, "left": left})
                    print(
                        f"killed after {kill_after:.1f} s, in a checkpoint: {unfinished}; there are {left}", flush=True
                    )
                    continue
            if process.returncode:
                sys.exit(f"the resumed run failed:\n{log.read_text()[-2000:]}")
            if len(moments) >= args.kills:
                break
            # It ended before it could be killed as often: once more from the beginning.
            subprocess.run(["rm", "-r", str(folder / "killed")], check=True)
        whole, killed = (load_file(folder / run / "model.safetensors") for run in ("whole", "killed"))
        different = [key for key in whole if not torch.equal(whole[key], killed[key])]
        print(f"{len(moments)} kills; {len(whole)} tensors, {len(different)} differ from the uninterrupted run's")
        print(json.dumps({"kills": moments, "tensors": len(whole), "different": different}))
        sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
