"""Short recordings that tests of sources name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import AudioError
from hf_asr.data.sources import load_source, read_row


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three recordings of 0.1, 0.2 and 0.3 s: a.wav, b.wav and c.wav."""
    for number, name in enumerate("abc", start=1):
        soundfile.write(tmp_path / f"{name}.wav", np.full(1600 * number, 0.1, np.float32), 16000)
    return tmp_path


@pytest.fixture
def read():
    """A function that gives each row of a source as (text, samples, or why there are none)."""

    def read(name, *, split: str = "train", **options) -> list[tuple[str, int | str]]:
        found = []
        for row in load_source(str(name), split=split, **options):
            try:
                found.append((row["text"], len(read_row(row, sampling_rate=16000))))
            except AudioError as error:
                found.append((row["text"], str(error)))
        return found

    return read
