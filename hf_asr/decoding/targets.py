"""Which recordings a command means, and the file that each one's transcript goes into."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.audio import AUDIO_SUFFIXES


@dataclass(frozen=True)
class Source:
    """A recording, and its path below the folder that was searched; of a file that was named itself, its name."""

    path: Path
    name: Path


def find_recordings(paths: Sequence[Path]) -> list[Source]:
    """Return the recordings in folders, and files as they are, missing ones too; each of them once."""
    found: dict[str, Source] = {}
    for given in paths:
        if not given.is_dir():
            found.setdefault(os.path.abspath(given), Source(given, Path(given.name)))
            continue
        files = (file for file in given.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
        for file in sorted(file for file in files if file.is_file()):
            found.setdefault(os.path.abspath(file), Source(file, file.relative_to(given)))
    return list(found.values())


def targets(sources: Sequence[Source], paths: Sequence[Path], output_dir: Path, *, suffix: str) -> list[Path]:
    """Return a file for each source, `suffix` behind the recording's whole name.

    Where two folders of `paths` would give two recordings one file, the folders' own names come in: what stands below
    the deepest folder that holds all of `paths`.

    Raises:
        ValueError: A transcript would replace a recording.
    """
    names = [source.name for source in sources]
    if len({str(name).casefold() for name in names}) < len(names):
        folders = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
        root = os.path.commonpath(folders)
        names = [Path(os.path.relpath(os.path.abspath(source.path), root)) for source in sources]
    chosen = [output_dir / name.with_name(name.name + suffix) for name in names]
    recordings = {os.path.abspath(source.path) for source in sources}
    if lost := [target for target in chosen if os.path.abspath(target) in recordings]:
        raise ValueError(f"a transcript would replace the recording {lost[0]}: give another --output_dir")
    return chosen
