"""Parquet and tar: what is in them is a row, and audio is not copied out of them."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest

from hf_asr.data.sources import SourceError, load_source, read_row, split_names


def tar(path, files: dict[str, bytes]):
    with tarfile.open(path, "w") as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def test_a_name_ends_at_its_last_dot(folder, read):
    wav = (folder / "a.wav").read_bytes()
    files = {"sp0.9-utt1.wav": wav, "sp0.9-utt1.txt": b"slow", "sp1.1-utt1.txt": b"fast", "sp1.1-utt1.wav": wav}
    assert sorted(read(tar(folder / "s.tar", files))) == [("fast", 1600), ("slow", 1600)]


def test_files_of_an_utterance_may_stand_apart(folder, read):
    wav = (folder / "a.wav").read_bytes()
    files = {"1.wav": wav, "2.wav": wav, "1.txt": b"one", "2.txt": b"two"}
    assert read(tar(folder / "s.tar", files)) == [("one", 1600), ("two", 1600)]


def test_what_is_left_out_of_a_tar_is_named(folder, read):
    wav = (folder / "a.wav").read_bytes()
    files = {
        "1.xyz": b"?",
        "1.txt": b"one",
        "2.wav": wav,
        "2.json": b"[1, 2]",
        "3.wav": wav,
        "3.json": b"{",
        "4.wav": wav,
        "4.txt": "打开".encode("gbk"),
        "5.wav": wav,
        "5.flac": wav,
        "5.txt": b"five",
        "README": b"",
        "._6.wav": b"of macOS",
    }
    found = read(tar(folder / "s.tar", files))
    assert [text for text, _ in found] == ["one", "", "", "", "five", "", ""]
    reasons = [reason for _, reason in found]
    assert "no recording of a known suffix among 1.txt, 1.xyz" in reasons[0]
    assert "2.json is list, an object is expected" in reasons[1] and "3.json" in reasons[2]
    assert "its transcript 4.txt is not UTF-8" in reasons[3]
    assert reasons[4] == 1600 and "5.wav is used in its place" in reasons[5] and "README" in reasons[6]


def test_columns_of_a_json_do_not_move_the_audio(folder, read):
    wav = (folder / "a.wav").read_bytes()
    entry = {"sentence": "one", "offset": 99, "size": 3, "audio": "x", "start": 1, "path": "p", "n": [1]}
    path = tar(folder / "s.tar", {"1.json": json.dumps(entry).encode(), "1.wav": wav})
    assert read(path) == read(path, streaming=True) == [("one", 1600)]
    row = load_source(str(path), split="train")[0]
    assert (row["offset"], row["size"], row["start"], row["path"]) == (99, 3, 1, "p")


def test_a_tar_that_ends_too_early_names_its_last_utterance(folder, read):
    wav = (folder / "c.wav").read_bytes()
    path = tar(folder / "s.tar", {"1.txt": b"one", "1.wav": wav, "2.txt": b"two", "2.wav": wav})
    cut = path.read_bytes().rindex(b"RIFF") + 1000
    path.write_bytes(path.read_bytes()[:cut])
    try:
        found = read(path)
    except SourceError as error:  # Python's tarfile may refuse the whole shard
        assert "s.tar cannot be read" in str(error)
    else:
        assert found == [("one", 4800), ("two", "s.tar ends inside 2.wav")]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("dev_clean.tar", "dev"),
        ("test.other-001.tar", "test"),
        ("x.tar", "train"),
    ],
)
def test_a_word_of_a_shards_name_is_its_split(tmp_path, name, split):
    (tmp_path / name).touch()
    assert split_names(str(tmp_path)) == [split]


def parquet(folder, table: dict, features: datasets.Features | None = None):
    (folder / "parquet [1]").mkdir(exist_ok=True)
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "parquet [1]" / "train-0.parquet")
    return folder / "parquet [1]"


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_with_decoded_audio_or_none(folder, read, streaming):
    audio = [{"array": [0.1] * 16000, "sampling_rate": 8000}, {"array": None, "sampling_rate": None}]
    found = read(parquet(folder, {"audio": audio, "text": ["one", "two"]}), streaming=streaming)
    assert found[0] == ("one", 32000) and found[1][0] == "two" and "names no recording" in found[1][1]
    empty = {"bytes": None, "path": None}
    whole = {"bytes": (folder / "a.wav").read_bytes(), "path": "a.wav"}
    found = read(parquet(folder, {"audio": [whole, empty], "text": ["one", "two"]}), streaming=streaming)
    assert found[0] == ("one", 1600) and "names no recording" in found[1][1]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_and_numbers_as_texts(folder, read, streaming):
    features = {"audio": datasets.Value("string"), "text": datasets.ClassLabel(names=["no", "yes"])}
    path = parquet(folder, {"audio": ["../a.wav"] * 3, "text": [1, 0, None]}, datasets.Features(features))
    assert read(path, streaming=streaming) == [("yes", 1600), ("no", 1600), ("", 1600)]
    path = parquet(folder, {"audio": ["../a.wav"] * 2, "text": [7, None]})
    assert read(path, streaming=streaming) == [("7", 1600), ("", 1600)]


def test_a_second_audio_column_is_not_decoded(folder):
    stored = [{"bytes": (folder / f"{name}.wav").read_bytes(), "path": None} for name in "ab"]
    table = datasets.Dataset.from_dict({"audio": stored[:1], "noisy": stored[1:], "text": ["one"]})
    for name in ("audio", "noisy"):
        table = table.cast_column(name, datasets.Audio(decode=False))
    table.to_parquet(folder / "train.parquet")
    for streaming in (False, True):
        row = next(iter(load_source(str(folder / "train.parquet"), split="train", streaming=streaming)))
        assert len(read_row(row, sampling_rate=16000)) == 1600 and row["noisy"]["bytes"] == stored[1]["bytes"]
        row = next(iter(load_source(str(folder / "train.parquet"), split="train", audio_column="noisy")))
        assert len(read_row(row, sampling_rate=16000)) == 3200


def test_audio_inside_is_not_copied_and_a_folder_that_is_read_only_works(folder, monkeypatch):
    table = {"sound": [{"bytes": (folder / "a.wav").read_bytes(), "path": None}] * 4, "sentence": list("abcd")}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(table)}).save_to_disk(folder / "saved")
    before = sorted(folder.rglob("*"))
    for path in [folder / "saved", *(folder / "saved").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(datasets.Dataset, "map", lambda *_, **__: pytest.fail("map copies the audio"))
    monkeypatch.setattr(datasets.Dataset, "flatten_indices", lambda *_, **__: pytest.fail("copies the audio"))
    rows = load_source(str(folder / "saved"), split="train", audio_column="sound", text_column="sentence")
    assert [len(read_row(row, sampling_rate=16000)) for row in rows.select([3, 1])] == [1600, 1600]
    assert sorted(folder.rglob("*")) == before
    stored = rows.data.column("audio").chunk(0).field("bytes").buffers()[-1]
    original = (
        datasets.load_from_disk(folder / "saved")["train"].data.column("sound").chunk(0).field("bytes").buffers()[-1]
    )
    assert stored.size == original.size and rows.cache_files  # it is the file that is mapped, not memory


def test_text_that_is_a_list_is_refused(folder, read):
    path = parquet(folder, {"audio": [{"array": [0.1] * 800, "sampling_rate": 8000}], "text": [["a", "b"]]})
    with pytest.raises(SourceError, match="column 'text' holds List.*text is expected"):
        read(path)


def test_numbers_without_a_rate_are_no_audio(folder, read):
    path = parquet(folder, {"audio": [[0.1] * 800], "text": ["a"]})
    with pytest.raises(SourceError, match="array and sampling_rate are expected"):
        read(path)


def test_waveforms_from_parquet_are_the_recordings(folder):
    wave = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    audio = [{"array": wave.tolist(), "sampling_rate": 16000}]
    row = load_source(str(parquet(folder, {"audio": audio, "text": ["one"]})), split="train")[0]
    np.testing.assert_allclose(read_row(row, sampling_rate=16000), wave, atol=1e-6)
