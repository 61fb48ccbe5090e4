"""Align transcripts with their recordings: the times of words and tokens, and how plausible each transcript is."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..arguments import Parser, add_dataclasses, to_dataclasses
from ..console import on_one_line, print_json
from ..data.audio import LongRecording, Recording
from ..data.encodings import read_text
from ..data.sources import row_recording
from ..data.word_times import read_word_times
from ..decoding.aligner import AlignedTranscript, align_recordings
from ..decoding.annotations import file_names, to_ctm, to_textgrid
from ..decoding.arguments import ChunkArguments, DecodingArguments
from ..decoding.bulk import recognize_all
from ..decoding.recognizer import Audio, Recognizer, load
from ..decoding.subtitles import to_srt
from ..files import write_text
from ..provenance import measured_on
from ..scoring.word_times import compared_words, word_time_metrics
from .evaluate import chunks_of
from .source import add_source_arguments, load_rows

SUFFIXES = {"textgrid": ".TextGrid", "json": ".json", "ctm": ".ctm", "srt": ".srt"}
SCORES = "scores.tsv"
SUMMARY = "alignment.json"
FILES = "alignments"  # folder of the files of the recordings, whose names cannot be those of the other files
COLUMNS = ("score", "utterance_id", "file", "duration", "tokens", "text", "error")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="Checkpoint or exported graph: folder or Hub id.")
    add_source_arguments(parser, is_required=False)
    parser.add_argument("--audio", type=Path, help="One recording of any length, instead of a dataset.")
    parser.add_argument("--text", type=Path, help="Text file with the transcript of --audio.")
    add_dataclasses(parser, [ChunkArguments])
    parser.add_argument(
        "--output_format", nargs="+", choices=SUFFIXES, default=["textgrid", "json"], help="Formats of the files."
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help=f"Folder for {SCORES} (the least plausible transcript first), {SUMMARY}, and a folder {FILES} with the "
        "files of each recording.",
    )


def run(args: Namespace) -> None:
    (arguments,) = to_dataclasses(args, [DecodingArguments])
    datasets.disable_progress_bars()
    rows, selection = _rows(args)
    recognizer = load(args.model_name_or_path, arguments=arguments)
    (args.output_dir / FILES).mkdir(parents=True, exist_ok=True)
    records, metrics = align_rows(recognizer, rows, args.output_dir / FILES, formats=args.output_format)
    if args.audio is not None and (error := records[0].get("error")):
        raise ValueError(f"{args.audio}: {error}")
    for record in records:
        if "error" in record:
            print(f"skipped {on_one_line(record['utterance_id'])}: {on_one_line(record['error'])}", file=sys.stderr)
    if not metrics["aligned"]:
        raise ValueError(f"none of {len(records)} transcripts is aligned; see the reasons above")
    split = None if args.audio else args.eval_split_name
    metrics |= {"split": split, "selection": selection, **chunks_of(recognizer)}
    metrics |= measured_on(
        args.model_name_or_path,
        [str(args.audio or args.dataset_name)],
        decoding="alignment",
        config_name=args.dataset_config_name,
        device=recognizer.model.device,
    )
    write_text(args.output_dir / SCORES, _table(records))
    write_text(args.output_dir / SUMMARY, json.dumps(metrics, ensure_ascii=False, indent=2) + "\n")
    print_json(metrics)


def _rows(args: Namespace) -> tuple[datasets.Dataset, dict[str, int] | None]:
    """Return the rows to align, and their selection as `load_rows` returns it.

    Raises:
        ValueError: The arguments name neither a dataset nor a recording with its text, or both.
    """
    if (args.dataset_name is None) == (args.audio is None) or (args.audio is None) != (args.text is None):
        raise ValueError("give either --dataset_name, or --audio and --text")
    if args.audio is None:
        return load_rows(args)
    try:
        text = read_text(args.text)
    except ValueError as error:
        raise ValueError(f"{args.text} {error}") from error
    audio = {"bytes": None, "path": str(args.audio)}
    return datasets.Dataset.from_list([{"utterance_id": args.audio.name, "audio": audio, "text": text}]), None


def align_rows(
    recognizer: Recognizer,
    rows: datasets.Dataset,
    folder: Path,
    *,
    formats: Sequence[str],
    show_progress: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write the files of each recording; return a record for each row, the least plausible first, and metrics.

    A row that cannot be aligned has its reason as `error`, and comes first. If the dataset has word times, the metrics
    contain their errors.

    Args:
        folder: For the files of the recordings.
        formats: Keys of `SUFFIXES`.
    """
    texts, ids, rate = rows["text"][:], rows["utterance_id"][:], recognizer.sampling_rate
    names, normalize = file_names(ids), recognizer.processor.tokenizer.normalize
    times = read_word_times(rows)

    def read(place: int, max_seconds: float) -> Recording | LongRecording:
        return row_recording(rows[place], sampling_rate=rate, max_seconds=max_seconds, opens_longer=True)

    def transcribe(places: list[int], audio: list[Audio], *, show_progress: bool) -> list:
        return align_recordings(recognizer, audio, [texts[place] for place in places], show_progress=show_progress)

    records, compared, seconds, elapsed = [], [], 0.0, 0.0
    results = recognize_all(recognizer, range(len(rows)), read, transcribe=transcribe, show_progress=show_progress)
    progress = tqdm(results, total=len(rows), desc="Aligning", unit="file", disable=not show_progress)
    for place, result in enumerate(progress):
        record = {"utterance_id": ids[place], "text": normalize(texts[place])}
        records.append(record)
        if result.transcript is None:
            record["error"] = result.error
            continue
        aligned = result.transcript
        record |= {"score": aligned.score, "file": names[place], "duration": round(result.duration, 3)}
        record["tokens"] = len(aligned.tokens)
        for each in formats:
            text = _format(aligned, record, each)
            write_text(folder / f"{names[place]}{SUFFIXES[each]}", text)
        if times is not None and times[place] is not None:
            compared += compared_words(times[place], aligned.words, normalize=normalize)
        seconds, elapsed = seconds + result.duration, elapsed + result.computing_seconds
    records.sort(key=lambda record: record.get("score", -np.inf))
    scores = [record["score"] for record in records if "score" in record]
    metrics = {"utterances": len(records), "aligned": len(scores), "audio_seconds": round(seconds, 2)}
    metrics["real_time_factor"] = elapsed / max(seconds, 1e-9)
    if scores:
        metrics |= {"score_median": float(np.median(scores)), "score_p05": float(np.quantile(scores, 0.05))}
    return records, metrics | (word_time_metrics(compared) if times is not None else {})


def _format(aligned: AlignedTranscript, record: dict[str, Any], output_format: str) -> str:
    """Return the content of a file."""
    if output_format == "textgrid":
        return to_textgrid({"words": aligned.words, "tokens": aligned.tokens}, duration=record["duration"])
    if output_format == "ctm":
        return to_ctm(aligned.words, name=record["file"])
    if output_format == "srt":
        return to_srt(aligned.words) + "\n"
    content = {name: record[name] for name in ("utterance_id", "text", "duration", "score")}
    for key in ("words", "tokens"):
        content[key] = [asdict(word) for word in getattr(aligned, key)]
    return json.dumps(content, ensure_ascii=False) + "\n"


def _table(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as lines of values separated by tabs; the first line has the names of the columns."""
    lines = [COLUMNS, *([on_one_line(str(record.get(name, ""))) for name in COLUMNS] for record in records)]
    return "".join("\t".join(line) + "\n" for line in lines)
