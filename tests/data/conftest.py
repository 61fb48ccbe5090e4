"""Provide short recordings for tests of sources."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import AudioError
from hf_asr.data.sources import Source, read_row


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder with recordings of 0.1, 0.2 and 0.3 s: a.wav, b.wav and c.wav."""
    for number, name in enumerate("abc", start=1):
        soundfile.write(tmp_path / f"{name}.wav", np.full(1600 * number, 0.1, np.float32), 16000)
    return tmp_path


@pytest.fixture
def read():
    """Return a function that lists the rows of a source as (text, number of samples or error message)."""

    def read(name, *, split: str = "train", streaming: bool = False, **options) -> list[tuple[str, int | str]]:
        found = []
        for row in Source(str(name), **options).load(split, streaming=streaming):
            try:
                found.append((row["text"], len(read_row(row, sampling_rate=16000))))
            except AudioError as error:
                found.append((row["text"], str(error)))
        return found

    return read
