"""Find recordings in files and folders, and choose the file for the transcript of each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.audio import AUDIO_SUFFIXES
from ..files import find_files


@dataclass(frozen=True)
class RecordingFile:
    """A recording, and its path below the folder that was searched (its file name, if it was not found in a folder)."""

    path: Path
    name: Path


def find_recordings(paths: Sequence[Path]) -> list[RecordingFile]:
    """Return the recordings in folders, and the named files (missing ones, too), each of them once."""
    found: dict[str, RecordingFile] = {}
    for given in paths:
        if not given.is_dir():
            found.setdefault(os.path.abspath(given), RecordingFile(given, Path(given.name)))
            continue
        for file in find_files(given):
            if file.suffix.lower() in AUDIO_SUFFIXES:
                found.setdefault(os.path.abspath(file), RecordingFile(file, file.relative_to(given)))
    return list(found.values())


def output_paths(files: Sequence[RecordingFile], paths: Sequence[Path], output_dir: Path, *, suffix: str) -> list[Path]:
    """Return a file for the transcript of each recording: the recording's whole name with `suffix` appended.

    If recordings of two folders would get the same file, names begin below the deepest folder that holds all `paths`.

    Args:
        paths: Files and folders that were searched.

    Raises:
        ValueError: A transcript would replace a recording.
    """
    names = [file.name for file in files]
    if len({str(name).casefold() for name in names}) < len(names):
        folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
        root = os.path.commonpath(folders)
        names = [Path(os.path.relpath(os.path.abspath(file.path), root)) for file in files]
    chosen = [output_dir / name.with_name(name.name + suffix) for name in names]
    recordings = {os.path.abspath(file.path) for file in files}
    if lost := [path for path in chosen if os.path.abspath(path) in recordings]:
        raise ValueError(f"a transcript would replace the recording {lost[0]}: give another --output_dir")
    return chosen
