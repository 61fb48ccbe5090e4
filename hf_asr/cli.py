"""`hf-asr train|evaluate|transcribe|…`, and what the scripts of these names call."""

import argparse
import difflib
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
from tqdm.auto import tqdm

from .console import command, on_one_line, takes_everything
from .data.audio import AudioError, Recording, read_recording
from .data.rows import chosen_by, names_in
from .data.sources import load_source
from .decoding.arguments import DecodingArguments
from .decoding.bulk import recognize_all
from .decoding.recognizer import load
from .decoding.subtitles import to_srt, to_vtt
from .decoding.targets import Source, find_recordings, targets
from .decoding.transcript import Transcript
from .files import write_text
from .provenance import measured_on
from .scoring.compare import compare as compare_records
from .scoring.compare import read_predictions
from .scoring.evaluation import check_place, evaluate_rows, write_results
from .scoring.report import write_report


@command()
def evaluate(argv: Sequence[str] | None = None) -> None:
    """Score a checkpoint on a split; the last line is a JSON object: cer, wer, …"""
    parser = argparse.ArgumentParser(prog="evaluate", description="Scores a checkpoint on a split.")
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, a folder or a Hub id")
    _add_data_arguments(parser, is_required=True)
    parser.add_argument("--output_dir", type=Path, help="for metrics.json, predictions.jsonl and report.html")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    rows, selection = _load_rows(args)
    if args.output_dir:
        check_place(args.output_dir, selection)
    recognizer = load(args.model_name_or_path)
    metrics, records = evaluate_rows(recognizer, rows)
    metrics |= {"split": args.eval_split_name, "selection": selection}
    options = {"config_name": args.dataset_config_name, "device": recognizer.model.device}
    options["decoding"] = recognizer.decoder.name
    metrics |= measured_on(args.model_name_or_path, [args.dataset_name], **options)
    for record in records:
        name = on_one_line(record["utterance_id"])
        if "error" in record:
            print(f"counted as deleted: {name}: {on_one_line(record['error'])}", file=sys.stderr)
        if "damage" in record:
            print(f"scored as far as it can be read: {name}: {on_one_line(record['damage'])}", file=sys.stderr)
    if args.output_dir:
        write_results(args.output_dir, metrics, records)
        write_report(args.output_dir / "report.html", metrics, records, rows, title=args.model_name_or_path)
    _print_json(metrics)


@command()
def compare(argv: Sequence[str] | None = None) -> None:
    """Print which of two checkpoints is better on the same data, and the utterances that moved."""
    parser = argparse.ArgumentParser(
        prog="compare", description="Is one of two checkpoints better on the same data? Paired bootstrap of the CER."
    )
    for name in ("A", "B"):
        parser.add_argument(name, help="folder with predictions.jsonl; with --dataset_name, a checkpoint")
    _add_data_arguments(parser, is_required=False)
    parser.add_argument("--show", type=int, default=20, help="how many of the utterances that moved are printed")
    parser.add_argument("--output_format", choices=["text", "json"], default="text")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    if args.dataset_name:
        rows, _ = _load_rows(args)
        a, b = (evaluate_rows(load(name), rows)[1] for name in (args.A, args.B))
    else:
        a, b = read_predictions(args.A), read_predictions(args.B)
    result = compare_records(a, b)
    if args.output_format == "json":
        return _print_json(asdict(result) | {"verdict": result.verdict})
    print(f"A  {args.A}: CER {result.cer_a:.2%}\nB  {args.B}: CER {result.cer_b:.2%}, {result.utterances} utterances")
    better = sum(entry["errors_b"] < entry["errors_a"] for entry in result.moved)
    print(f"{result.verdict}\n{better} utterances have fewer errors in B, {len(result.moved) - better} have more")
    for entry in result.moved[: max(0, args.show)]:
        print(
            f"\n{on_one_line(entry['utterance_id'])}: {entry['errors_a']} -> {entry['errors_b']} errors\n"
            f"  said: {entry['reference']}\n  A:    {entry['a']}\n  B:    {entry['b']}"
        )


def _add_data_arguments(parser: argparse.ArgumentParser, *, is_required: bool) -> None:
    parser.add_argument(
        "--dataset_name", required=is_required, help="Hub id, folder, manifest, shards or saved dataset"
    )
    parser.add_argument("--dataset_config_name")
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--audio_column_name", default="audio")
    parser.add_argument("--text_column_name", default="text")
    parser.add_argument("--speaker_column_name", default="speaker")
    parser.add_argument("--speakers", nargs="+", help="score these speakers only")


def _load_rows(args: argparse.Namespace) -> tuple[datasets.Dataset, dict[str, int] | None]:
    """The rows to score, and how many speakers of how many they are of; None of a whole split."""
    rows = load_source(
        args.dataset_name,
        split=args.eval_split_name,
        config_name=args.dataset_config_name,
        audio_column=args.audio_column_name,
        text_column=args.text_column_name,
    )
    if not args.speakers:
        return rows, None
    column = args.speaker_column_name
    if column not in rows.column_names:
        raise ValueError(f"--speakers needs a column {column!r}; there are: {', '.join(rows.column_names)}")
    wanted, there = set(args.speakers), set(names_in(rows, column)) - {None}
    if unknown := sorted(wanted - there):
        raise ValueError(
            f"--speakers {' '.join(unknown)}: no utterance of theirs in {args.eval_split_name!r}; "
            f"there are: {', '.join(sorted(there)[:20])}"
        )
    chosen = chosen_by(rows, column, wanted.__contains__)
    return chosen, {"speakers": len(wanted), "of": len(there)} if len(chosen) < len(rows) else None


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=not takes_everything(), default=str))


@command()
def transcribe(argv: Sequence[str] | None = None) -> None:
    """Transcribe files and folders, to standard output or into files."""
    parser = argparse.ArgumentParser(prog="transcribe", description="Transcribes recordings.")
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, a folder or a Hub id")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER", help="folders are searched for audio")
    parser.add_argument("--output_format", choices=["text", "json", "srt", "vtt"], default="text")
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="write a file for each recording there instead, at its path below the folder that was searched",
    )
    parser.add_argument(
        "--chunk_length_s",
        type=float,
        default=30.0,
        help="window over longer recordings, seconds; more than 6, since windows overlap by 3 at each end",
    )
    args = parser.parse_args(argv)
    arguments = DecodingArguments(chunk_length_s=args.chunk_length_s)
    recognizer = load(args.model_name_or_path, arguments=arguments)
    rate = recognizer.sampling_rate
    sources = find_recordings(args.paths)
    if not sources:
        raise ValueError(f"no audio files in {', '.join(map(str, args.paths))}")
    if len(sources) > 1 and args.output_format in ("srt", "vtt") and args.output_dir is None:
        raise ValueError(f"{len(sources)} files make {len(sources)} {args.output_format} files: give --output_dir")
    places: Sequence[Path | None] = [None] * len(sources)
    if args.output_dir is not None:
        suffix = ".txt" if args.output_format == "text" else f".{args.output_format}"
        places = targets(sources, args.paths, args.output_dir, suffix=suffix)
    unread = unwritten = 0

    def read(source: Source, max_seconds: float) -> Recording:
        try:
            content = _readable(source.path)
        except OSError as error:
            raise AudioError(f"cannot be read: {error}") from error
        return read_recording(content, sampling_rate=rate, max_seconds=max_seconds)

    results = recognize_all(recognizer, sources, read)
    # On a terminal the transcripts themselves show how far it is.
    shows_texts = args.output_dir is None and sys.stdout is not None and sys.stdout.isatty()
    hides_bar = sys.stderr is None or not sys.stderr.isatty() or shows_texts
    progress = tqdm(results, total=len(sources), desc="Recognising", unit="file", disable=hides_bar)
    for source, place, result in zip(sources, places, progress, strict=True):
        name = on_one_line(str(source.path))
        if result.transcript is None:
            unread += 1
            print(f"skipped {name}: {on_one_line(result.error)}", file=sys.stderr)
            continue
        for note in result.damage + result.remarks:
            print(f"note: {name}: {on_one_line(note)}", file=sys.stderr)
        options = {"is_named": False, "is_escaped": False}  # in a file of its own
        if place is None:
            options = {"is_named": len(sources) > 1, "is_escaped": not takes_everything()}
        text = _format(source.path, result.transcript, result.duration, args.output_format, **options)
        if place is None:
            print(text, flush=True)
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, text + "\n")
        except OSError as error:
            unwritten += 1
            print(f"not written: {on_one_line(f'{place}: {error}')}", file=sys.stderr)
    if unread or unwritten:
        problems = [(unread, "read"), (unwritten, "written")]
        sys.exit("; ".join(f"{count} of {len(sources)} files could not be {what}" for count, what in problems if count))


def _readable(path: Path) -> Path | bytes:
    """A path, or the content of a file whose name is no text and which decoders therefore cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes() if path.is_file() else path
    return path


def _format(
    path: Path,
    transcript: Transcript,
    duration: float,
    output_format: str,
    *,
    is_named: bool,
    is_escaped: bool,
) -> str:
    if output_format == "srt":
        return to_srt(transcript.words)
    if output_format == "vtt":
        return to_vtt(transcript.words)
    if output_format == "json":
        words = [asdict(word) for word in transcript.words]
        record = {"file": str(path), "text": transcript.text, "duration": round(duration, 3), "words": words}
        return json.dumps(record, ensure_ascii=is_escaped)
    text = on_one_line(transcript.text)
    return f"{on_one_line(str(path))}\t{text}" if is_named else text


def train(argv: Sequence[str] | None = None) -> None:
    """Train a recogniser, as `accelerate launch scripts/train.py` does, in one process."""
    from .training.run import main  # the Trainer takes seconds to import

    main(argv)


@command()
def augment_preview(argv: Sequence[str] | None = None) -> None:
    """Show what a recipe's augmentations do to a few utterances: wavs and spectrograms, before and after."""
    from .training.preview import main

    main(argv)


@command()
def export(argv: Sequence[str] | None = None) -> None:
    """Turn a checkpoint into a graph for other runtimes, and prove it equal."""
    _optional("export", "hf_asr.export.run", argv)


@command()
def serve(argv: Sequence[str] | None = None) -> None:
    """Serve a checkpoint over REST."""
    _optional("serve", "hf_asr.serving.run", argv)


def publish(argv: Sequence[str] | None = None) -> None:
    """Publish a checkpoint on the Hub, privately, with a card of what was measured."""
    from .hub.publish import main

    main(argv)


@command()
def import_wenet(argv: Sequence[str] | None = None) -> None:
    """Import a WeNet model directory (encoder and CTC head)."""
    from .hub.wenet import import_wenet as import_directory

    parser = argparse.ArgumentParser(prog="import-wenet", description="Imports a WeNet model (encoder and CTC head).")
    parser.add_argument("wenet_dir", help="folder with train.yaml, units.txt and final.pt")
    parser.add_argument("--output_dir", required=True, help="a new folder, for the model and its processor")
    args = parser.parse_args(argv)
    import_directory(args.wenet_dir, args.output_dir)
    print(f"{args.output_dir}: model and processor")


def _optional(extra: str, module: str, argv: Sequence[str] | None) -> None:
    """`main` of a module that needs the packages of an extra."""
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install 'hf_asr[{extra}]'")
    main(argv)


COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "transcribe": transcribe,
    "compare": compare,
    "augment-preview": augment_preview,
    "export": export,
    "serve": serve,
    "import-wenet": import_wenet,
    "publish": publish,
}


@command()
def main() -> None:
    """`hf-asr COMMAND …`."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    if words and words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {function.__doc__}" for name, function in COMMANDS.items()]
        return print("\n".join(["usage: hf-asr COMMAND …   (each has --help)", "", *lines]))
    close = difflib.get_close_matches(words[0], COMMANDS, n=1) if words else []
    hint = f" (did you mean {close[0]}?)" if close else ""
    what = f"no command {on_one_line(words[0])!r}{hint}" if words else "a command is needed"
    print(f"error: {what}; there are: {', '.join(COMMANDS)}; hf-asr --help describes them", file=sys.stderr)
    sys.exit(2)
