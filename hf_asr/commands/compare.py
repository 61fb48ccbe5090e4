"""Compare two checkpoints on the same data by a paired bootstrap of the CER."""

from argparse import Namespace
from dataclasses import asdict

import datasets

from ..arguments import Parser
from ..console import on_one_line, print_json
from ..decoding.recognizer import load
from ..scoring.comparison import compare_predictions, read_predictions
from ..scoring.evaluation import evaluate_rows
from .source import add_source_arguments, load_rows


def add_arguments(parser: Parser) -> None:
    for name in ("A", "B"):
        parser.add_argument(name, help="Folder with predictions.jsonl; with --dataset_name, a checkpoint.")
    add_source_arguments(parser, is_required=False)
    parser.add_argument("--show", type=int, default=20, help="Number of changed utterances to print.")
    parser.add_argument("--output_format", choices=["text", "json"], default="text", help="Format of the output.")


def run(args: Namespace) -> None:
    datasets.disable_progress_bars()
    if args.dataset_name:
        rows, _ = load_rows(args)
        a, b = (evaluate_rows(load(name), rows)[1] for name in (args.A, args.B))
    else:
        a, b = read_predictions(args.A), read_predictions(args.B)
    result = compare_predictions(a, b)
    if args.output_format == "json":
        return print_json(asdict(result) | {"verdict": result.verdict})
    print(f"A  {args.A}: CER {result.cer_a:.2%}\nB  {args.B}: CER {result.cer_b:.2%}, {result.utterances} utterances")
    better = sum(entry["errors_b"] < entry["errors_a"] for entry in result.moved)
    print(f"{result.verdict}\n{better} utterances have fewer errors in B, {len(result.moved) - better} have more")
    for entry in result.moved[: max(0, args.show)]:
        print(
            f"\n{on_one_line(entry['utterance_id'])}: {entry['errors_a']} -> {entry['errors_b']} errors\n"
            f"  reference: {entry['reference']}\n  A:         {entry['a']}\n  B:         {entry['b']}"
        )
