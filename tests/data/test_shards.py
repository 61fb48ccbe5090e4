"""Check that every entry of parquet and tar shards becomes a row, and that audio is not copied."""

import io
import json
import os
import tarfile

import datasets
import numpy as np
import pytest

from hf_asr.data.sources import Source, SourceError, read_row


def tar(path, files: dict[str, bytes]):
    with tarfile.open(path, "w") as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def test_an_utterance_id_ends_at_the_last_dot(folder, read):
    wav = (folder / "a.wav").read_bytes()
    files = {"sp0.9-utt1.wav": wav, "sp0.9-utt1.txt": b"slow", "sp1.1-utt1.txt": b"fast", "sp1.1-utt1.wav": wav}
    assert sorted(read(tar(folder / "s.tar", files))) == [("fast", 1600), ("slow", 1600)]


def test_files_of_an_utterance_need_not_be_adjacent(folder, read):
    wav = (folder / "a.wav").read_bytes()
    files = {"1.wav": wav, "2.wav": wav, "1.txt": b"one", "2.txt": b"two"}
    assert read(tar(folder / "s.tar", files)) == [("one", 1600), ("two", 1600)]


def test_unusable_members_of_a_tar_are_reported(folder, read):
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
    assert "2.json is list: expected an object" in reasons[1] and "3.json" in reasons[2]
    assert "its transcript 4.txt is not UTF-8" in reasons[3]
    assert reasons[4] == 1600 and "5.wav is used in its place" in reasons[5] and "README" in reasons[6]


def test_columns_of_a_json_do_not_change_the_recording(folder, read):
    wav = (folder / "a.wav").read_bytes()
    entry = {"sentence": "one", "offset": 99, "size": 3, "audio": "x", "start": 1, "path": "p", "n": [1]}
    path = tar(folder / "s.tar", {"1.json": json.dumps(entry).encode(), "1.wav": wav})
    assert read(path) == read(path, streaming=True) == [("one", 1600)]
    row = Source(str(path)).load("train")[0]
    assert (row["offset"], row["size"], row["start"], row["path"]) == (99, 3, 1, "p")


def test_the_last_utterance_of_a_truncated_tar_is_reported(folder, read):
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
def test_a_word_in_the_name_of_a_shard_is_its_split(tmp_path, name, split):
    (tmp_path / name).touch()
    assert Source(str(tmp_path)).split_names() == [split]


def parquet(folder, table: dict, features: datasets.Features | None = None):
    (folder / "parquet [1]").mkdir(exist_ok=True)
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "parquet [1]" / "train-0.parquet")
    return folder / "parquet [1]"


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_with_decoded_or_missing_audio_is_read(folder, read, streaming):
    audio = [{"array": [0.1] * 16000, "sampling_rate": 8000}, {"array": None, "sampling_rate": None}]
    found = read(parquet(folder, {"audio": audio, "text": ["one", "two"]}), streaming=streaming)
    assert found[0] == ("one", 32000) and found[1][0] == "two" and "has no recording" in found[1][1]
    empty = {"bytes": None, "path": None}
    whole = {"bytes": (folder / "a.wav").read_bytes(), "path": "a.wav"}
    found = read(parquet(folder, {"audio": [whole, empty], "text": ["one", "two"]}), streaming=streaming)
    assert found[0] == ("one", 1600) and "has no recording" in found[1][1]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_and_numbers_become_transcripts(folder, read, streaming):
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
        row = next(iter(Source(str(folder / "train.parquet")).load("train", streaming=streaming)))
        assert len(read_row(row, sampling_rate=16000)) == 1600 and row["noisy"]["bytes"] == stored[1]["bytes"]
        row = next(iter(Source(str(folder / "train.parquet"), audio_column_name="noisy").load("train")))
        assert len(read_row(row, sampling_rate=16000)) == 3200


def test_embedded_audio_is_not_copied_and_a_read_only_folder_works(folder, monkeypatch):
    table = {"sound": [{"bytes": (folder / "a.wav").read_bytes(), "path": None}] * 4, "sentence": list("abcd")}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(table)}).save_to_disk(folder / "saved")
    before = sorted(folder.rglob("*"))
    for path in [folder / "saved", *(folder / "saved").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(datasets.Dataset, "map", lambda *_, **__: pytest.fail("map copies the audio"))
    monkeypatch.setattr(datasets.Dataset, "flatten_indices", lambda *_, **__: pytest.fail("copies the audio"))
    rows = Source(str(folder / "saved"), audio_column_name="sound", text_column_name="sentence").load("train")
    assert [len(read_row(row, sampling_rate=16000)) for row in rows.select([3, 1])] == [1600, 1600]
    assert sorted(folder.rglob("*")) == before
    stored = rows.data.column("audio").chunk(0).field("bytes").buffers()[-1]
    original = (
        datasets.load_from_disk(folder / "saved")["train"].data.column("sound").chunk(0).field("bytes").buffers()[-1]
    )
    assert stored.size == original.size and rows.cache_files  # the file is mapped, not loaded


def test_a_transcript_that_is_a_list_is_an_error(folder, read):
    path = parquet(folder, {"audio": [{"array": [0.1] * 800, "sampling_rate": 8000}], "text": [["a", "b"]]})
    with pytest.raises(SourceError, match="column 'text' contains List.*text is expected"):
        read(path)


def test_numbers_without_a_rate_are_an_error(folder, read):
    path = parquet(folder, {"audio": [[0.1] * 800], "text": ["a"]})
    with pytest.raises(SourceError, match="expected a path, .* or array and sampling_rate"):
        read(path)


def test_waveforms_from_parquet_equal_the_recordings(folder):
    wave = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    audio = [{"array": wave.tolist(), "sampling_rate": 16000}]
    row = Source(str(parquet(folder, {"audio": audio, "text": ["one"]}))).load("train")[0]
    np.testing.assert_allclose(read_row(row, sampling_rate=16000), wave, atol=1e-6)


def test_damaged_headers_are_reported_and_joined_shards_are_read(folder, read):
    wav = (folder / "a.wav").read_bytes()
    one = tar(folder / "1.tar", {"1.wav": wav, "1.txt": b"one", "2.wav": wav, "2.txt": b"two"})
    two = tar(folder / "2.tar", {"3.wav": wav, "3.txt": b"three"})
    (folder / "both.tar").write_bytes(one.read_bytes() + two.read_bytes())
    assert read(folder / "both.tar") == [("one", 1600), ("two", 1600), ("three", 1600)]
    data = bytearray(one.read_bytes())
    data[data.index(b"2.wav")] ^= 1
    one.write_bytes(data)
    found = read(one)
    assert found[1] == ("one", 1600) and len(found) == 2 and "1.tar is damaged at byte" in found[0][1]


def test_paths_in_shards_of_several_folders_are_not_joined(folder, read):
    for name in ("x", "y"):
        (folder / "shards" / name).mkdir(parents=True)
        (folder / "a.wav" if name == "x" else folder / "b.wav").rename(folder / "shards" / name / "0.wav")
        table = datasets.Dataset.from_dict({"audio": ["0.wav"], "text": [name]})
        table.to_parquet(folder / "shards" / name / "s.parquet")
    for streaming in (False, True):
        assert read(folder / "shards", streaming=streaming) == [("x", "file not found"), ("y", "file not found")]


def test_columns_with_reserved_names_are_left_out(folder, read):
    more = {"audio_part": ["x"], "audio_array": [7]}
    path = parquet(folder, {"audio": ["../a.wav"], "text": ["one"]} | more)
    assert read(path) == read(path, streaming=True) == [("one", 1600)]
    (folder / "m.csv").write_text("audio,text,audio_part,audio_array\na.wav,one,x,7\n")
    assert read(folder / "m.csv") == [("one", 1600)]
    entry = {"text": "one", "audio_array": {"array": 1}, "audio_part": 2}
    wav = (folder / "a.wav").read_bytes()
    assert read(tar(folder / "s.tar", {"1.json": json.dumps(entry).encode(), "1.wav": wav})) == [("one", 1600)]


def test_audio_inside_other_columns_is_left_out(folder, read):
    stored = {"bytes": (folder / "a.wav").read_bytes(), "path": "a.wav"}
    table = datasets.Dataset.from_dict(
        {"audio": [stored], "text": ["one"], "more": [{"ref": stored}], "all": [[stored]]}
    )
    features = table.features.copy()
    features["more"] = {"ref": datasets.Audio(decode=True)}
    features["all"] = datasets.List(datasets.Audio(decode=True))
    table = datasets.Dataset(table.data, info=datasets.DatasetInfo(features=features))
    table.to_parquet(folder / "train.parquet")
    for streaming in (False, True):
        assert read(folder / "train.parquet", streaming=streaming) == [("one", 1600)]


@pytest.mark.parametrize("streaming", [False, True])
def test_bytes_with_and_without_paths_are_read(folder, read, streaming):
    wav = (folder / "a.wav").read_bytes()
    both = [{"bytes": wav, "path": "x.wav"}, {"bytes": None, "path": "../b.wav"}]
    path = parquet(folder, {"audio": both, "text": ["one", "two"]})
    assert read(path, streaming=streaming) == [("one", 1600), ("two", 3200)]
    path = parquet(folder, {"audio": [wav], "text": ["one"]})
    assert read(path, streaming=streaming) == [("one", 1600)]
    path = parquet(folder, {"audio": [{"bytes": wav, "n": 1}], "text": ["one"]})
    assert read(path, streaming=streaming) == [("one", 1600)]


def test_a_shard_without_rows_is_ignored(folder, read):
    path = parquet(folder, {"audio": ["../a.wav"], "text": ["one"]})
    datasets.Dataset.from_dict({"audio": ["x"], "text": ["x"]}).select([]).to_parquet(path / "train-1.parquet")
    assert read(path) == [("one", 1600)]


def test_streamed_ids_differ_between_shards(folder):
    for number, names in enumerate(("ab", "c")):
        stored = [{"bytes": (folder / f"{name}.wav").read_bytes(), "path": None} for name in names]
        (folder / "shards").mkdir(exist_ok=True)
        table = datasets.Dataset.from_dict({"audio": stored, "text": list(names)})
        table.to_parquet(folder / "shards" / f"train-{number}.parquet")
    rows = Source(str(folder / "shards")).load("train", streaming=True).shuffle(seed=1, buffer_size=1)
    assert len({row["utterance_id"] for row in rows}) == 3


def test_names_and_transcripts_in_a_tar_that_are_not_utf_8_are_reported(folder, read):
    wav, entry = (folder / "a.wav").read_bytes(), b'{"text": "a\\ud800"}'
    name = os.fsdecode(b"caf\xe9")
    tar(folder / "t.tar", {f"{name}.wav": wav, f"{name}.txt": b"one", "b.wav": wav, "b.json": entry})
    for streaming in (False, True):
        assert read(folder / "t.tar", streaming=streaming) == [
            ("one", 1600),
            ("", "b.json has a transcript that is not text"),
        ]
