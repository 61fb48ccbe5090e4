"""Layouts of other toolkits and plain folders, read to rows of paths: nothing here opens a recording.

Every reader takes a folder or a file and gives a list of rows: `audio` (a path), `text`, `utterance_id`, and what else
the layout knows: `speaker`; `start` and `end` in seconds, of an utterance inside a longer recording; `offset` and
`size` in bytes, of a file inside a tar shard.
"""

import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".aiff"}

logger = logging.getLogger("hf_asr")


class SourceError(ValueError):
    """A dataset, split or column that is not there; the message lists what is."""


def read_kaldi(folder: Path) -> list[dict]:
    """Kaldi's and WeNet's data folder: `wav.scp` and `text`, with `segments` and `utt2spk` if they are there.

    A command in wav.scp ("sox … |") is not run: its row stays, as a file that cannot be read.
    https://kaldi-asr.org/doc/data_prep.html
    """
    recordings = _table(folder / "wav.scp")
    texts = _table(folder / "text")
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    if (folder / "segments").is_file():
        utterances = {}
        for name, value in _table(folder / "segments").items():
            try:
                recording, start, end = value.split()
                utterances[name] = (recording, float(start), float(end))
            except ValueError:
                raise SourceError(
                    f"{folder / 'segments'}: {name} {value!r}: recording, start and end in seconds are expected"
                ) from None
    else:
        utterances = {name: (name, None, None) for name in recordings}
    rows = []
    for name, (recording, start, end) in utterances.items():
        row = {
            "audio": _resolve(folder, recordings.get(recording, f"{recording} (not in wav.scp)")),
            "text": texts.get(name, ""),
            "utterance_id": name,
        }
        if start is not None:
            row |= {"start": start, "end": end if end >= 0 else None}  # Kaldi's -1 is the recording's end
        rows.append(row | ({"speaker": speakers.get(name, "")} if speakers else {}))
    return rows


def read_data_list(path: Path) -> list[dict]:
    """WeNet's `data.list`: one object a line with `key`, `wav` and `txt`, or one tar shard a line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line.startswith("{"):
            try:
                entry = json.loads(line)
                row = {"audio": _resolve(path.parent, entry["wav"]), "text": entry["txt"]}
            except (json.JSONDecodeError, KeyError) as error:
                raise SourceError(f"{path}, line {number}: key, wav and txt are expected ({error!r})") from None
            row |= {"utterance_id": entry.get("key", entry["wav"])}
            rows.append(row | {name: entry[name] for name in ("start", "end", "speaker") if name in entry})
        elif line:
            rows += read_tar(Path(_resolve(path.parent, line)))
    return rows


def read_tar(path: Path) -> list[dict]:
    """A webdataset or WeNet shard: files of one utterance follow one another and share their name up to the first dot.

    The transcript is a `.txt`, or `text` (else `transcript`, `txt`) in a `.json`, whose other entries become columns.
    """
    rows = []
    try:
        with tarfile.open(path, "r:") as shard:
            for name, members in _grouped(shard):
                row = {"utterance_id": name}
                for suffix, member in members.items():
                    if suffix in AUDIO_SUFFIXES:
                        row |= {"audio": str(path), "offset": member.offset_data, "size": member.size}
                    elif suffix == ".txt":
                        row["text"] = shard.extractfile(member).read().decode("utf-8").strip()
                    elif suffix == ".json":
                        entry = json.loads(shard.extractfile(member).read())
                        row = {
                            **{key: value for key, value in entry.items() if not isinstance(value, list | dict)},
                            **row,
                        }
                        row.setdefault("text", entry.get("transcript", entry.get("txt", "")))
                if "audio" in row:
                    rows.append({"text": ""} | row)
    except (OSError, tarfile.TarError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} cannot be read as an uncompressed tar shard: {error}") from error
    return rows


def read_pairs(folder: Path) -> list[dict]:
    """`a.wav` beside `a.txt`, at any depth; a recording without a transcript stays, as a row with an empty one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    stems = {path.with_suffix("") for path in recordings}
    if lonely := [path for path in files if path.suffix.lower() == ".txt" and path.with_suffix("") not in stems]:
        logger.warning(f"{folder}: {len(lonely)} .txt without a recording of the same name are left out: {lonely[0]} …")
    rows = []
    for path in recordings:
        transcript = path.with_suffix(".txt")
        text = transcript.read_text(encoding="utf-8-sig", errors="replace").strip() if transcript.is_file() else ""
        rows.append({"audio": str(path), "text": text, "utterance_id": str(path.relative_to(folder))})
    return rows


def has_pairs(folder: Path) -> bool:
    """Whether a recording somewhere under `folder` has a transcript beside it."""
    return any(
        path.suffix.lower() in AUDIO_SUFFIXES and path.with_suffix(".txt").is_file() for path in folder.rglob("*")
    )


def _grouped(shard: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(name, {suffix: member}) of each run of files with the same name."""
    name, members = None, {}
    for member in shard:
        if not member.isfile():
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if key != name and members:
            yield name, members
            members = {}
        name = key
        members[f".{suffix.lower()}"] = member
    if members:
        yield name, members


def _table(path: Path) -> dict[str, str]:
    """`key value…` a line; the value may be missing."""
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {parts[0]: parts[1].strip() if len(parts) > 1 else "" for parts in lines if parts}


def _resolve(folder: Path, name: str) -> str:
    """Relative to where the command is run, as Kaldi and WeNet have it, or else to the file that names it."""
    path = Path(name)
    return str(path if path.is_absolute() or path.is_file() else folder / path)
