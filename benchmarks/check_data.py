"""Swap transcripts of a dataset, train on it, and measure which share of them `hf-asr check-data` ranks worst.

    python benchmarks/check_data.py --dataset_name runs/quickstart-corpus --output_dir runs/check-data \
        --config configs/quickstart.yaml [--share 0.05] [--seed 0] [-- --max_steps 1600 --cpu_threads 1]
    python benchmarks/check_data.py … --retrain          # also trains on the rows that are kept
    python benchmarks/check_data.py … --model_name_or_path M        # M was trained on OUTPUT_DIR/swapped before

A share of the transcripts of the training split, drawn with the seed, is permuted. The training takes the recipe and
the arguments after `--`. With `--retrain`, a second training takes the rows that check-data keeps. The validation split
is the same, with its right transcripts.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_asr.arguments import Parser
from hf_asr.data.rows import with_column
from hf_asr.data.sources import Source
from hf_asr.files import METRICS
from hf_asr.scoring.data_check_report import KEPT, ROWS, SUMMARY, write_rows

SCRIPTS = Path(__file__).parents[1] / "scripts"
SPLITS = ("train", "validation")
MAX_DRAWS = 1000


def main() -> None:
    argv = sys.argv[1:]
    place = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--config", help="recipe of the training")
    parser.add_argument("--model_name_or_path", help="model that was trained on OUTPUT_DIR/swapped before")
    parser.add_argument("--share", type=float, default=0.05, help="share of the transcripts that are swapped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--retrain", action="store_true", help="train on the rows that are kept, too")
    args = parser.parse_args(argv[:place])
    if (args.config is None) == (args.model_name_or_path is None):
        raise ValueError("give either --config for a training, or --model_name_or_path")
    swapped_folder, model = args.output_dir / "swapped", args.model_name_or_path or str(args.output_dir / "model")
    swapped = write_swapped(args.dataset_name, swapped_folder, share=args.share, seed=args.seed)
    if args.config and not (Path(model) / METRICS).is_file():
        train(args.config, swapped_folder, model, argv[place + 1 :])
    checked = args.output_dir / "checked"
    options = {"dataset_name": swapped_folder, "model_name_or_path": model, "output_dir": checked}
    run_script("check_data.py", options, ["--split_names", "train"])
    rows = [json.loads(line) for line in (checked / ROWS).read_text(encoding="utf-8").splitlines()]
    summary = json.loads((checked / SUMMARY).read_text(encoding="utf-8"))["splits"]["train"]
    print(json.dumps(found_share(rows, swapped) | {name: summary[name] for name in summary if "score" in name}))
    if args.config and args.retrain:
        retrained = args.output_dir / "retrained"
        shutil.copy(swapped_folder / "validation.parquet", checked / KEPT)
        train(args.config, checked / KEPT, str(retrained), argv[place + 1 :])
        for name in (Path(model), retrained):
            cer = json.loads((name / METRICS).read_text(encoding="utf-8"))["cer"]
            print(f"{name}: CER of the validation split {cer:.2%}")


def write_swapped(dataset_name: str, folder: Path, *, share: float, seed: int) -> set[str]:
    """Write the splits of a dataset as parquet files; return the ids of the rows whose transcript is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    source, swapped = Source(dataset_name), set()
    for split in SPLITS:
        rows = source.load(split)
        if split == "train":
            texts, chosen = swap(rows["text"][:], share=share, seed=seed)
            rows = with_column(rows, "text", texts)
            swapped = {rows[place]["utterance_id"] for place in chosen}
        write_rows(folder / f"{split}.parquet", rows)
    return swapped


def swap(texts: Sequence[str], *, share: float, seed: int) -> tuple[list[str], list[int]]:
    """Return the texts, a share of which is permuted, and the numbers of those that differ from before.

    Permutations are drawn until all of the share differ, which may be impossible if many texts are equal.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(texts))[: round(share * len(texts))]
    for _ in range(MAX_DRAWS):
        others = generator.permutation(chosen)
        if all(texts[place] != texts[other] for place, other in zip(chosen, others, strict=True)):
            break
    result = list(texts)
    for place, other in zip(chosen, others, strict=True):
        result[place] = texts[other]
    return result, [int(place) for place in chosen if result[place] != texts[place]]


def found_share(rows: Sequence[dict[str, Any]], swapped: set[str]) -> dict[str, Any]:
    """Return which share of the swapped rows is at the top of a list, and which rows are not kept."""
    is_swapped = [row["utterance_id"] in swapped for row in rows]
    left_out = [wrong for row, wrong in zip(rows, is_swapped, strict=True) if not row["is_kept"]]
    return {
        "rows": len(rows),
        "swapped": len(swapped),
        "in_worst_10_percent": sum(is_swapped[: round(0.1 * len(rows))]) / len(swapped),
        "in_worst_5_percent": sum(is_swapped[: round(0.05 * len(rows))]) / len(swapped),
        "left_out": len(left_out),
        "left_out_swapped": sum(left_out),
    }


def train(config: str, dataset: Path, output_dir: str, more: Sequence[str]) -> None:
    """Train with a recipe; the synthetic corpus that it may name exists."""
    options = {"config": config, "dataset_name": dataset, "output_dir": output_dir, "synthetic_corpus": "null"}
    run_script("train.py", options, more)


def run_script(name: str, options: dict[str, Any], more: Sequence[str] = ()) -> None:
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    subprocess.run([sys.executable, str(SCRIPTS / name), *words, *more], check=True)


if __name__ == "__main__":
    main()
