import json

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import read_audio
from hf_asr.data.dataset import row_audio
from hf_asr.data.sources import SourceError, load_source, split_names


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("a.wav", "b c 你好.wav"):
        soundfile.write(folder / name, np.full(1600, 0.1, np.float32), 16000)
    return folder


def check(rows: datasets.Dataset) -> None:
    assert rows["text"] == ["one", "null"]
    assert {"audio", "text", "utterance_id"} <= set(rows.column_names)
    assert all(len(read_audio(row_audio(row))) == 1600 for row in rows)
    assert len(set(rows["utterance_id"])) == 2


def write_jsonl(path, column: str) -> None:
    rows = [{column: "a.wav", "text": "one", "speaker": "x"}, {column: "b c 你好.wav", "text": "null", "speaker": "y"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_folder_with_splits(corpus):
    assert split_names(str(corpus)) == ["train", "validation"]
    rows = load_source(str(corpus), split="validation")
    assert len(rows) == 8
    assert {"speaker", "language", "duration"} <= set(rows.column_names)


def test_folder_without_splits(recordings):
    write_jsonl(recordings / "metadata.jsonl", "file_name")
    assert split_names(str(recordings)) == ["train"]
    check(load_source(str(recordings), split="train"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_manifest(recordings, suffix):
    path = recordings / f"manifest{suffix}"
    separator = "\t" if suffix == ".tsv" else ","
    if suffix == ".jsonl":
        write_jsonl(path, "audio")
    else:
        lines = [("audio", "text"), ("a.wav", "one"), ("b c 你好.wav", "null")]
        path.write_text("".join(separator.join(line) + "\n" for line in lines), encoding="utf-8")
    check(load_source(str(path), split="train"))


def test_saved_dataset_with_bytes_and_other_columns(recordings, tmp_path):
    rows = {
        "sound": [{"bytes": (recordings / name).read_bytes(), "path": None} for name in ("a.wav", "b c 你好.wav")],
        "sentence": ["one", "null"],
    }
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "saved")
    check(load_source(str(tmp_path / "saved"), split="train", audio_column="sound", text_column="sentence"))


def test_what_is_not_there_is_told_with_what_is(corpus, tmp_path):
    with pytest.raises(SourceError, match="no split 'dev', it has: train, validation"):
        load_source(str(corpus), split="dev")
    with pytest.raises(SourceError, match="no column 'txt' .did you mean 'text'.*--text_column_name"):
        load_source(str(corpus), split="train", text_column="txt")
    with pytest.raises(SourceError, match="does not exist"):
        load_source(str(tmp_path / "nowhere"), split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no metadata.jsonl"):
        load_source(str(tmp_path / "empty"), split="train")
