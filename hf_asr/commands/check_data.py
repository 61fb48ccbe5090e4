"""Check recordings and transcripts: damage, noise, copies, leaks, and with a model, wrong transcripts, worst first.

Nothing of the dataset is changed. The rows to keep are written as a dataset that training takes.
"""

from argparse import Namespace
from pathlib import Path

import datasets

from ..arguments import Parser, add_dataclasses, to_dataclasses
from ..console import print_json
from ..decoding.arguments import DecodingArguments
from ..decoding.recognizer import load
from ..files import REPORT
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerProcessor, ConformerTokenizer
from ..provenance import measured_on
from ..scoring.data_check import LEFT_OUT, REASONS, check_splits, summarize
from ..scoring.data_check_report import KEPT, ROWS, SUMMARY, write_check
from ..training.vocabulary import choose_text_normalization
from .evaluate import describe_search
from .source import add_dataset_arguments, source_of


def add_arguments(parser: Parser) -> None:
    add_dataset_arguments(parser)
    parser.add_argument(
        "--split_names",
        nargs="+",
        help="Splits to check, the one to train on first; all of the dataset by default. Their order decides where a "
        "leak is reported: in the later split.",
    )
    parser.add_argument(
        "--model_name_or_path",
        help="Checkpoint or exported graph, folder or Hub id, that finds wrong transcripts. "
        "It may have been trained on this dataset.",
    )
    add_dataclasses(parser, [DecodingArguments])
    parser.add_argument(
        "--max_duration_seconds", type=float, default=30.0, help="Longer recordings are left out, as in training."
    )
    parser.add_argument(
        "--leave_out",
        nargs="*",
        choices=REASONS,
        default=list(LEFT_OUT),
        metavar="FINDING",
        help=f"Findings whose rows are not kept: any of {', '.join(map(repr, REASONS))}.",
    )
    parser.add_argument("--num_worst", type=int, default=50, help="Doubtful transcripts that the page shows.")
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help=f"Folder for {ROWS} (all rows, the worst first), {REPORT}, {SUMMARY}, and a folder {KEPT} with the rows "
        "to keep.",
    )


def run(args: Namespace) -> None:
    (arguments,) = to_dataclasses(args, [DecodingArguments])
    datasets.disable_progress_bars()
    source = source_of(args)
    splits = {name: source.load(name) for name in args.split_names or _in_order(source.split_names())}
    recognizer = None
    if args.model_name_or_path is not None:
        recognizer = load(args.model_name_or_path, arguments=arguments)
    processor = recognizer.processor if recognizer else _processor(splits)
    checked = check_splits(
        splits,
        processor,
        config=recognizer.model.config if recognizer else ConformerConfig(),
        recognizer=recognizer,
        max_duration_seconds=args.max_duration_seconds,
        speaker_column=args.speaker_column_name,
        left_out=set(args.leave_out),
    )
    summary = {"splits": summarize(checked), "kept": str(args.output_dir / KEPT)}
    if recognizer:
        summary |= measured_on(
            args.model_name_or_path,
            [args.dataset_name],
            decoding=describe_search(recognizer),
            config_name=args.dataset_config_name,
            device=recognizer.model.device,
        )
    options = {"speaker_column": args.speaker_column_name, "num_worst": args.num_worst}
    write_check(args.output_dir, checked, summary, processor, **options)
    print_json(summary)


def _in_order(names: list[str]) -> list[str]:
    """Return the names of splits, those to train on first."""
    return sorted(names, key=lambda name: "train" not in name.lower())


def _processor(splits: dict[str, datasets.Dataset]) -> ConformerProcessor:
    """Return the processor that a training with `text_normalization: auto` would begin with."""
    texts = next(iter(splits.values()))["text"][:]
    options = {"text_normalization": choose_text_normalization(texts)}
    return ConformerProcessor(ConformerFeatureExtractor(), ConformerTokenizer.from_texts(texts, **options))
