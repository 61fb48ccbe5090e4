"""Check which splits a folder has, and that everything that is left out is logged."""

import datasets
import pytest

from hf_asr.data.sources import Source, SourceError
from hf_asr.training.record import write_record

from .test_shards import tar


def pair(folder, text: str, source) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.wav").write_bytes(source.read_bytes())
    (folder / "x.txt").write_text(text)


def test_folders_named_like_a_split_are_splits(folder, read, caplog):
    for name in ("Train", "test-clean", "speaker one"):
        pair(folder / "corpus" / name, name, folder / "a.wav")
    assert Source(str(folder / "corpus")).split_names() == ["Train", "test-clean"]
    assert read(folder / "corpus", split="test-clean") == [("test-clean", 1600)]
    assert "these are left out: speaker one" in caplog.text
    with pytest.raises(
        SourceError, match="no split 'train', it has: Train, test-clean; choose another with train_split_name"
    ):
        Source(str(folder / "corpus")).load("train")


def test_links_and_companion_files_of_pairs(folder, read):
    pair(folder / "elsewhere", "linked", folder / "a.wav")
    corpus = folder / "corpus"
    pair(corpus / "speaker", "here", folder / "b.wav")
    (corpus / "link").symlink_to("../elsewhere")
    (corpus / "loop").symlink_to(".")
    (corpus / "gone.wav").symlink_to("nowhere.wav")
    (corpus / "gone.txt").write_text("gone")
    for name in ("._x.wav", "._train.tar"):
        (corpus / "speaker" / name).write_bytes(b"Mac OS X")
    found = read(corpus)
    assert found[0][0] == "gone" and isinstance(found[0][1], str)
    assert found[1:] == [("linked", 1600), ("here", 3200)]


def test_the_record_of_a_training_is_no_manifest(folder, read):
    manifest = '{"audio": "a.wav", "text": "one"}\n'
    (folder / "train.jsonl").write_text(manifest)
    write_record(folder, {"command": None, "recipe": {}})
    assert Source(str(folder)).split_names() == ["train"] and read(folder) == [("one", 1600)]
    (folder / "training.json").write_text(manifest)
    assert Source(str(folder)).split_names() == ["train", "training"]


def test_shards_at_any_depth_belong_to_their_splits(folder, read):
    wav = (folder / "a.wav").read_bytes()
    (folder / "shards" / "test").mkdir(parents=True)
    tar(folder / "shards" / "train-0.tar", {"1.wav": wav, "1.txt": b"one"})
    tar(folder / "shards" / "test" / "0.tar", {"2.wav": wav, "2.txt": b"two"})
    assert read(folder / "shards") == [("one", 1600)] and read(folder / "shards", split="test") == [("two", 1600)]


def test_recordings_missing_from_the_metadata_are_logged(folder, read, caplog):
    (folder / "metadata.csv").write_text("file_name,text\na.wav,one\n./c.wav,three\n")
    assert read(folder) == [("one", 1600), ("three", 4800)]
    assert "does not name 1 recordings in its folder" in caplog.text and "b.wav" in caplog.text


def test_patterns_and_names_with_brackets_are_found(folder):
    for name in ("part [1]", "part [2]"):
        (folder / name).mkdir()
        (folder / name / "train-0.tar").write_bytes(b"\0" * 10240)
    assert Source(str(folder / "part [1]" / "*.tar")).split_names() == ["train"]
    with pytest.raises(SourceError, match="contains no rows"):
        Source(str(folder / "part [[]*[]]" / "*.tar")).load("train")
    with pytest.raises(SourceError, match="no file matches"):
        Source(str(folder / "*.parquet")).split_names()


def test_splits_in_a_folder_called_data_are_found(folder, read):
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
def test_splits_of_shards_are_kept_apart(folder, files, splits):
    for file in files:
        parquet(folder / "shards" / file, "a.wav")
    assert Source(str(folder / "shards")).split_names() == splits
    assert all(len(Source(str(folder / "shards")).load(split)) == 1 for split in splits)


def test_a_pattern_keeps_the_splits_of_its_folders(folder):
    for name in ("Train", "Test"):
        parquet(folder / "shards" / name / "p0.parquet", "a.wav")
    assert sorted(Source(str(folder / "shards" / "*" / "*.parquet")).split_names()) == ["test", "train"]


def test_splits_of_pairs_in_a_subfolder_are_found(folder, read):
    for name in ("train", "test"):
        pair(folder / "corpus" / "en" / name, name, folder / "a.wav")
    assert read(folder / "corpus") == [("train", 1600)] and read(folder / "corpus", split="test") == [("test", 1600)]


def test_splits_beside_a_folder_called_data_are_used(folder, caplog):
    for name in ("train", "validation", "data"):
        pair(folder / "corpus" / name, name, folder / "a.wav")
    assert Source(str(folder / "corpus")).split_names() == ["train", "validation"] and "left out: data" in caplog.text
    pair(folder / "other" / "train", "x", folder / "a.wav")
    parquet(folder / "other" / "test" / "p0.parquet", "a.wav")
    assert Source(str(folder / "other")).split_names() == ["test", "train"]


def test_compressed_shards_are_left_out_with_a_warning(folder, read, caplog):
    tar(folder / "shards.tar", {"1.wav": (folder / "a.wav").read_bytes(), "1.txt": b"one"})
    (folder / "more").mkdir()
    (folder / "shards.tar").rename(folder / "more" / "a.TAR")
    (folder / "more" / "b.tar.gz").write_bytes(b"?")
    assert read(folder / "more") == [("one", 1600)] and "decompress them: b.tar.gz" in caplog.text.replace(
        str(folder), ""
    )


def test_splits_from_the_folders_of_recordings_in_metadata(folder, read, caplog):
    for name in ("train", "test"):
        pair(folder / "corpus" / name, name, folder / "a.wav")
    (folder / "corpus" / "metadata.csv").write_text("file_name,text\ntrain/x.wav,one\ntest/x.wav,two\n")
    assert read(folder / "corpus", split="test") == [("two", 1600)] and read(folder / "corpus") == [("one", 1600)]
    (folder / "corpus" / "metadata.csv").write_text("file_name,text\ntest/x.wav,two\n../a.wav,one\n")
    assert len(read(folder / "corpus")) == 2 and "in the folders test are used for training" in caplog.text


def test_a_file_name_and_a_split_column_that_disagree_are_an_error(folder):
    (folder / "train.csv").write_text("audio,text,split\na.wav,one,train\nb.wav,two,test\n")
    with pytest.raises(
        SourceError, match="train.csv: its name means the split train, but its column split contains test"
    ):
        Source(str(folder)).load("train")


def test_an_unreadable_line_is_reported_in_every_split(folder, read):
    (folder / "m.csv").write_text("audio,text,split\na.wav,one, dev \nb.wav,two,0\nc.wav,x,y,z\n")
    assert Source(str(folder / "m.csv")).split_names() == ["0", "dev"]
    for split, text, samples in (("0", "two", 3200), ("dev", "one", 1600)):
        found = read(folder / "m.csv", split=split)
        assert found[0] == (text, samples) and "line 4 has 4 fields" in found[1][1]
