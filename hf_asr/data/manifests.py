"""Read manifests: a table of recordings and transcripts in JSON, CSV or TSV, with every value as it is written."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from .encodings import EncodingError, read_text
from .rows import SourceError, is_encodable, part, unusable, without_own_names

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")

# Column names to try by default: our own, audio folders of `datasets`, NeMo, Common Voice, WeNet, LJSpeech, FLEURS,
# DeepSpeech.
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

csv.field_size_limit(2**31 - 1)  # the default of 128 KB is too small for a transcript of an hour


def read_manifest(path: Path) -> list[dict]:
    """Return the rows of a manifest as dicts; an unreadable line becomes a row with a problem.

    Raises:
        SourceError: The whole file cannot be understood; the message names the line.
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
    """Return the value of a JSON text; fractions keep their digits, and NaN and infinity are None.

    Raises:
        json.JSONDecodeError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=lambda name: None)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None


def as_text(value: Any) -> str | None:
    """Return a transcript as it is written, "" if it is None; None if it is not text: a list, half a surrogate pair."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return "" if isinstance(value, float) and math.isnan(value) else str(value)
    return value if isinstance(value, str) and is_encodable(value) else None


def as_seconds(value: Any) -> float | None:
    """Return a duration in seconds; None if it is not a number, 0 or more."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if not isinstance(value, bool) and math.isfinite(seconds) and seconds >= 0 else None


def _json_rows(path: Path, text: str) -> Iterator[dict]:
    """Yield rows of JSON Lines or of one JSON list; numbers keep their digits: the text 1.10 is not 1.1."""
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
        raise SourceError(f"{path} is one JSON object over many lines: expected one object per line")
    for number, line in lines:
        try:
            yield _json_row(f"line {number}", load_json(line))
        except json.JSONDecodeError as error:
            yield unusable(f"line {number}", f"line {number} is not JSON: {error}")


def _json_row(place: str, entry: Any) -> dict:
    if not isinstance(entry, dict):
        return unusable(place, f"{place} is {type(entry).__name__}: expected an object with audio and text")
    try:
        json.dumps(entry, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return unusable(place, f"{place} contains half a surrogate pair, which is not a character")
    entry = without_own_names(entry)
    if as_text(entry.get(first_known(entry, TEXT_COLUMNS))) is None:
        entry |= part(problem=f"{place}: its transcript is not text")
    for name in AUDIO_COLUMNS:
        if isinstance(entry.get(name), dict) and isinstance(entry[name].get("path"), str):
            entry[name] = entry[name]["path"]  # as `datasets` writes an Audio feature
    return entry


def _csv_rows(path: Path, text: str) -> Iterator[dict]:
    """Yield rows of CSV, quoted as in RFC 4180, or of TSV, where a quote is an ordinary character."""
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
                raise SourceError(f"{path}: the header contains {', '.join(sorted(repeated))} twice")
        elif len(fields) > len(header):
            yield unusable(
                f"line {number}",
                f"line {number} has {len(fields)} fields, the header {len(header)}: "
                "a field that contains the separator must be in double quotes (CSV)",
            )
        else:
            row: dict[str, Any] = dict.fromkeys(header) | dict(zip(header, fields, strict=False))
            row.pop("", None)
            yield without_own_names(row)


def _quoted_fields(path: Path, text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield line number and fields of each row of a CSV file; for a wrong line, a message instead of the fields.

    Raises:
        SourceError: A quoted field is not closed, so that the ends of the rows are unknown.
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
                    f"{path}, line {number}: a double quote opens a field and is not closed before line "
                    f"{reader.line_num}: double each quote inside a quoted field (RFC 4180); "
                    "a .tsv needs no quotes"
                ) from error
            yield number, f"line {number} is not a CSV row: {error}"
            continue
        if fields and (len(fields) > 1 or fields[0].strip()):
            yield number, fields


def _nemo_segment(row: dict) -> dict:
    """Return a row of NeMo's manifest with the part of the file that `offset` and `duration` select."""
    offset, duration = row.get("offset"), row.get("duration")
    if offset in (None, ""):
        return row
    return row | between(offset, None if duration in (None, "") else duration, is_duration=True)


def between(start: Any, end: Any, *, is_duration: bool = False) -> dict:
    """Return the part of a recording between two times of a manifest, in seconds; None is the end of the recording.

    Args:
        is_duration: `end` is the duration of the part.
    """
    first, last = as_seconds(0 if start is None else start), as_seconds(end)
    wrong = [value for value, seconds in ((start, first), (end, last)) if seconds is None and value is not None]
    if wrong:
        return part(problem=f"{wrong[0]!r} is not a number of seconds")
    return part(start=first, end=first + last if is_duration and last is not None else last)


def first_known(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first of the `known` names that is in `columns`; None if there is none."""
    return next((name for name in known if name in columns), None)
