"""Recordings and archives as a corpus publishes them, and what training reads of a prepared corpus."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from hf_asr.data.sources import Source, row_duration


def write_noise(path: Path, *, seconds: float = 0.3) -> None:
    """Write a recording of noise, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds)), 16000)


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def pack(path: Path, files: Mapping[str, bytes] | Path) -> Path:
    """Write a compressed tar file of {name: content}, or of what a folder contains."""
    with tarfile.open(path, "w:gz") as archive:
        if isinstance(files, Path):
            for entry in sorted(files.iterdir()):
                archive.add(entry, entry.name)
            return path
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def loaded(folder: Path, split: str) -> dict[str, tuple]:
    """Return the text, speaker and seconds that training reads, by utterance."""
    rows = Source(str(folder)).load(split)
    return {row["utterance_id"]: (row["text"], row["speaker"], round(row_duration(row), 2)) for row in rows}
