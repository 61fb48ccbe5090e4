"""Check that recordings are decoded once: results are cached, and processes divide the work and compare their data."""

import json
import os

import datasets
import pytest
import soundfile

from hf_asr.data import measuring
from hf_asr.data.measuring import Measurement, measure
from hf_asr.data.sources import Source


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def rows(folder):
    (folder / "broken.wav").write_bytes(b"no audio")
    names = ["a.wav", "broken.wav", "b.wav"]
    lines = (json.dumps({"audio": name, "text": name}) + "\n" for name in names)
    (folder / "m.jsonl").write_text("".join(lines))
    return lambda: Source(str(folder / "m.jsonl")).load("train")


@pytest.fixture
def decoded(monkeypatch):
    """Return a list to which the path of each decoded recording is appended."""
    found, read = [], measuring.row_recording

    def counted(row, **options):
        found.append(os.path.basename(row["audio"]["path"] or "") or row["utterance_id"])
        return read(row, **options)

    monkeypatch.setattr(measuring, "row_recording", counted)
    return found


def look(rows, **options) -> list[Measurement]:
    return measure(rows, sampling_rate=16000, show_progress=False, **options)


def test_measurements_are_cached_until_a_file_changes(rows, decoded, folder):
    first = look(rows())
    assert [item.seconds for item in first] == pytest.approx([0.1, 0, 0.2])
    assert first[1].problem and first[0].problem is None and sorted(decoded) == ["a.wav", "b.wav", "broken.wav"]
    decoded.clear()
    assert look(rows()) == first and not decoded
    assert look(rows().select([2, 0])) == [first[2], first[0]]  # selected rows are decoded again
    assert sorted(decoded) == ["a.wav", "b.wav"]
    soundfile.write(folder / "broken.wav", [0.1] * 800, 16000)
    assert look(rows())[1] == Measurement(0.05)


def test_another_rate_or_part_is_measured_again(folder, decoded):
    def segments(*offsets: float) -> datasets.Dataset:
        lines = ({"audio_filepath": "c.wav", "offset": offset, "duration": 0.1, "text": "x"} for offset in offsets)
        (folder / "n.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Source(str(folder / "n.jsonl")).load("train")

    look(segments(0, 0.1))
    look(segments(0, 0.2))
    measure(segments(0, 0.2), sampling_rate=8000, show_progress=False)
    assert len(decoded) == 6
    look(segments(0, 0.1))
    assert len(decoded) == 6


def test_embedded_audio_is_cached_by_its_dataset_files(folder, decoded):
    stored = [{"bytes": (folder / f"{name}.wav").read_bytes(), "path": f"{name}.wav"} for name in "ab"]
    datasets.Dataset.from_dict({"audio": stored, "text": ["x", "y"]}).save_to_disk(folder / "saved")
    rows = Source(str(folder / "saved")).load("train")
    assert [item.seconds for item in look(rows)] == pytest.approx([0.1, 0.2])
    look(Source(str(folder / "saved")).load("train"))
    assert len(decoded) == 2
    assert look(rows.select([1]))[0].seconds == pytest.approx(0.2)
    datasets.Dataset.from_dict({"audio": stored[::-1], "text": ["x", "y"]}).save_to_disk(folder / "other")
    assert look(Source(str(folder / "other")).load("train"))[0].seconds == pytest.approx(0.2)


def test_an_unwritable_cache_folder_is_not_an_error(rows, memory):
    memory.write_text("a file in its place")
    assert [item.seconds for item in look(rows())] == pytest.approx([0.1, 0, 0.2])


def test_known_durations_are_used_without_reading_files(tmp_path):
    lines = ({"audio": "gone.wav", "text": "x", "duration": duration} for duration in (1.5, 2))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = look(Source(str(tmp_path / "m.jsonl")).load("train"), decode=False)
    assert found == [Measurement(1.5), Measurement(2.0)]


# Two processes with gloo measure several times; in the last one, the second process reads different data.
TOGETHER = """
import os, sys
import torch.distributed as distributed
from hf_asr.data import measuring
from hf_asr.data.sources import Source

distributed.init_process_group("gloo")
rank, count = distributed.get_rank(), 0
read = measuring.row_recording
def counted(row, **options):
    global count
    count += 1
    return read(row, **options)
measuring.row_recording = counted
for kind in ("first", "again", "other"):
    count, rows = 0, Source(sys.argv[1]).load("train")
    if kind == "other" and rank == 1:
        rows = rows.select([0, 1])
    try:
        found = measuring.measure_together(rows, sampling_rate=16000, decode=True, label="x")
        print(f"{kind}, rank {rank}: {count} decoded, {[round(item.seconds, 2) for item in found]}", flush=True)
    except ValueError as error:
        print(f"{kind}, rank {rank}: {error}", flush=True)
distributed.destroy_process_group()
"""


def test_processes_divide_the_work_and_compare_their_data(rows, torchrun, folder, memory):
    rows()
    (memory.parent / "together.py").write_text(TOGETHER)
    environment = {"HF_HOME": str(memory), "OMP_NUM_THREADS": "1"}
    output = torchrun(memory.parent / "together.py", folder / "m.jsonl", processes=2, **environment)[0]
    assert "first, rank 0: 2 decoded, [0.1, 0.0, 0.2]" in output
    assert "first, rank 1: 1 decoded, [0.1, 0.0, 0.2]" in output
    for rank in (0, 1):
        assert f"again, rank {rank}: 0 decoded, [0.1, 0.0, 0.2]" in output
        assert f"other, rank {rank}: the processes read different data: process 0 has 3 rows, process 1 2" in output


def test_files_of_the_same_name_in_two_folders_are_measured_separately(tmp_path, decoded, monkeypatch):
    for name, seconds in (("x", 1), ("y", 2)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", [0.1] * 16000, 16000 // seconds)
        os.utime(tmp_path / name / "a.wav", ns=(0, 0))
        (tmp_path / name / "m.jsonl").write_text('{"audio": "a.wav", "text": "x"}')
        monkeypatch.chdir(tmp_path / name)
        rows = Source("./m.jsonl").load("train")
        assert look(rows)[0].seconds == pytest.approx(seconds)


def test_audio_only_in_memory_is_not_cached(folder, decoded):
    stored = [{"bytes": (folder / f"{name}.wav").read_bytes(), "path": "x.wav"} for name in "abc"]
    datasets.Dataset.from_dict({"audio": stored[:1], "text": ["x"]}).save_to_disk(folder / "saved")
    saved = Source(str(folder / "saved")).load("train").select_columns(["audio", "text"])
    for number in (1, 2):
        memory = datasets.Dataset.from_dict({"audio": [stored[number]], "text": ["y"]})
        both = datasets.concatenate_datasets([saved, memory.cast_column("audio", datasets.Audio(decode=False))])
        assert [item.seconds for item in look(both)] == pytest.approx([0.1, 0.1 * (number + 1)])
