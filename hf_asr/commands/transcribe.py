"""Transcribe recordings: files and folders to standard output or into files, and datasets into parquet files."""

import hashlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import datasets
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from ..arguments import Parser, add_dataclasses, to_dataclasses
from ..console import on_one_line, print_json, prints_unicode
from ..data.audio import AudioError, LongRecording, Recording, read_or_open
from ..data.sources import Source
from ..decoding.arguments import DecodingArguments
from ..decoding.bulk import recognize_all
from ..decoding.parts import DatasetJob, transcribe_dataset
from ..decoding.paths import RecordingFile, find_recordings, output_paths
from ..decoding.recognizer import load
from ..decoding.subtitles import to_srt, to_vtt
from ..decoding.transcript import Transcript
from ..files import write_text
from .source import add_recordings_arguments

FORMATS = ("text", "json", "srt", "vtt")
MAX_PIPE_BYTES = 2**30  # in memory


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="Checkpoint or exported graph: folder or Hub id.")
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="FILE|FOLDER", help="Recordings, and folders to search for recordings."
    )
    add_recordings_arguments(parser, is_required=False)
    parser.add_argument("--eval_split_name", default="validation", help="Split of the dataset to transcribe.")
    add_dataclasses(parser, [DecodingArguments])
    parser.add_argument(
        "--output_format", choices=FORMATS, help="Format of the transcripts of files and folders; text by default."
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="Folder for one file per recording, at the recording's path below the folder that was searched; without "
        "it, transcripts are printed. Of a dataset, the folder for the parquet files.",
    )
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="After an interruption, leave out recordings whose file in --output_dir is newer than the recording, and "
        "go on inside a long one. A dataset is always continued.",
    )
    parser.add_argument(
        "--rows_per_part", type=int, default=256, help="Recordings of a dataset in each parquet file of --output_dir."
    )
    parser.add_argument(
        "--ray_workers", type=int, default=0, help="Recognisers that Ray Data starts in a Ray cluster, for a dataset."
    )


def run(args: Namespace) -> None:
    (arguments,) = to_dataclasses(args, [DecodingArguments])
    if args.dataset_name is not None:
        return _run_dataset(args, arguments)
    args.output_format = args.output_format or "text"
    files, places = find_files(args)
    if args.skip_existing:
        files, places = unfinished(files, places)
    recognizer = load(args.model_name_or_path, arguments=arguments)
    # On a terminal, the printed transcripts themselves show the progress of many recordings.
    hides_bar = sys.stderr is None or not sys.stderr.isatty()
    language_model = recognizer.arguments.language_model
    partials = [
        place and _progress_path(file.path, place, args, language_model=language_model)
        for file, place in zip(files, places, strict=True)
    ]

    def read(place: int, limit: float) -> Recording | LongRecording:
        recording = _read(files[place].path, recognizer.sampling_rate, limit)
        if isinstance(recording, LongRecording):
            recording.progress_path = partials[place]
        return recording

    results = recognize_all(recognizer, range(len(files)), read, show_progress=not hides_bar)
    hides_bar |= args.output_dir is None and sys.stdout is not None and sys.stdout.isatty()
    progress = tqdm(results, total=len(files), desc="Recognising", unit="file", disable=hides_bar)
    unread = unwritten = 0
    for file, place, partial, result in zip(files, places, partials, progress, strict=True):
        name = on_one_line(str(file.path))
        if result.transcript is None:
            unread += 1
            print(f"skipped {name}: {on_one_line(result.error)}", file=sys.stderr)
            continue
        for note in result.damage + result.remarks:
            print(f"note: {name}: {on_one_line(note)}", file=sys.stderr)
        transcript = (file.path, result.transcript, result.duration, args.output_format)
        if place is None:
            print(_format(*transcript, is_named=len(files) > 1, is_escaped=not prints_unicode()), flush=True)
        elif not _write(place, _format(*transcript, is_named=False, is_escaped=False)):
            unwritten += 1
        else:
            partial.unlink(missing_ok=True)
    if unread or unwritten:
        problems = [(unread, "read"), (unwritten, "written")]
        sys.exit("; ".join(f"{count} of {len(files)} files could not be {what}" for count, what in problems if count))


def _run_dataset(args: Namespace, arguments: DecodingArguments) -> None:
    """Transcribe a dataset, and print counts as one JSON object.

    Raises:
        ValueError: Recordings or a format are given as well, or there is no folder for the transcripts.
    """
    if args.paths or args.output_format:
        raise ValueError("give either files and folders, with an --output_format, or --dataset_name")
    if args.output_dir is None:
        raise ValueError("--dataset_name needs --output_dir, a folder for parquet files")
    datasets.disable_progress_bars()
    # A folder is the same by any path, and for workers that run elsewhere.
    name, model = (
        os.path.abspath(each) if os.path.exists(each) else each for each in (args.dataset_name, args.model_name_or_path)
    )
    job = DatasetJob(
        Source(name, args.dataset_config_name, audio_column_name=args.audio_column_name),
        args.eval_split_name,
        model_name_or_path=model,
        folder=args.output_dir.resolve(),
        arguments=arguments,
        rows_per_part=args.rows_per_part,
    )
    counts = transcribe_dataset(job, ray_workers=args.ray_workers)
    if counts is not None:
        print_json(counts)


def find_files(args: Namespace) -> tuple[list[RecordingFile], Sequence[Path | None]]:
    """Return the recordings, and the file for each one's transcript: None to print it.

    Raises:
        ValueError: There is no recording, or no file for each of several transcripts.
    """
    if not args.paths:
        raise ValueError("give recordings or folders to transcribe, or --dataset_name")
    files = find_recordings(args.paths)
    if not files:
        raise ValueError(f"no audio files in {', '.join(map(str, args.paths))}")
    if args.output_dir is not None:
        suffix = ".txt" if args.output_format == "text" else f".{args.output_format}"
        return files, output_paths(files, args.paths, args.output_dir, suffix=suffix)
    if len(files) > 1 and args.output_format in ("srt", "vtt"):
        raise ValueError(f"{len(files)} files make {len(files)} {args.output_format} files: give --output_dir")
    return files, [None] * len(files)


def unfinished(files: Sequence[RecordingFile], places: Sequence[Path | None]) -> tuple[list[RecordingFile], list[Path]]:
    """Return the recordings without a transcript that is newer than they are, and the files for their transcripts.

    Raises:
        ValueError: Transcripts are printed and not written.
    """
    if None in places:
        raise ValueError("--skip_existing needs --output_dir, which has the transcripts of earlier runs")
    left = [(file, place) for file, place in zip(files, places, strict=True) if not _is_newer(place, file.path)]
    print(f"{len(files) - len(left)} of {len(files)} recordings have a transcript", file=sys.stderr)
    return [file for file, _ in left], [place for _, place in left]


def _progress_path(recording: Path, place: Path, args: Namespace, *, language_model: str | None) -> Path:
    """Return the file for what is recognised of a long recording, after deleting one that must not be used.

    It goes on only with `--skip_existing`, from a file that is newer than the recording, the checkpoint and the
    language model.
    """
    path, model = progress_path(place), Path(args.model_name_or_path)
    sources = [recording, *(model.glob("model*") if model.is_dir() else [model])]
    sources += [Path(language_model)] if language_model else []
    if not (args.skip_existing and all(_is_newer(path, source) for source in sources)):
        path.unlink(missing_ok=True)
    return path


def progress_path(place: Path) -> Path:
    """Return the file for the progress in the recording whose transcript will be at `place`.

    It is a pickle, so it is in the user's own cache: a folder of transcripts can come from somebody else.
    """
    digest = hashlib.sha256(str(place.resolve()).encode(errors="surrogateescape")).hexdigest()
    return Path(HF_HOME, "hf_asr", "progress", f"{digest[:32]}.pickle")


def _is_newer(path: Path, other: Path) -> bool:
    """Return whether a file exists and is newer than another one, or the other one does not exist.

    No file is newer than what a pipe contains.
    """
    if not (path.is_file() and other.is_file()):
        return path.is_file() and not other.exists()
    return path.stat().st_mtime >= other.stat().st_mtime


def _read(path: Path, sampling_rate: int, max_seconds: float) -> Recording | LongRecording:
    try:
        content = _readable(path)
    except OSError as error:
        raise AudioError(f"cannot be read: {error}") from error
    return read_or_open(content, sampling_rate=sampling_rate, max_seconds=max_seconds)


def _readable(path: Path) -> Path | bytes:
    """Return a path, or the content of what decoders cannot open: a pipe, or a file whose name is not valid text.

    Raises:
        AudioError: A pipe has more than `MAX_PIPE_BYTES`.
    """
    if path.is_fifo():
        with path.open("rb") as pipe:
            content = pipe.read(MAX_PIPE_BYTES + 1)
        if len(content) > MAX_PIPE_BYTES:
            raise AudioError(f"has more than {MAX_PIPE_BYTES >> 20} MiB, the limit of a pipe: write it to a file first")
        return content
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes() if path.is_file() else path
    return path


def _write(path: Path, text: str) -> bool:
    """Write a transcript; return False, after a message, if that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text + "\n")
    except OSError as error:
        print(f"not written: {on_one_line(f'{path}: {error}')}", file=sys.stderr)
        return False
    return True


def _format(
    path: Path,
    transcript: Transcript,
    duration: float,
    output_format: str,
    *,
    is_named: bool,
    is_escaped: bool,
) -> str:
    """Return a transcript as text (with the file's name if `is_named`), JSON (ASCII if `is_escaped`), srt or vtt."""
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
