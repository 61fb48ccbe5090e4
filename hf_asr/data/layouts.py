"""Layouts of other toolkits and plain folders, read to rows of paths: nothing here opens a recording.

Every reader takes a folder or a file and returns a list of rows: `audio` (a path), `text`, `utterance_id`, `audio_part`
where a row is less than its file, and what else the layout knows, such as `speaker`. What a layout names and has no
recording, or cannot be understood, is a row as well: one that says why (see `unusable`).
"""

import json
import logging
from collections import Counter
from pathlib import Path

from .audio import AUDIO_SUFFIXES
from .manifests import AUDIO_COLUMNS, as_text, load_json, segment
from .rows import SourceError, part, unusable
from .shards import read_tar
from .text import EncodingError, read_lines, read_text

logger = logging.getLogger("hf_asr")


def read_kaldi(folder: Path) -> list[dict]:
    """Read Kaldi's and WeNet's data folder: `wav.scp` and `text`, with `segments` and `utt2spk` if they are there.

    A command in wav.scp ("sox … |") is not run: its utterances are rows without a recording.
    https://kaldi-asr.org/doc/data_prep.html
    """
    rows: list[dict] = []
    recordings, texts = _table(folder / "wav.scp", rows), _table(folder / "text", rows)
    speakers = _table(folder / "utt2spk", rows) if (folder / "utt2spk").is_file() else {}
    utterances: dict[str, dict] = {name: {"recording": name} for name in recordings}
    if (folder / "segments").is_file():
        utterances = {name: _kaldi_segment(value) for name, value in _table(folder / "segments", rows).items()}
    for name, meant in utterances.items():
        recording, problem = meant.pop("recording"), meant.pop("problem", None)
        path = recordings.get(recording)
        if path is None:
            problem = problem or f"its recording {recording!r} is not in wav.scp"
        elif path.endswith("|"):
            problem = problem or f"wav.scp has a command for it, and commands are not run: {path}"
        row = {"audio": _resolve(folder, path or ""), "text": texts.pop(name, ""), "utterance_id": name}
        if problem or meant:
            row |= part(problem=problem, **meant)
        rows.append(row | ({"speaker": speakers.get(name)} if speakers else {}))
    where = "segments" if (folder / "segments").is_file() else "wav.scp"
    rows += [unusable(name, f"it is in text and not in {where}", text=text) for name, text in texts.items()]
    return rows


def _kaldi_segment(value: str) -> dict:
    """A line of `segments`: recording, start and end in seconds (-1 is the recording's end), and perhaps a channel."""
    fields = value.split()
    try:
        start, end = float(fields[1]), float(fields[2])
        segment = {"recording": fields[0], "start": start, "end": end if end >= 0 else None}
        if len(fields) > 3:
            segment["channel"] = {"A": 0, "B": 1}[fields[3]] if fields[3] in ("A", "B") else int(fields[3])
        if len(fields) > 4 or segment.get("channel", 0) < 0:
            raise ValueError
    except (ValueError, IndexError):
        problem = f"segments: {value!r}: recording, start and end in seconds, and perhaps a channel are expected"
        return {"recording": fields[0] if fields else "", "problem": problem}
    return segment


def read_data_list(path: Path) -> list[dict]:
    """Read WeNet's `data.list`: one object a line with `key`, `wav` and `txt`, or one tar shard a line."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        line, place = line.strip(), f"{path.name}, line {number}"
        if line.startswith("{"):
            try:
                entry = load_json(line)
                wav, text = entry["wav"], as_text(entry["txt"])
            except (json.JSONDecodeError, KeyError) as error:
                rows.append(unusable(place, f"{place}: key, wav and txt are expected ({error!r})"))
                continue
            if not isinstance(wav, str) or text is None:
                rows.append(unusable(place, f"{place}: wav is a path and txt a text, not {wav!r} and {entry['txt']!r}"))
                continue
            row = {"audio": _resolve(path.parent, wav), "text": text, "utterance_id": str(entry.get("key", wav))}
            if entry.get("start") is not None or entry.get("end") is not None:
                row |= segment(entry.get("start"), entry.get("end"))
            rows.append(row | {"speaker": entry["speaker"]} if "speaker" in entry else row)
        elif line:
            shard = Path(_resolve(path.parent, line))
            if shard.is_file():
                rows += read_tar(shard)
            else:
                rows.append(unusable(place, f"{place}: {line} is no file: an object or the path of a tar is expected"))
    return rows


def read_pairs(folder: Path) -> list[dict]:
    """Read `a.wav` beside `a.txt`, at any depth; what has no other half is a row without it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    rows, first = [], {}
    for path in recordings:
        name, transcript = str(path.relative_to(folder)), _transcript_beside(path)
        row = {"audio": str(path), "text": "", "utterance_id": name}
        used = first.setdefault(path.with_suffix(""), path)
        if transcript is not None and used != path:
            row |= part(problem=f"{used.name} beside it has the same transcript and is used in its place")
        elif transcript is not None:
            try:
                row["text"] = read_text(transcript).strip()
            except (EncodingError, OSError) as error:
                row |= part(problem=f"its transcript {transcript.name} {error}")
        rows.append(row)
    stems = {path.with_suffix("") for path in recordings}
    for path in files:
        if path.suffix.lower() == ".txt" and path.with_suffix("") not in stems:
            name = str(path.relative_to(folder))
            rows.append(unusable(name, f"{name} has no recording of the same name beside it"))
    return rows


def has_pairs(folder: Path) -> bool:
    """Return whether a recording somewhere under `folder` has a transcript beside it."""
    return any(
        path.suffix.lower() in AUDIO_SUFFIXES and _transcript_beside(path) is not None for path in folder.rglob("*")
    )


def read_ljspeech(folder: Path) -> list[dict]:
    """Read LJSpeech as it is downloaded: `wavs/`, and a metadata.csv of `name|text|text with numbers spelled`."""
    rows = []
    for number, line in enumerate(_lines(folder / "metadata.csv"), start=1):
        name, *texts = line.split("|")
        if not 1 <= len(texts) <= 2:
            rows.append(unusable(f"line {number}", f"metadata.csv, line {number}: name|text|text is expected"))
            continue
        rows.append({"audio": str(folder / "wavs" / f"{name}.wav"), "text": texts[0], "utterance_id": name})
    return rows


def is_ljspeech(folder: Path) -> bool:
    """Return whether `folder` is laid out as LJSpeech."""
    if not (folder / "wavs").is_dir() or not (folder / "metadata.csv").is_file():
        return False
    with open(folder / "metadata.csv", "rb") as file:
        first, *more = file.readline(10_000).decode("utf-8", "replace").split("|")
    return bool(more) and first.strip().lstrip("\ufeff") not in AUDIO_COLUMNS  # else it is a header


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(name.startswith(".") for name in path.relative_to(folder).parts)


def _transcript_beside(path: Path) -> Path | None:
    return next((beside for end in (".txt", ".TXT") if (beside := path.with_suffix(end)).is_file()), None)


def _table(path: Path, rows: list[dict]) -> dict[str, str]:
    """`key value…` a line; the value may be missing. A key that comes again is added to `rows` as unusable."""
    values: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for line in _lines(path):
        key, _, value = line.replace("\t", " ").strip(" ").partition(" ")
        if not key:
            continue
        seen[key] += 1
        if seen[key] > 1:
            text = value.strip(" ") if path.name == "text" else ""
            rows.append(unusable(f"{key} ({seen[key]})", f"{path.name} has {key} more than once", text=text))
        else:
            # A tab inside a transcript stays one.
            values[key] = line.strip(" \t")[len(key) :].strip(" \t")
    return values


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except EncodingError as error:
        raise SourceError(f"{path} {error}") from error


def _resolve(folder: Path, name: str) -> str:
    """Relative to where the command is run, as Kaldi and WeNet have it, or else to the file that names it."""
    path = Path(name)
    try:
        is_there = path.is_absolute() or path.is_file()
    except OSError:  # longer than a name may be: no path
        return name
    return str(path if is_there else folder / path) if name else ""
