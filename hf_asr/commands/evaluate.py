"""Score a checkpoint on a split of a dataset; the last line of the output is a JSON object."""

import sys
from argparse import Namespace
from pathlib import Path

import datasets

from ..arguments import Parser, add_dataclasses, to_dataclasses
from ..console import on_one_line, print_json
from ..decoding.arguments import DecodingArguments
from ..decoding.recognizer import Recognizer, load
from ..files import REPORT
from ..provenance import measured_on
from ..scoring.evaluation import check_output_dir, evaluate_rows, write_results
from ..scoring.report import write_error_report
from .source import add_source_arguments, load_rows


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="Checkpoint or exported graph: folder or Hub id.")
    add_source_arguments(parser)
    add_dataclasses(parser, [DecodingArguments])
    parser.add_argument("--output_dir", type=Path, help="Folder for metrics.json, predictions.jsonl and report.html.")


def run(args: Namespace) -> None:
    (arguments,) = to_dataclasses(args, [DecodingArguments])
    datasets.disable_progress_bars()
    rows, selection = load_rows(args)
    if args.output_dir:
        check_output_dir(args.output_dir, selection)
    recognizer = load(args.model_name_or_path, arguments=arguments)
    metrics, records = evaluate_rows(recognizer, rows)
    metrics |= {"split": args.eval_split_name, "selection": selection, **chunks_of(recognizer)}
    if arguments.vad:
        metrics["vad"] = True
    if arguments.dtype != "float32":
        metrics["dtype"] = arguments.dtype
    if recognizer.hotwords:
        metrics |= {"hotwords": len(recognizer.hotwords), "hotword_boost": arguments.hotword_boost}
    metrics |= measured_on(
        args.model_name_or_path,
        [args.dataset_name],
        decoding=describe_search(recognizer),
        config_name=args.dataset_config_name,
        device=recognizer.model.device,
    )
    for record in records:
        name = on_one_line(record["utterance_id"])
        if "error" in record:
            print(f"all characters counted as deletions: {name}: {on_one_line(record['error'])}", file=sys.stderr)
        if "damage" in record:
            print(f"only the readable part is scored: {name}: {on_one_line(record['damage'])}", file=sys.stderr)
    if args.output_dir:
        write_results(args.output_dir, metrics, records)
        write_error_report(args.output_dir / REPORT, metrics, records, rows, title=args.model_name_or_path)
    print_json(metrics)


def describe_search(recognizer: Recognizer) -> str:
    """Return the decoder and what helps it: figures with a lexicon say nothing of other words."""
    arguments, parts = recognizer.arguments, [recognizer.decoder.name]
    if arguments.language_model:
        parts.append("language model")
    if lexicon := getattr(recognizer.decoder, "lexicon", None):
        parts.append(f"lexicon: {lexicon.num_entries}")
    if recognizer.hotwords:
        parts.append(f"hotwords: {len(recognizer.hotwords)}")
    return ", ".join(parts)


def chunks_of(recognizer: Recognizer) -> dict:
    """Return the chunks that a recogniser encodes in, for the metrics; nothing at full context."""
    config = recognizer.model.config
    if getattr(config, "chunk_size", -1) < 1:
        return {}
    streaming = recognizer.arguments.streaming
    return {"chunk_size": config.chunk_size, "num_left_chunks": config.num_left_chunks, "streaming": streaming}
