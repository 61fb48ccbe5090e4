"""`hf-asr train|evaluate|transcribe`, and what the scripts of these names call."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import datasets

from .checkpoint import load_checkpoint
from .data.audio import AudioError, read_audio
from .data.sources import load_source
from .decoding.recognizer import Transcript, recognize
from .decoding.subtitles import to_srt, to_vtt
from .scoring.evaluation import evaluate_rows, write_results

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".aiff"}


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Prints one JSON object last: cer, wer, …"""
    parser = argparse.ArgumentParser(prog="evaluate", description="Scores a checkpoint on a split.")
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, a folder or a Hub id")
    parser.add_argument("--dataset_name", required=True, help="Hub id, audiofolder, manifest or saved dataset")
    parser.add_argument("--dataset_config_name")
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--audio_column_name", default="audio")
    parser.add_argument("--text_column_name", default="text")
    parser.add_argument("--speaker_column_name", default="speaker")
    parser.add_argument("--speakers", nargs="+", help="score these speakers only")
    parser.add_argument("--output_dir", help="for metrics.json and predictions.jsonl")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    try:
        rows = load_source(
            args.dataset_name,
            split=args.eval_split_name,
            config_name=args.dataset_config_name,
            audio_column=args.audio_column_name,
            text_column=args.text_column_name,
        )
        if args.speakers:
            if args.speaker_column_name not in rows.column_names:
                raise ValueError(
                    f"--speakers needs a column {args.speaker_column_name!r}: {', '.join(rows.column_names)}"
                )
            wanted = set(args.speakers)
            rows = rows.filter(lambda name: str(name) in wanted, input_columns=args.speaker_column_name)
            if not len(rows):
                raise ValueError(
                    f"--speakers {' '.join(args.speakers)}: no utterance of theirs in {args.eval_split_name!r}"
                )
        model, processor = load_checkpoint(args.model_name_or_path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    metrics, records = evaluate_rows(model, processor, rows)
    metrics["split"] = args.eval_split_name
    for record in records:
        if "error" in record:
            print(f"counted as deleted: {record['audio']}: {record['error']}", file=sys.stderr)
    if args.output_dir:
        write_results(args.output_dir, metrics, records)
    print(json.dumps(metrics, ensure_ascii=False))


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
    except (ValueError, OSError) as error:
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
                waveforms.append(read_audio(file, sampling_rate=processor.feature_extractor.sampling_rate))
                readable.append(file)
            except AudioError as error:
                failed += 1
                print(f"skipped {file}: {error}", file=sys.stderr)
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
                partial = target.with_name(f"{target.name}.partial")
                partial.write_text(text + "\n", encoding="utf-8")
                partial.replace(target)
    if failed:
        sys.exit(f"{failed} of {len(files)} files could not be read")


def _audio_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
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


def main() -> None:
    """`hf-asr COMMAND …`."""
    commands = {"train": train, "evaluate": evaluate, "transcribe": transcribe}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: hf-asr {{{','.join(commands)}}} …   (each has --help)")
    commands[sys.argv[1]](sys.argv[2:])
