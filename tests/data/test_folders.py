"""Which splits a folder has, and that nothing in it is passed over without a word."""

import datasets
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


def parquet(path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({"audio": list(names), "text": [path.parent.name] * len(names)}).to_parquet(path)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("Train/p0.parquet", "Test/p0.parquet"), ["Test", "Train"]),
        (("train-clean/p0.parquet", "test-clean/p0.parquet"), ["test-clean", "train-clean"]),
        (("train/en/p0.parquet", "test/en/p0.parquet"), ["test", "train"]),
        (("en/train/p0.parquet", "en/test/p0.parquet"), ["test", "train"]),
        (("p0.PARQUET", "dev/p0.parquet"), ["dev", "train"]),
    ],
)
def test_no_layout_of_shards_mixes_its_splits(folder, files, splits):
    for file in files:
        parquet(folder / "shards" / file, "a.wav")
    assert split_names(str(folder / "shards")) == splits
    assert all(len(load_source(str(folder / "shards"), split=split)) == 1 for split in splits)


def test_a_pattern_keeps_the_splits_of_its_folders(folder):
    for name in ("Train", "Test"):
        parquet(folder / "shards" / name / "p0.parquet", "a.wav")
    assert sorted(split_names(str(folder / "shards" / "*" / "*.parquet"))) == ["test", "train"]


def test_pairs_may_have_their_splits_below_a_language(folder, read):
    for name in ("train", "test"):
        pair(folder / "corpus" / "en" / name, name, folder / "a.wav")
    assert read(folder / "corpus") == [("train", 1600)] and read(folder / "corpus", split="test") == [("test", 1600)]


def test_splits_stand_beside_a_folder_called_data(folder, caplog):
    for name in ("train", "validation", "data"):
        pair(folder / "corpus" / name, name, folder / "a.wav")
    assert split_names(str(folder / "corpus")) == ["train", "validation"] and "left out: data" in caplog.text
    pair(folder / "other" / "train", "x", folder / "a.wav")
    parquet(folder / "other" / "test" / "p0.parquet", "a.wav")
    assert split_names(str(folder / "other")) == ["test", "train"]


def test_compressed_shards_are_said_to_be_left_out(folder, read, caplog):
    tar(folder / "shards.tar", {"1.wav": (folder / "a.wav").read_bytes(), "1.txt": b"one"})
    (folder / "more").mkdir()
    (folder / "shards.tar").rename(folder / "more" / "a.TAR")
    (folder / "more" / "b.tar.gz").write_bytes(b"?")
    assert read(folder / "more") == [("one", 1600)] and "unpack them: b.tar.gz" in caplog.text.replace(str(folder), "")


def test_metadata_may_list_recordings_by_the_folder_of_their_split(folder, read, caplog):
    for name in ("train", "test"):
        pair(folder / "corpus" / name, name, folder / "a.wav")
    (folder / "corpus" / "metadata.csv").write_text("file_name,text\ntrain/x.wav,one\ntest/x.wav,two\n")
    assert read(folder / "corpus", split="test") == [("two", 1600)] and read(folder / "corpus") == [("one", 1600)]
    (folder / "corpus" / "metadata.csv").write_text("file_name,text\ntest/x.wav,two\n../a.wav,one\n")
    assert len(read(folder / "corpus")) == 2 and "of the folders test are trained on" in caplog.text


def test_a_name_and_a_column_that_disagree_are_refused(folder):
    (folder / "train.csv").write_text("audio,text,split\na.wav,one,train\nb.wav,two,test\n")
    with pytest.raises(SourceError, match="train.csv: its name says train, its column split test"):
        load_source(str(folder), split="train")


def test_a_line_that_is_no_row_is_named_in_every_split(folder, read):
    (folder / "m.csv").write_text("audio,text,split\na.wav,one, dev \nb.wav,two,0\nc.wav,x,y,z\n")
    assert split_names(str(folder / "m.csv")) == ["0", "dev"]
    for split, text, samples in (("0", "two", 3200), ("dev", "one", 1600)):
        found = read(folder / "m.csv", split=split)
        assert found[0] == (text, samples) and "line 4 has 4 fields" in found[1][1]
