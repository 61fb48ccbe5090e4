"""Recordings that are decoded once have the samples of those that are decoded whenever they are read."""

import json
import os
import pickle
import shutil
import time
from collections import namedtuple

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data import decoded, measuring
from hf_asr.data.audio import AudioError
from hf_asr.data.decoded import decoded_once
from hf_asr.data.rows import ARRAY, PART
from hf_asr.data.sources import Source, read_row

STEREO = np.random.default_rng(0).uniform(-0.9, 0.9, (8000, 2))
DiskUsage = namedtuple("DiskUsage", ["total", "used", "free"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hf_asr" / "decoded"


@pytest.fixture
def rows(folder) -> datasets.Dataset:
    """Return rows of every kind: formats that are resampled, parts of files, a missing file; selected and reordered."""
    soundfile.write(folder / "stereo.flac", STEREO, 8000)
    soundfile.write(folder / "loud.wav", 1.5 * STEREO, 8000, subtype="FLOAT")
    soundfile.write(folder / "speech.ogg", STEREO[:, 0], 24000, subtype="VORBIS")
    names = ["a.wav", "stereo.flac", "loud.wav", "speech.ogg", "missing.wav"]
    lines = [{"audio_filepath": name, "text": f"in {name}", "speaker": name[0]} for name in names]
    lines.append({"audio_filepath": "stereo.flac", "text": "part", "offset": 0.25, "duration": 0.5})
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Source(str(folder / "m.jsonl")).load("train").select([3, 1, 0, 2, 4, 5])


def once(rows) -> datasets.Dataset:
    return decoded_once(rows, 16000, seconds=3.0)


def samples(row: dict) -> np.ndarray | str:
    try:
        return read_row(row, sampling_rate=16000)
    except AudioError as error:
        return str(error)


def test_samples_and_other_columns_are_those_of_the_source(rows, cache):
    found = once(rows)
    assert len(list(cache.iterdir())) == 1
    assert found["text"][:] == rows["text"][:] and found["speaker"][:] == rows["speaker"][:]
    for before, row in zip(rows, found, strict=True):
        np.testing.assert_equal(samples(row), samples(before))
        kinds = [
            {name: type(value) for name, value in each.items() if name not in (PART, ARRAY)} for each in (before, row)
        ]
        assert kinds[0] == kinds[1]
        assert row["audio"]["path"] == before["audio"]["path"]
    assert samples(found[4]) == "file not found"
    read_row(found[0], sampling_rate=16000)[:] = 0  # a copy
    np.testing.assert_equal(samples(found[0]), samples(rows[0]))


def test_decoding_shows_its_progress_in_a_command(rows, capsys):
    datasets.disable_progress_bars()  # as the commands do
    try:
        once(rows)
        assert "Decoding:" in capsys.readouterr().err
        once(rows)
        assert "Decoding" not in capsys.readouterr().err
    finally:
        datasets.enable_progress_bars()


def test_workers_that_are_spawned_read_the_same_file(rows, cache):
    found = once(rows)
    content = pickle.dumps(found)
    assert len(content) < next(cache.iterdir()).stat().st_size
    np.testing.assert_equal(samples(pickle.loads(content)[1]), samples(rows[1]))


def test_a_file_is_decoded_again_only_if_it_changes(rows, cache, folder, monkeypatch):
    read = []
    monkeypatch.setattr(decoded, "read_row", lambda row, **options: read.append(1) or read_row(row, **options))
    once(rows)
    once(rows)
    assert len(read) == len(rows)
    soundfile.write(folder / "a.wav", np.full(800, 0.5), 16000)
    np.testing.assert_equal(samples(once(rows)[2]), samples(rows[2]))
    assert len(read) == 2 * len(rows) and len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("size", [10, 9000])
def test_a_damaged_file_is_written_again(size, rows, cache):
    once(rows)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    os.truncate(path, size)
    np.testing.assert_equal(samples(once(rows)[1]), samples(rows[1]))
    assert path.read_bytes() == whole


def test_embedded_recordings_are_not_stored_twice(folder, cache):
    stored = [{"bytes": (folder / f"{name}.wav").read_bytes(), "path": f"{name}.wav"} for name in "ab"]
    datasets.Dataset.from_dict({"audio": stored, "text": ["x", "y"]}).save_to_disk(folder / "saved")
    before = sorted((folder / "saved").iterdir())
    rows = Source(str(folder / "saved")).load("train").select([1, 0])
    found = once(rows)
    assert [row["audio"] for row in found] == [{"bytes": None, "path": f"{name}.wav"} for name in "ba"]
    np.testing.assert_equal([len(samples(row)) for row in found], [3200, 1600])
    assert sorted((folder / "saved").iterdir()) == before


def test_files_that_no_run_reads_are_deleted_after_a_week(rows, cache, folder):
    once(rows)
    (old,) = cache.iterdir()
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    once(rows)  # read again, and kept
    once(rows.select([0]))
    assert len(list(cache.iterdir())) == 2
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    once(rows.select([1]))
    assert old not in cache.iterdir() and len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("free", [191_000, 193_000])
def test_a_full_disk_leaves_the_rows_unchanged(free, rows, cache, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(10**9, 0, 2 * free))
    assert (once(rows) is rows) == (free < 4 * 16000 * 3)
    assert ("GB free" in caplog.text) == (free < 4 * 16000 * 3)


def test_a_folder_that_cannot_be_written_leaves_the_rows_unchanged(rows, cache, caplog):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder belongs")
    assert once(rows) is rows
    assert "cannot be written or read" in caplog.text


def test_recordings_in_memory_stay_there(caplog):
    caplog.set_level("INFO")
    rows = datasets.Dataset.from_dict({"audio": [{"bytes": b"x", "path": None}], "text": ["x"]})
    assert measuring.identity(rows, sampling_rate=16000) is None
    assert once(rows) is rows
    assert "in memory only" in caplog.text
