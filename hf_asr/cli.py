"""`hf-asr train|evaluate|transcribe|…`, and what the scripts of these names call."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import datasets

from .checkpoint import load_checkpoint
from .data.audio import AUDIO_SUFFIXES, AudioError, read_recording
from .data.rows import chosen_by
from .data.sources import load_source
from .decoding.recognizer import Transcript, recognize
from .decoding.subtitles import to_srt, to_vtt
from .files import write_text
from .provenance import measured_on
from .scoring.compare import compare as compare_records
from .scoring.compare import read_predictions
from .scoring.evaluation import evaluate_rows, write_results
from .scoring.report import write_report


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Prints one JSON object last: cer, wer, …"""
    parser = argparse.ArgumentParser(prog="evaluate", description="Scores a checkpoint on a split.")
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, a folder or a Hub id")
    _add_data_arguments(parser, is_required=True)
    parser.add_argument("--output_dir", type=Path, help="for metrics.json, predictions.jsonl and report.html")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    try:
        rows = _load_rows(args)
        model, processor = load_checkpoint(args.model_name_or_path)
        metrics, records = evaluate_rows(model, processor, rows)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    metrics["split"] = args.eval_split_name
    options = {"config_name": args.dataset_config_name, "device": model.device}
    metrics |= measured_on(args.model_name_or_path, [args.dataset_name], **options)
    for record in records:
        if "error" in record:
            print(f"counted as deleted: {record['utterance_id']}: {record['error']}", file=sys.stderr)
        if "damage" in record:
            print(f"scored as far as it can be read: {record['utterance_id']}: {record['damage']}", file=sys.stderr)
    if args.output_dir:
        write_results(args.output_dir, metrics, records)
        write_report(args.output_dir / "report.html", metrics, records, rows, title=args.model_name_or_path)
    print(json.dumps(metrics, ensure_ascii=False))


def compare(argv: Sequence[str] | None = None) -> None:
    """Prints which of two checkpoints is better on the same data, and the utterances that moved."""
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
    try:
        if args.dataset_name:
            rows = _load_rows(args)
            a, b = (evaluate_rows(*load_checkpoint(name), rows)[1] for name in (args.A, args.B))
        else:
            a, b = read_predictions(args.A), read_predictions(args.B)
        result = compare_records(a, b)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    if args.output_format == "json":
        print(json.dumps(asdict(result) | {"verdict": result.verdict}, ensure_ascii=False))
        return
    print(f"A  {args.A}: CER {result.cer_a:.2%}\nB  {args.B}: CER {result.cer_b:.2%}, {result.utterances} utterances")
    better = sum(entry["errors_b"] < entry["errors_a"] for entry in result.moved)
    print(f"{result.verdict}\n{better} utterances have fewer errors in B, {len(result.moved) - better} have more")
    for entry in result.moved[: args.show]:
        print(
            f"\n{entry['utterance_id']}: {entry['errors_a']} -> {entry['errors_b']} errors\n"
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


def _load_rows(args: argparse.Namespace) -> datasets.Dataset:
    rows = load_source(
        args.dataset_name,
        split=args.eval_split_name,
        config_name=args.dataset_config_name,
        audio_column=args.audio_column_name,
        text_column=args.text_column_name,
    )
    if args.speakers:
        column = args.speaker_column_name
        if column not in rows.column_names:
            raise ValueError(f"--speakers needs a column {column!r}; there are: {', '.join(rows.column_names)}")
        wanted = set(args.speakers)
        rows = chosen_by(rows, column, wanted.__contains__)
        if not len(rows):
            raise ValueError(
                f"--speakers {' '.join(args.speakers)}: no utterance of theirs in {args.eval_split_name!r}"
            )
    return rows


def transcribe(argv: Sequence[str] | None = None) -> None:
    """Transcripts on standard output, or a file beside each recording's name in --output_dir."""
    parser = argparse.ArgumentParser(prog="transcribe", description="Transcribes recordings.")
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, a folder or a Hub id")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER", help="folders are searched for audio")
    parser.add_argument("--output_format", choices=["text", "json", "srt", "vtt"], default="text")
    parser.add_argument("--output_dir", type=Path, help="write a file for each recording there instead")
    parser.add_argument("--chunk_length_s", type=float, default=30.0, help="window over longer recordings, seconds")
    args = parser.parse_args(argv)
    try:
        model, processor = load_checkpoint(args.model_name_or_path)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    files, failed = list(_audio_files(args.paths)), 0
    if not files:
        sys.exit(f"error: no audio files in {', '.join(map(str, args.paths))}")
    if len(files) > 1 and args.output_format in ("srt", "vtt") and args.output_dir is None:
        sys.exit(f"error: {len(files)} files make {len(files)} {args.output_format} files: give --output_dir")
    # Batches of files, so that a folder of any size neither fills the memory nor waits for its end to print.
    for start in range(0, len(files), 64):
        group, waveforms, readable = files[start : start + 64], [], []
        for file in group:
            try:
                recording = read_recording(file, sampling_rate=processor.feature_extractor.sampling_rate)
            except AudioError as error:
                failed += 1
                print(f"skipped {file}: {error}", file=sys.stderr)
                continue
            waveforms.append(recording.waveform)
            readable.append(file)
            for note in recording.damage + recording.remarks:
                print(f"note: {file}: {note}", file=sys.stderr)
        show_progress = sys.stderr.isatty() or len(files) > 8
        transcripts = recognize(
            model, processor, waveforms, chunk_seconds=args.chunk_length_s, show_progress=show_progress
        )
        rate = processor.feature_extractor.sampling_rate
        for file, waveform, transcript in zip(readable, waveforms, transcripts, strict=True):
            text = _format(file, transcript, len(waveform) / rate, args.output_format, len(files) > 1)
            if args.output_dir is None:
                print(text, flush=True)
            else:
                args.output_dir.mkdir(parents=True, exist_ok=True)
                suffix = ".txt" if args.output_format == "text" else f".{args.output_format}"
                target = args.output_dir / f"{file.name}{suffix}"
                write_text(target, text + "\n")
    if failed:
        sys.exit(f"{failed} of {len(files)} files could not be read")


def _audio_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
            yield from sorted(file for file in found if file.is_file())
        else:
            yield path  # a missing one is told when it is read


def _format(file: Path, transcript: Transcript, duration: float, output_format: str, is_one_of_many: bool) -> str:
    if output_format == "srt":
        return to_srt(transcript.words)
    if output_format == "vtt":
        return to_vtt(transcript.words)
    if output_format == "json":
        words = [asdict(word) for word in transcript.words]
        record = {"file": str(file), "text": transcript.text, "duration": round(duration, 3), "words": words}
        return json.dumps(record, ensure_ascii=False)
    return f"{file}\t{transcript.text}" if is_one_of_many else transcript.text


def train(argv: Sequence[str] | None = None) -> None:
    """As `accelerate launch scripts/train.py`, in one process."""
    from .training.run import main  # the Trainer takes seconds to import

    main(argv)


def augment_preview(argv: Sequence[str] | None = None) -> None:
    """What a recipe's augmentations do to a few utterances: wavs and spectrograms, before and after."""
    from .training.preview import main

    main(argv)


def export(argv: Sequence[str] | None = None) -> None:
    """A checkpoint as ONNX and what is made of it."""
    _optional("export", "hf_asr.export.run", argv)


def serve(argv: Sequence[str] | None = None) -> None:
    """REST."""
    _optional("serve", "hf_asr.serving.run", argv)


def publish(argv: Sequence[str] | None = None) -> None:
    """A checkpoint as a page on the Hub."""
    from .hub.publish import main

    main(argv)


def _optional(extra: str, module: str, argv: Sequence[str] | None) -> None:
    """`main` of a module that needs the packages of an extra."""
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install 'hf_asr[{extra}]'")
    main(argv)


def main() -> None:
    """`hf-asr COMMAND …`."""
    commands = {
        "train": train,
        "evaluate": evaluate,
        "transcribe": transcribe,
        "compare": compare,
        "augment-preview": augment_preview,
        "export": export,
        "serve": serve,
        "publish": publish,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: hf-asr {{{','.join(commands)}}} …   (each has --help)")
    commands[sys.argv[1]](sys.argv[2:])
