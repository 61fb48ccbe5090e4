import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data import sources
from hf_asr.data.audio import AudioError
from hf_asr.data.sources import Source, SourceError, read_row, row_duration


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("a.wav", "b c 你好.wav"):
        soundfile.write(folder / name, np.full(1600, 0.1, np.float32), 16000)
    return folder


def check(dataset_name, **options) -> list[dict]:
    """Check both rows of a source, at once and streamed, and return them."""
    source = Source(str(dataset_name), **options)
    rows, streamed = list(source.load("train")), list(source.load("train", streaming=True))
    for found in (rows, streamed):
        assert [row["text"] for row in found] == ["one", "null"]
        assert [len(read_row(row, sampling_rate=16000)) for row in found] == [1600, 1600]
        assert [row_duration(row) for row in found] == pytest.approx([0.1, 0.1])
    assert len({row["utterance_id"] for row in rows}) == 2
    if any({"id", "utterance_id"} & set(row) for row in rows) and rows[0]["utterance_id"] != "0":
        assert [row["utterance_id"] for row in streamed] == [row["utterance_id"] for row in rows]
    assert len({row["utterance_id"] for row in streamed}) == 2
    return rows


def write_jsonl(path, column: str) -> None:
    rows = [{column: "a.wav", "text": "one", "speaker": "x"}, {column: "b c 你好.wav", "text": "null", "speaker": "y"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_a_folder_with_splits_is_read(corpus):
    assert Source(str(corpus)).split_names() == ["train", "validation"]
    rows = Source(str(corpus)).load("validation")
    assert len(rows) == 8
    assert {"speaker", "language", "duration"} <= set(rows.column_names)


def test_a_folder_without_splits_is_read(recordings):
    write_jsonl(recordings / "metadata.jsonl", "file_name")
    assert Source(str(recordings)).split_names() == ["train"]
    check(recordings)


def test_recordings_without_transcripts_are_read_where_none_are_needed(recordings, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": str(recordings / "a.wav"), "n": 1}) + "\n")
    with pytest.raises(SourceError, match="has no column 'text'"):
        Source(str(tmp_path / "m.jsonl")).load("train")
    for streaming in (False, True):
        (row,) = Source(str(tmp_path / "m.jsonl")).load("train", streaming=streaming, needs_text=False)
        assert row["text"] == "" and len(read_row(row, sampling_rate=16000)) == 1600


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_manifest_is_read(recordings, suffix):
    path = recordings / f"manifest{suffix}"
    separator = "\t" if suffix == ".tsv" else ","
    if suffix == ".jsonl":
        write_jsonl(path, "audio")
    else:
        lines = [("audio", "text"), ("a.wav", "one"), ("b c 你好.wav", "null")]
        path.write_text("".join(separator.join(line) + "\n" for line in lines), encoding="utf-8")
    check(path)


def test_a_saved_dataset_with_other_columns_is_read(recordings, tmp_path):
    rows = {
        "sound": [{"bytes": (recordings / name).read_bytes(), "path": None} for name in ("a.wav", "b c 你好.wav")],
        "sentence": ["one", "null"],
    }
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "saved")
    check(tmp_path / "saved", audio_column_name="sound", text_column_name="sentence")


@pytest.mark.parametrize("declares_audio", [False, True])
def test_parquet_shards_are_read(recordings, tmp_path, declares_audio):
    (tmp_path / "data").mkdir()
    names = ["a.wav", "b c 你好.wav"]
    for number, (name, text) in enumerate(zip(names, ["one", "null"], strict=True)):
        rows = datasets.Dataset.from_dict(
            {"audio": [{"bytes": (recordings / name).read_bytes(), "path": name}], "text": [text]}
        )
        if declares_audio:  # like a dataset on the Hub
            rows = rows.cast_column("audio", datasets.Audio(decode=False))
        rows.to_parquet(tmp_path / "data" / f"train-{number:05d}-of-00002.parquet")
    check(tmp_path)
    check(tmp_path / "data" / "*.parquet")


def tar(path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


def test_webdataset_shards_are_read(recordings, tmp_path):
    wav = (recordings / "a.wav").read_bytes()
    tar(tmp_path / "train-0000.tar", {"x/1.wav": wav, "x/1.txt": b"one\n"})
    tar(tmp_path / "train-0001.tar", {"x/2.json": b'{"text": "null", "speaker": "y"}', "x/2.wav": wav})
    rows = check(tmp_path)
    assert [row["utterance_id"] for row in rows] == ["x/1", "x/2"] and rows[1]["speaker"] == "y"
    (tmp_path / "train-0002.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(SourceError, match="train-0002.tar cannot be read"):
        check(tmp_path)


def test_a_wenet_data_list_of_objects_and_shards_is_read(recordings, tmp_path):
    raw = [{"key": "1", "wav": str(recordings / "a.wav"), "txt": "one"}]
    raw += [{"key": "2", "wav": "b c 你好.wav", "txt": "null"}]
    (recordings / "data.list").write_text("".join(json.dumps(row) + "\n" for row in raw))
    rows = check(recordings / "data.list")
    assert [row["utterance_id"] for row in rows] == ["1", "2"]
    wav = (recordings / "a.wav").read_bytes()
    tar(tmp_path / "s.tar", {"1.txt": b"one", "1.wav": wav, "2.txt": b"null", "2.wav": wav})
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data.list").write_text(f"{tmp_path / 's.tar'}\n")
    check(tmp_path)


def test_a_kaldi_folder_with_segments_is_read(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    ramp = np.linspace(-0.5, 0.5, 16000, dtype=np.float32)
    soundfile.write(tmp_path / "long talk.wav", ramp, 16000, subtype="FLOAT")
    (folder / "wav.scp").write_text(f"rec {tmp_path / 'long talk.wav'}\npiped sox x.wav -t wav - |\n")
    (folder / "text").write_text("u1 one\nu2 null\n")
    (folder / "utt2spk").write_text("u1 ann\nu2 bob\n")
    (folder / "segments").write_text("u1 rec 0.2 0.3\nu2 rec 0.90 -1\n")
    rows = check(tmp_path)
    assert [row["speaker"] for row in rows] == ["ann", "bob"]
    np.testing.assert_array_equal(read_row(rows[0], sampling_rate=16000), ramp[3200:4800])
    (folder / "segments").write_text("u1 rec 2.0 3.0\nu2 piped 0 1\n")
    rows = list(Source(str(tmp_path)).load("train"))
    with pytest.raises(AudioError, match="2.0 to 3.0 s is outside of its 1.00 s"):
        read_row(rows[0], sampling_rate=16000)
    with pytest.raises(AudioError, match="commands are not run: sox x.wav"):
        read_row(rows[1], sampling_rate=16000)


def test_recordings_beside_their_transcripts_are_read(recordings, tmp_path):
    for split in ("train", "dev"):
        for speaker, name, text in (("ann", "1", "one"), ("bob", "2", "null")):
            (tmp_path / split / speaker).mkdir(parents=True)
            shutil.copy(recordings / "a.wav", tmp_path / split / speaker / f"{name}.wav")
            (tmp_path / split / speaker / f"{name}.txt").write_text(f"\ufeff{text}\n", encoding="utf-8")
    assert Source(str(tmp_path)).split_names() == ["dev", "train"]
    check(tmp_path)
    assert Source(str(tmp_path / "train")).split_names() == ["train"]  # ann and bob are not splits


def test_a_hub_id_is_read_at_once_and_streamed(recordings, tmp_path, fake_hub):
    """Uses a separate process with a fake Hub, because the address of the Hub is read at import."""
    (tmp_path / "data").mkdir()
    table = {
        "audio": [{"bytes": (recordings / "a.wav").read_bytes(), "path": "a.wav"}] * 2,
        "sentence": ["one", "null"],
    }
    rows = datasets.Dataset.from_dict(table).cast_column("audio", datasets.Audio(decode=False))
    rows.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    code = """
from hf_asr.data.sources import Source, read_row
assert Source("someone/speech").split_names() == ["train"], Source("someone/speech").split_names()
for streaming in (False, True):
    rows = list(Source("someone/speech", text_column_name="sentence").load("train", streaming=streaming))
    assert [row["text"] for row in rows] == ["one", "null"]
    assert [len(read_row(row, sampling_rate=16000)) for row in rows] == [1600, 1600]
"""
    with fake_hub({"someone/speech": tmp_path}) as endpoint:
        environment = os.environ | {
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_error_lists_the_existing_splits_and_columns(corpus, tmp_path):
    with pytest.raises(SourceError, match="no split 'dev', it has: train, validation"):
        Source(str(corpus)).load("dev")
    with pytest.raises(SourceError, match="no column 'txt' .did you mean 'text'.*choose one with text_column_name"):
        Source(str(corpus), text_column_name="txt").load("train")
    with pytest.raises(SourceError, match="does not exist"):
        Source(str(tmp_path / "nowhere")).load("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="has no known layout"):
        Source(str(tmp_path / "empty")).load("train")


def test_a_folder_is_listed_and_its_columns_are_logged_once(recordings, tmp_path, monkeypatch, caplog):
    rows = [{"file_name": str(recordings / "a.wav"), "text": "one", "split": split} for split in ("train", "dev")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed, original = [], sources.local_splits
    monkeypatch.setattr(sources, "local_splits", lambda name: listed.append(name) or original(name))
    caplog.set_level("INFO", logger="hf_asr")
    source = Source(str(tmp_path / "m.jsonl"))
    assert source.split_names() == ["dev", "train"]
    assert len(source.load("train")) == len(source.load("dev")) == 1
    assert len(listed) == 1 and caplog.text.count("column 'file_name' is used as 'audio'") == 1
