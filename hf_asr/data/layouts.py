"""Read layouts of other toolkits and plain folders into rows of paths, without opening a recording.

Every reader takes a folder or a file and returns a list of rows: `audio` (a path), `text`, `utterance_id`, `audio_part`
if a row is only a part of its file, and further columns of the layout, such as `speaker`. An entry without a recording,
or one that cannot be understood, becomes a row with a problem (see `unusable`).
"""

import json
import logging
from collections import Counter
from pathlib import Path

from ..files import find_files
from .audio import AUDIO_SUFFIXES
from .encodings import EncodingError, read_lines, read_text
from .manifests import AUDIO_COLUMNS, as_text, between, load_json
from .rows import SourceError, part, unusable
from .shards import read_tar

logger = logging.getLogger("hf_asr")


def read_kaldi(folder: Path) -> list[dict]:
    """Read a data folder of Kaldi or WeNet: `wav.scp` and `text`, and `segments` and `utt2spk` if they exist.

    Commands in wav.scp ("sox … |") are not run: their utterances become rows with a problem.
    https://kaldi-asr.org/doc/data_prep.html
    """
    rows: list[dict] = []
    recordings, texts = _table(folder / "wav.scp", rows), _table(folder / "text", rows)
    speakers = _table(folder / "utt2spk", rows) if (folder / "utt2spk").is_file() else {}
    utterances: dict[str, dict] = {name: {"recording": name} for name in recordings}
    if (folder / "segments").is_file():
        utterances = {name: _kaldi_segment(value) for name, value in _table(folder / "segments", rows).items()}
    for name, segment in utterances.items():
        recording, problem = segment.pop("recording"), segment.pop("problem", None)
        path = recordings.get(recording)
        if path is None:
            problem = problem or f"its recording {recording!r} is not in wav.scp"
        elif path.endswith("|"):
            problem = problem or f"its recording is a command in wav.scp, and commands are not run: {path}"
        row = {"audio": _resolve(folder, path or ""), "text": texts.pop(name, ""), "utterance_id": name}
        if problem or segment:
            row |= part(problem=problem, **segment)
        rows.append(row | ({"speaker": speakers.get(name)} if speakers else {}))
    where = "segments" if (folder / "segments").is_file() else "wav.scp"
    rows += [unusable(name, f"it is in text but not in {where}", text=text) for name, text in texts.items()]
    return rows


def _kaldi_segment(value: str) -> dict:
    """Parse a line of `segments`: recording, start and end in seconds (an end of -1 is its end), optional channel."""
    fields = value.split()
    try:
        start, end = float(fields[1]), float(fields[2])
        segment = {"recording": fields[0], "start": start, "end": end if end >= 0 else None}
        if len(fields) > 3:
            segment["channel"] = {"A": 0, "B": 1}[fields[3]] if fields[3] in ("A", "B") else int(fields[3])
        if len(fields) > 4 or segment.get("channel", 0) < 0:
            raise ValueError
    except (ValueError, IndexError):
        problem = f"segments: {value!r}: expected recording, start and end in seconds, and optionally a channel"
        return {"recording": fields[0] if fields else "", "problem": problem}
    return segment


def read_data_list(path: Path) -> list[dict]:
    """Read a `data.list` of WeNet: each line is an object with `key`, `wav` and `txt`, or the path of a tar shard."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        line, place = line.strip(), f"{path.name}, line {number}"
        if line.startswith("{"):
            try:
                entry = load_json(line)
                wav, text = entry["wav"], as_text(entry["txt"])
            except (json.JSONDecodeError, KeyError) as error:
                rows.append(unusable(place, f"{place}: expected key, wav and txt ({error!r})"))
                continue
            if not isinstance(wav, str) or text is None:
                rows.append(
                    unusable(place, f"{place}: wav must be a path and txt a text, not {wav!r} and {entry['txt']!r}")
                )
                continue
            row = {"audio": _resolve(path.parent, wav), "text": text, "utterance_id": str(entry.get("key", wav))}
            if entry.get("start") is not None or entry.get("end") is not None:
                row |= between(entry.get("start"), entry.get("end"))
            rows.append(row | {"speaker": entry["speaker"]} if "speaker" in entry else row)
        elif line:
            shard = Path(_resolve(path.parent, line))
            if shard.is_file():
                rows += read_tar(shard)
            else:
                rows.append(
                    unusable(place, f"{place}: {line} is not a file: expected an object or the path of a tar shard")
                )
    return rows


def read_pairs(folder: Path) -> list[dict]:
    """Read pairs of `a.wav` and `a.txt` at any depth; a file without its counterpart becomes an incomplete row."""
    files = [path for path in find_files(folder) if not _is_hidden(path, folder)]
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    rows, first = [], {}
    for path in recordings:
        name, transcript = str(path.relative_to(folder)), _transcript_beside(path)
        row = {"audio": str(path), "text": "", "utterance_id": name}
        used = first.setdefault(path.with_suffix(""), path)
        if transcript is not None and used != path:
            row |= part(problem=f"{used.name} in the same folder has the same transcript and is used instead")
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
            rows.append(unusable(name, f"{name} has no recording of the same name in its folder"))
    return rows


def has_pairs(folder: Path) -> bool:
    """Return whether a recording at any depth of `folder` has a transcript of the same name."""
    return any(
        path.suffix.lower() in AUDIO_SUFFIXES and _transcript_beside(path) is not None for path in find_files(folder)
    )


def read_ljspeech(folder: Path) -> list[dict]:
    """Read LJSpeech as downloaded: `wavs/` and a metadata.csv with lines `name|text|text with numbers spelled`."""
    rows = []
    for number, line in enumerate(_lines(folder / "metadata.csv"), start=1):
        name, *texts = line.split("|")
        if not 1 <= len(texts) <= 2:
            rows.append(unusable(f"line {number}", f"metadata.csv, line {number}: expected name|text|text"))
            continue
        rows.append({"audio": str(folder / "wavs" / f"{name}.wav"), "text": texts[0], "utterance_id": name})
    return rows


def is_ljspeech(folder: Path) -> bool:
    """Return whether `folder` has the layout of LJSpeech."""
    if not (folder / "wavs").is_dir() or not (folder / "metadata.csv").is_file():
        return False
    with open(folder / "metadata.csv", "rb") as file:
        first, *more = file.readline(10_000).decode("utf-8", "replace").split("|")
    return bool(more) and first.strip().lstrip("\ufeff") not in AUDIO_COLUMNS  # otherwise the first line is a header


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(name.startswith(".") for name in path.relative_to(folder).parts)


def _transcript_beside(path: Path) -> Path | None:
    return next((beside for end in (".txt", ".TXT") if (beside := path.with_suffix(end)).is_file()), None)


def _table(path: Path, rows: list[dict]) -> dict[str, str]:
    """Parse lines `key value…` (the value may be missing); add each repeated key to `rows` as unusable."""
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
            # A tab inside a transcript is kept.
            values[key] = line.strip(" \t")[len(key) :].strip(" \t")
    return values


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except EncodingError as error:
        raise SourceError(f"{path} {error}") from error


def _resolve(folder: Path, name: str) -> str:
    """Return a path relative to the working directory if it exists (as in Kaldi, WeNet), else relative to `folder`."""
    path = Path(name)
    try:
        is_there = path.is_absolute() or path.is_file()
    except OSError:  # too long for a path
        return name
    return str(path if is_there else folder / path) if name else ""
