"""Read tar shards of webdataset and WeNet: the files of one utterance have the same name and different suffixes."""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .audio import AUDIO_SUFFIXES
from .encodings import EncodingError, decode_text
from .manifests import TEXT_COLUMNS, as_text, first_known, load_json
from .rows import SourceError, encodable, part, unusable, without_own_names


def read_tar(path: Path) -> list[dict]:
    """Return the rows of a shard; `audio` is the path of the shard and `audio_part` the place of the recording in it.

    The id of an utterance is the file name up to the last dot, as in WeNet. The transcript is a `.txt`, or the entry
    `text` (or an alternative to that name) of a `.json`, whose other entries become columns.

    Raises:
        SourceError: The file is not a tar archive, or a compressed one.
    """
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    rows = []
    with open(path, "rb") as file:
        length = file.seek(0, io.SEEK_END)

        def read(member: tarfile.TarInfo) -> bytes:
            file.seek(member.offset_data)
            return file.read(member.size)

        def place(member: tarfile.TarInfo) -> dict:
            if member.offset_data + member.size > length:
                return {"audio": ""} | part(problem=f"{path.name} ends inside {member.name}")
            return {"audio": str(path)} | part(offset=member.offset_data, size=member.size)

        for found in _archives(file, path):
            if isinstance(found, str):
                rows.append(unusable(path.name, found))
                continue
            member, key, suffix = found
            if suffix in groups.setdefault(key, {}):
                rows.append(unusable(member.name, f"{path.name} contains {member.name} twice"))
            else:
                groups[key][suffix] = member
        for key, members in groups.items():
            rows += _utterances(key, members, read, place)
    return list(map(encodable, rows))


def _archives(file: IO[bytes], path: Path) -> Iterator[tuple[tarfile.TarInfo, str, str] | str]:
    """Yield the members of a shard and of shards appended to it; a message if the rest of the file cannot be read.

    Python's tarfile mistakes a damaged header for the end of the archive.
    """
    start = 0
    while True:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as shard:
                try:
                    yield from _members(shard)
                except tarfile.ReadError:  # the file ends inside a member, which was yielded before
                    return
                end = shard.offset
        except tarfile.TarError as error:
            raise SourceError(f"{path} cannot be read as an uncompressed tar shard: {error}") from error
        file.seek(end)
        zeros = bytes(512)
        while (block := file.read(512)) == zeros:
            pass
        if not block.strip(b"\0"):
            return
        rest = file.tell() - len(block)
        if rest == start:
            yield f"{path.name} is damaged at byte {start}: the rest is not read"
            return
        start = rest


def stream_tar(file: IO[bytes], *, name: str) -> Iterator[dict]:
    """Yield the rows of a shard that can only be read forwards, with the bytes of their audio.

    The files of an utterance must be adjacent.

    Args:
        file: The shard, open for reading.
        name: Its name for messages.

    Raises:
        SourceError: The file is not a tar archive, or a compressed one.
    """
    key, members, contents = None, {}, {}

    def rows() -> list[dict]:
        found = _utterances(
            key, members, lambda member: contents[member.name], lambda member: {"audio": contents[member.name]}
        )
        return list(map(encodable, found))

    try:
        with tarfile.open(fileobj=file, mode="r|") as shard:
            for member, member_key, suffix in _members(shard):
                if member_key != key and members:
                    yield from rows()
                    members, contents = {}, {}
                key = member_key
                if suffix in members:
                    yield unusable(member.name, f"{name} contains {member.name} twice")
                    continue
                members[suffix] = member
                contents[member.name] = shard.extractfile(member).read()
        if members:
            yield from rows()
    except tarfile.TarError as error:
        if key is None:
            raise SourceError(f"{name} cannot be read as an uncompressed tar shard: {error}") from error
        yield from rows()
        yield unusable(name, f"{name} is damaged after {key}: {error}")


def _members(shard: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Yield each file with the id of its utterance and its suffix."""
    for member in shard:
        base = member.name.rpartition("/")[2]
        if not member.isfile() or base.startswith("._") or base == ".DS_Store":  # files that macOS adds
            continue
        stem, dot, suffix = member.name.rpartition(".") if "." in base else (member.name, "", "")
        yield member, stem.removeprefix("./"), (dot + suffix).lower()


def _utterances(
    key: str,
    members: dict[str, tarfile.TarInfo],
    read: Callable[[tarfile.TarInfo], bytes],
    place: Callable[[tarfile.TarInfo], dict],
) -> Iterable[dict]:
    """Return the row of an utterance, and a row with a problem for each further recording of the same name.

    Args:
        read: Function of a member that returns its bytes.
        place: Function of a member that returns the columns of its recording.
    """
    audio = [suffix for suffix in members if suffix in AUDIO_SUFFIXES]
    row: dict[str, Any] = {"text": "", "utterance_id": key}
    problem = None
    if ".json" in members:
        try:
            entry = load_json(decode_text(read(members[".json"])))
            if not isinstance(entry, dict):
                raise ValueError(f"is {type(entry).__name__}: expected an object")
            text = as_text(entry.get(first_known(entry, TEXT_COLUMNS)))
            if text is None:
                raise ValueError("has a transcript that is not text")
            # Nested values are left out; the shard itself determines the columns of `row`.
            entry = {name: value for name, value in entry.items() if not isinstance(value, list | dict)}
            row = without_own_names(entry) | row | {"text": text}
        except ValueError as error:
            problem = f"{members['.json'].name} {error}"
    if ".txt" in members:
        try:
            row["text"], problem = decode_text(read(members[".txt"])).strip(), None
        except EncodingError as error:
            problem = f"its transcript {members['.txt'].name} {error}"
    if not audio:
        names = ", ".join(sorted(member.name for member in members.values()))
        return [unusable(key, problem or f"no recording of a known suffix among {names}", text=row["text"])]
    row |= place(members[audio[0]])
    if problem:
        row |= {"audio": ""} | part(problem=problem)
    more = [unusable(members[name].name, f"{key}{audio[0]} is used in its place") for name in audio[1:]]
    return [row, *more]
