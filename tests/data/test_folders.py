"""Which splits a folder has, and that nothing in it is passed over without a word."""

import pytest

from hf_asr.data.sources import SourceError, load_source, split_names

from .test_shards import tar


def pair(folder, text: str, source) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.wav").write_bytes(source.read_bytes())
    (folder / "x.txt").write_text(text)


def test_folders_that_are_called_as_a_split_are_one(folder, read, caplog):
    for name in ("Train", "test-clean", "speaker one"):
        pair(folder / "corpus" / name, name, folder / "a.wav")
    assert split_names(str(folder / "corpus")) == ["Train", "test-clean"]
    assert read(folder / "corpus", split="test-clean") == [("test-clean", 1600)]
    assert "beside them is left out: speaker one" in caplog.text
    with pytest.raises(SourceError, match="no split 'train', it has: Train, test-clean; choose with --train_split"):
        load_source(str(folder / "corpus"), split="train")


def test_shards_at_every_depth_belong_to_their_splits(folder, read):
    wav = (folder / "a.wav").read_bytes()
    (folder / "shards" / "test").mkdir(parents=True)
    tar(folder / "shards" / "train-0.tar", {"1.wav": wav, "1.txt": b"one"})
    tar(folder / "shards" / "test" / "0.tar", {"2.wav": wav, "2.txt": b"two"})
    assert read(folder / "shards") == [("one", 1600)] and read(folder / "shards", split="test") == [("two", 1600)]


def test_recordings_that_the_metadata_do_not_name_are_counted(folder, read, caplog):
    (folder / "metadata.csv").write_text("file_name,text\na.wav,one\n./c.wav,three\n")
    assert read(folder) == [("one", 1600), ("three", 4800)]
    assert "does not name 1 recordings beside it" in caplog.text and "b.wav" in caplog.text


def test_patterns_and_names_with_brackets(folder):
    for name in ("part [1]", "part [2]"):
        (folder / name).mkdir()
        (folder / name / "train-0.tar").write_bytes(b"\0" * 10240)
    assert split_names(str(folder / "part [1]" / "*.tar")) == ["train"]
    with pytest.raises(SourceError, match="names no recording"):
        load_source(str(folder / "part [[]*[]]" / "*.tar"), split="train")
    with pytest.raises(SourceError, match="no file matches"):
        split_names(str(folder / "*.parquet"))


def test_splits_may_be_below_a_folder_called_data(folder, read):
    pair(folder / "hub" / "data" / "train", "one", folder / "a.wav")
    (folder / "hub" / "README.md").write_text("# A corpus")
    assert read(folder / "hub") == [("one", 1600)]
