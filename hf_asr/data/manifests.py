"""Manifests: a table of recordings and transcripts in JSON, CSV or TSV, with every value as it is written."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from .rows import SourceError, part, unusable, without_own_names
from .text import EncodingError, read_text

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")

# What a recording and a transcript are called where nobody names the columns: ours, `datasets`' audio folders, NeMo,
# Common Voice, WeNet, LJSpeech, FLEURS, DeepSpeech.
AUDIO_COLUMNS = (
    "audio",
    "file_name",
    "audio_filepath",
    "path",
    "wav",
    "file",
    "audio_path",
    "wav_filename",
    "filename",
)
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "txt", "normalized_text", "raw_transcription")
NEMO_AUDIO = "audio_filepath"
NUMERIC_COLUMNS = ("duration",)  # seconds; every other column of a CSV or TSV stays text
DELIMITERS = ",;\t|"

csv.field_size_limit(2**31 - 1)  # a transcript of an hour is longer than 128 KB


def read_manifest(path: Path) -> list[dict]:
    """Return the rows of a manifest, a dict of its columns each; a line that is no row becomes one that says why.

    Raises:
        SourceError: The file as a whole cannot be understood; the message names the line.
    """
    try:
        text = read_text(path)
    except EncodingError as error:
        raise SourceError(f"{path} {error}") from error
    rows = list(_json_rows(path, text) if path.suffix.lower() in (".jsonl", ".json") else _csv_rows(path, text))
    if any(NEMO_AUDIO in row for row in rows):
        rows = [_nemo_segment(row) for row in rows]
    for row in rows:
        if row.get("speaker") == "":
            row["speaker"] = None
        for name in NUMERIC_COLUMNS:
            if name in row:
                row[name] = as_seconds(row[name])
    return rows


def load_json(text: str) -> Any:
    """Return what a text in JSON holds; fractions keep their digits, and what is no number is null.

    Raises:
        json.JSONDecodeError: It is no JSON.
    """
    return json.loads(text, parse_float=Decimal, parse_constant=lambda name: None)


def as_text(value: Any) -> str | None:
    """Return a transcript as it is written, "" for a missing one; None for what is no text, such as a list."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | Decimal):
        return "" if isinstance(value, float) and math.isnan(value) else str(value)
    return None


def as_seconds(value: Any) -> float | None:
    """Return a duration in seconds; None where it is not known."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if not isinstance(value, bool) and math.isfinite(seconds) and seconds >= 0 else None


def _json_rows(path: Path, text: str) -> Iterator[dict]:
    """One object a line, or one list of objects; numbers keep their digits, so that the text 1.10 is not 1.1."""
    if text.lstrip().startswith("["):
        try:
            entries = load_json(text)
        except json.JSONDecodeError as error:
            raise SourceError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
        named = ((f"entry {number}", entry) for number, entry in enumerate(entries, start=1))
        yield from (_json_row(place, entry) for place, entry in named)
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(lines) > 1 and lines[0][1].strip() == "{":
        raise SourceError(f"{path} is one JSON object over many lines: one object a line is expected")
    for number, line in lines:
        try:
            yield _json_row(f"line {number}", load_json(line))
        except json.JSONDecodeError as error:
            yield unusable(f"line {number}", f"line {number} is no JSON: {error}")


def _json_row(place: str, entry: Any) -> dict:
    if not isinstance(entry, dict):
        return unusable(place, f"{place} is {type(entry).__name__}, an object with audio and text is expected")
    try:
        json.dumps(entry, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return unusable(place, f"{place} holds half a surrogate pair, which is no character")
    entry = without_own_names(entry)
    if as_text(entry.get(first_known(entry, TEXT_COLUMNS))) is None:
        entry |= part(problem=f"{place}: its transcript is no text")
    for name in AUDIO_COLUMNS:
        if isinstance(entry.get(name), dict) and isinstance(entry[name].get("path"), str):
            entry[name] = entry[name]["path"]  # as `datasets` writes an Audio feature
    return entry


def _csv_rows(path: Path, text: str) -> Iterator[dict]:
    """CSV quotes as RFC 4180 has it; in a tab-separated file a quote is a letter like any other."""
    if path.suffix.lower() == ".tsv":
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        table = ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line.strip())
    else:
        table = _quoted_fields(path, text)
    header: list[str] | None = None
    for number, fields in table:
        if isinstance(fields, str):
            yield unusable(f"line {number}", fields)
        elif header is None:
            header = [name.strip() for name in fields]
            if repeated := {name for name in header if name and header.count(name) > 1}:
                raise SourceError(f"{path}: the header names {', '.join(sorted(repeated))} twice")
        elif len(fields) > len(header):
            yield unusable(
                f"line {number}",
                f"line {number} has {len(fields)} fields, the header {len(header)}: "
                "a field that holds the separator must stand in double quotes (CSV)",
            )
        else:
            row: dict[str, Any] = dict.fromkeys(header) | dict(zip(header, fields, strict=False))
            row.pop("", None)
            yield without_own_names(row)


def _quoted_fields(path: Path, text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Line number and fields of each row of a CSV; a message in place of the fields of a line that is wrong by itself.

    Raises:
        SourceError: A quote is not closed where its field ends, so that nobody knows where the rows end.
    """
    first_line = text.split("\n", 1)[0]
    delimiter = "," if "," in first_line else max(DELIMITERS, key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > number or "unexpected end" in str(error):
                raise SourceError(
                    f"{path}, line {number}: a double quote opens a field there and is not closed before line "
                    f"{reader.line_num}: inside a quoted field a quote is written twice (RFC 4180); "
                    "a .tsv needs no quotes"
                ) from error
            yield number, f"line {number} is no CSV row: {error}"
            continue
        if fields and (len(fields) > 1 or fields[0].strip()):
            yield number, fields


def _nemo_segment(row: dict) -> dict:
    """NeMo's `offset` and `duration` are the part of the file that a row means."""
    offset, duration = row.get("offset"), row.get("duration")
    if offset in (None, ""):
        return row
    return row | segment(offset, None if duration in (None, "") else duration, is_duration=True)


def segment(start: Any, end: Any, *, is_duration: bool = False) -> dict:
    """Return the part of a recording between two times as a manifest writes them, in seconds; None is its end.

    Args:
        is_duration: `end` is the length of the part.
    """
    first, last = as_seconds(0 if start is None else start), as_seconds(end)
    wrong = [value for value, seconds in ((start, first), (end, last)) if seconds is None and value is not None]
    if wrong:
        return part(problem=f"{wrong[0]!r} is no number of seconds")
    return part(start=first, end=first + last if is_duration and last is not None else last)


def first_known(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first of the `known` names that there is among `columns`."""
    return next((name for name in known if name in columns), None)
