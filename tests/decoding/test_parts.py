"""Each recording of a dataset is in the parts once, with the same text, for any processes and interruptions."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_asr.data.sources import Source
from hf_asr.decoding import parts
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.parts import DatasetJob, transcribe_dataset
from hf_asr.decoding.recognizer import load


@pytest.fixture
def job(checkpoint, corpus, tmp_path) -> DatasetJob:
    """The transcription of 8 recordings in three parts."""
    options = {"folder": tmp_path / "out", "arguments": DecodingArguments(), "rows_per_part": 3}
    return DatasetJob(Source(str(corpus)), "validation", model_name_or_path=str(checkpoint), **options)


@pytest.fixture(scope="session")
def whole(checkpoint, corpus, tmp_path_factory) -> pa.Table:
    """The parts that one process writes."""
    options = {"folder": tmp_path_factory.mktemp("whole"), "arguments": DecodingArguments(), "rows_per_part": 3}
    job = DatasetJob(Source(str(corpus)), "validation", model_name_or_path=str(checkpoint), **options)
    transcribe_dataset(job)
    return table_of(job.folder)


def table_of(folder: Path) -> pa.Table:
    """All rows of a folder that has nothing but parts and their settings."""
    assert all(path.suffix == ".parquet" or path.name == "transcription.json" for path in folder.iterdir())
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def command(job: DatasetJob, *more: str) -> list[str]:
    options = {"model_name_or_path": job.model_name_or_path, "dataset_name": job.source.name}
    options |= {"output_dir": job.folder, "rows_per_part": job.rows_per_part}
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)] + list(more)


def test_the_parts_have_the_recogniser_s_transcripts_in_the_order_of_the_rows(whole, checkpoint, corpus):
    files = Source(str(corpus)).load("validation")["audio"]
    transcripts = load(checkpoint).transcribe([file["path"] for file in files])
    found = whole.to_pylist()
    assert [row["file"] for row in found] == [file["path"] for file in files]
    assert [row["text"] for row in found] == [transcript.text for transcript in transcripts]
    assert len(set(whole["text"].to_pylist())) > 1 and len(set(whole["utterance_id"].to_pylist())) == 8
    assert [[word["word"] for word in row["words"]] for row in found] == [
        [word.word for word in transcript.words] for transcript in transcripts
    ]
    assert found[0]["words"][0] == asdict(transcripts[0].words[0])
    assert all(row["duration"] > 0 and row["error"] is None for row in found)


def test_an_unreadable_recording_is_a_row_with_its_error_and_no_transcript_is_needed(job, recording, tmp_path):
    (tmp_path / "junk.wav").write_text("junk")
    manifest = tmp_path / "m.jsonl"
    audio = [str(recording), str(tmp_path / "junk.wav"), "missing.wav"]
    manifest.write_text("".join(json.dumps({"audio": path}) + "\n" for path in audio))
    counts = transcribe_dataset(replace(job, source=Source(str(manifest)), split="train"))
    good, junk, missing = table_of(job.folder).to_pylist()
    assert good["text"] is not None and good["error"] is None
    assert junk["text"] is None and "not decodable" in junk["error"]
    assert missing["words"] is None and "file not found" in missing["error"]
    assert (counts["rows"], counts["unreadable"], counts["parts"]) == (3, 2, 1)
    assert counts["audio_seconds"] == pytest.approx(good["duration"], abs=0.01)


def test_an_interrupted_transcription_goes_on_after_the_last_part(job, whole, monkeypatch):
    written, write_part = [], parts.write_part

    def interrupted(job, part, **options):
        if written == [0]:
            raise KeyboardInterrupt
        written.append(part)
        write_part(job, part, **options)

    monkeypatch.setattr(parts, "write_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transcribe_dataset(job)
    assert [path.name for path in job.folder.glob("part*")] == ["part-00000.parquet"]
    written.append("again")
    counts = transcribe_dataset(job)
    assert written == [0, "again", 1, 2] and table_of(job.folder).equals(whole)
    assert counts["rows"] == 8 and counts["parts"] == 3 and counts["unreadable"] == 0
    monkeypatch.setattr(parts, "load", None)  # nothing is left, so no recogniser is loaded
    assert transcribe_dataset(job) == counts


def test_two_processes_go_on_where_one_was_killed(job, whole, repository, torchrun, monkeypatch, capsys):
    monkeypatch.setattr(parts, "POLL_SECONDS", 0.01)
    transcribe_dataset(job)
    job.path(0).unlink()
    job.path(1).unlink()
    kept = job.path(2).stat().st_mtime_ns
    printed, _ = torchrun(repository / "scripts" / "transcribe.py", *command(job), processes=2)
    assert table_of(job.folder).equals(whole) and job.path(2).stat().st_mtime_ns == kept
    assert json.loads(printed)["rows"] == 8  # by one of the processes


def test_a_folder_of_other_settings_is_refused(job, checkpoint, corpus, tmp_path):
    transcribe_dataset(job)
    other = shutil.copytree(corpus / "train", tmp_path / "other")
    for changed, message in (
        ({"arguments": DecodingArguments(decoding="beam")}, "decoding was 'greedy' and is 'beam'"),
        ({"arguments": DecodingArguments(chunk_length_s=20.0)}, "chunk_length_s was 30.0 and is 20.0"),
        ({"rows_per_part": 4}, "rows_per_part was 3 and is 4"),
        ({"split": "train"}, "split was 'validation' and is 'train'"),
        ({"source": Source(str(other)), "split": "train"}, "dataset_name was "),
    ):
        with pytest.raises(ValueError, match=f"{job.folder} has transcripts of other settings: {message}"):
            transcribe_dataset(replace(job, **changed))
    assert len(table_of(job.folder)) == 8


def test_a_dataset_or_a_model_that_has_changed_is_refused(job, checkpoint, corpus, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    rows = [json.loads(line) for line in (corpus / "validation" / "metadata.jsonl").read_text().splitlines()]
    data = tmp_path / "m.jsonl"

    def write(order: slice) -> None:
        lines = [{"audio": str(corpus / "validation" / row["file_name"])} for row in rows[:2]][order]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write(slice(None))
    job = replace(job, source=Source(str(data)), split="train", model_name_or_path=str(model))
    transcribe_dataset(job)
    write(slice(None, None, -1))
    with pytest.raises(ValueError, match="utterance_ids_sha256 was "):
        transcribe_dataset(replace(job, source=Source(str(data))))
    write(slice(None))
    with (model / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\1")
    with pytest.raises(ValueError, match="model_sha256 was "):
        transcribe_dataset(job)


def test_parts_of_unknown_origin_are_refused_and_a_damaged_part_is_named(job):
    job.folder.mkdir()
    job.path(2).write_bytes(b"cut short")
    with pytest.raises(ValueError, match="has parts, but no transcription.json: give another output_dir"):
        transcribe_dataset(job)
    assert not (job.folder / "transcription.json").exists()
    job.path(2).unlink()
    transcribe_dataset(job)
    job.path(2).write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"part-00002.parquet is damaged .*: delete it, and run the command again"):
        transcribe_dataset(job)


@pytest.mark.parametrize("number", [0, -1])
def test_a_part_without_rows_is_an_error(job, number):
    with pytest.raises(ValueError, match="rows_per_part must be 1 or more"):
        replace(job, rows_per_part=number)


def test_processes_of_a_launcher_do_not_start_ray(job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="ray_workers must be 0 or more, and 0 under accelerate launch, not 2"):
        transcribe_dataset(job, ray_workers=2)


@pytest.mark.slow
def test_two_workers_of_ray_data_write_the_same_parts(job, whole, repository, tmp_path):
    pytest.importorskip("ray")
    script = "import ray; ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
    script += "import sys; from hf_asr.cli import main; main(['transcribe', *sys.argv[1:]])"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment["PYTHONPATH"] = str(repository)
    ray = [sys.executable, "-c", script, *command(job, "--ray_workers", "2")]
    done = subprocess.run(ray, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 8
    assert table_of(job.folder).equals(whole)
