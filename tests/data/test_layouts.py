"""Check that every entry of Kaldi, WeNet, LJSpeech, Common Voice and pairs becomes a row, even without a recording."""

import json
import os

import numpy as np
import pytest
import soundfile

from hf_asr.data.inspection import inspect, write_findings
from hf_asr.data.sources import Source, SourceError, read_row


def kaldi(folder, *, encoding: str = "utf-8", **files: str):
    for name, content in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_bytes(content.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_kaldi_with_a_byte_order_mark_is_read(folder, read, encoding):
    kaldi(folder, wav_scp="u1 a.wav\nu2 b.wav\n", text="u1 one\nu2 two  words\n", encoding=encoding)
    assert read(folder) == [("one", 1600), ("two  words", 3200)]


def test_incomplete_kaldi_utterances_are_reported(folder, read):
    kaldi(folder, wav_scp=f"u1 a.wav\nu2 b.wav\nu2 c.wav\nlong {'x' * 5000}\n", text="u1 one\nu3 three\nu1 again\n")
    found = read(folder)
    assert found[2:4] == [("one", 1600), ("", 3200)]
    assert ("three", "it is in text but not in wav.scp") in found
    assert ("", "wav.scp has u2 more than once") in found and ("again", "text has u1 more than once") in found
    assert len(found) == 6 and all(isinstance(reason, str) for text, reason in found if text in ("again", "three"))


def test_kaldi_segments_can_select_a_channel(folder):
    left, right = np.linspace(0, 0.5, 16000, dtype=np.float32), np.linspace(0, -0.5, 16000, dtype=np.float32)
    soundfile.write(folder / "call.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    segments = "u1 rec 0.1 0.2 0\nu2 rec 0.1 0.2 B\nu3 rec x 2\nu4 gone 0 1\nu5 rec 0.5 -1\n"
    kaldi(folder, wav_scp="rec call.wav\n", text="u1 one\nu2 two\nu3 three\nu4 four\nu5 five\n", segments=segments)
    rows = list(Source(str(folder)).load("train"))
    assert [row["text"] for row in rows] == ["one", "two", "three", "four", "five"]
    np.testing.assert_array_equal(read_row(rows[0], sampling_rate=16000), left[1600:3200])
    np.testing.assert_array_equal(read_row(rows[1], sampling_rate=16000), right[1600:3200])
    assert "recording, start and end in seconds" in rows[2]["audio_part"]["problem"]
    assert "'gone' is not in wav.scp" in rows[3]["audio_part"]["problem"]
    assert len(read_row(rows[4], sampling_rate=16000)) == 8000


def test_invalid_lines_of_a_data_list_are_reported(folder, read):
    entries = [{"key": "1", "wav": "a.wav", "txt": "one"}, {"key": "2", "wav": "b.wav"}, {"wav": 7, "txt": "x"}]
    entries.append({"key": "4", "wav": "c.wav", "txt": "part", "start": 0.1, "end": 0.2})
    lines = [*map(json.dumps, entries), '{"key"', "gone.tar"]
    (folder / "data.list").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = read(folder)
    assert found[0] == ("one", 1600) and found[3] == ("part", 1600) and len(found) == 6
    assert "data.list, line 2: expected key, wav and txt" in found[1][1] and "line 3: wav must be a path" in found[2][1]
    assert "line 5: expected key, wav and txt" in found[4][1] and "line 6: gone.tar is not a file" in found[5][1]


def test_pairs_in_utf_16_are_read_and_pairs_in_gbk_are_reported(folder, read):
    (folder / "a.txt").write_bytes("turn on".encode("utf-16"))
    (folder / "b.txt").write_bytes("打开客厅的灯".encode("gbk"))
    (folder / "d.txt").write_text("nobody says this")
    found = read(folder)
    assert found[0] == ("turn on", 1600) and found[2] == ("", 4800)
    assert "its transcript b.txt is not UTF-8" in found[1][1]
    assert found[3] == ("", "d.txt has no recording of the same name in its folder")


@pytest.mark.parametrize("suffix", [".aif", ".oga", ".mka", ".mov", ".caf", ".3gp", ".au", ".m4b", ".AVI", ".ts"])
def test_pairs_of_any_container_are_found(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"?")
    (tmp_path / "a.txt").write_text("one")
    assert Source(str(tmp_path)).load("train")["text"][:] == ["one"]


def test_common_voice_is_read_as_downloaded(folder, read):
    (folder / "clips").mkdir()
    (folder / "a.wav").rename(folder / "clips" / "a.wav")
    for split in ("train", "dev", "test", "validated"):
        lines = 'client_id\tpath\tsentence\tsentence_domain\nx\ta.wav\t"Hello," he said\t\n'
        (folder / f"{split}.tsv").write_text(lines)
    (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\na.wav\t100\n")
    assert Source(str(folder)).split_names() == ["dev", "test", "train", "validated"]
    assert read(folder) == read(folder, split="dev") == [('"Hello," he said', 1600)]


def test_ljspeech_is_read_as_downloaded(folder, read):
    (folder / "wavs").mkdir()
    (folder / "a.wav").rename(folder / "wavs" / "LJ001-0001.wav")
    (folder / "metadata.csv").write_text('LJ001-0001|In "1455", the press|In fourteen\nLJ001-0002\n')
    found = read(folder)
    assert found[0] == ('In "1455", the press', 1600) and "metadata.csv, line 2: expected name|text|text" in found[1][1]


def test_a_folder_with_brackets_in_its_name_is_read(folder, read):
    inner = folder / "corpus [v2]*"
    inner.mkdir()
    (folder / "a.wav").rename(inner / "a [1].wav")
    (inner / "metadata.jsonl").write_text('{"file_name": "a [1].wav", "text": "x"}\n')
    assert read(inner) == read(inner / "metadata.jsonl") == [("x", 1600)]


def test_each_folder_of_a_split_can_have_a_different_layout(folder, read):
    for split in ("train", "dev"):
        (folder / split).mkdir()
    (folder / "a.wav").rename(folder / "train" / "a.wav")
    (folder / "train" / "metadata.csv").write_text("file_name,text\na.wav,one\n")
    (folder / "b.wav").rename(folder / "dev" / "b.wav")
    (folder / "dev" / "b.txt").write_text("two")
    assert read(folder) == [("one", 1600)] and read(folder, split="dev") == [("two", 3200)]


def test_invalid_times_in_a_data_list_are_reported(folder, read):
    entries = [{"key": "1", "wav": "c.wav", "txt": 1.5, "start": 0.1, "end": end} for end in ("abc", "0.2")]
    (folder / "data.list").write_text("\n".join(map(json.dumps, entries)))
    assert read(folder / "data.list") == [("1.5", "'abc' is not a number of seconds"), ("1.5", 1600)]


def test_a_folder_called_wavs_alone_is_not_ljspeech(folder, read):
    (folder / "wavs").mkdir()
    (folder / "a.wav").rename(folder / "wavs" / "a.wav")
    (folder / "metadata.csv").write_text("file_name|text\nwavs/a.wav|one\n")
    assert read(folder) == [("one", 1600)]


def test_a_second_encoding_is_reported_and_hidden_files_are_ignored(folder, read):
    (folder / "a.txt").write_text("one")
    soundfile.write(folder / "a.flac", np.zeros(800), 16000)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "a.wav").write_bytes((folder / "a.wav").read_bytes())
    found = read(folder)
    assert found[:2] == [("one", 800), ("", "a.flac in the same folder has the same transcript and is used instead")]
    assert len(found) == 4  # b.wav and c.wav have no transcript


def test_a_file_name_that_is_not_utf_8_is_reported(folder, processor, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        (folder / "b.wav").rename(folder / name)
    except OSError:  # macOS refuses such names
        pytest.skip("the file system requires UTF-8")
    (folder / "a.txt").write_text("a")
    (folder / name).with_suffix(".txt").write_text("b")
    for streaming in (False, True):
        rows = list(Source(str(folder)).load("train", streaming=streaming))
        found = inspect(
            rows, split="train", processor=processor, required_samples=len, max_duration_seconds=9, show_progress=False
        )
        write_findings(tmp_path / "report.jsonl", found.findings)
        details = [json.loads(line)["detail"] for line in (tmp_path / "report.jsonl").read_text().splitlines()]
        assert [rows[place]["utterance_id"] for place in found.kept] == ["a.wav"]
        assert "its file name is not UTF-8: rename the file" in details


def test_a_folder_name_that_is_not_utf_8_is_an_error(folder):
    name = os.fsdecode(b"caf\xe9")
    with pytest.raises(SourceError, match=r"caf\\udce9 is not UTF-8: rename"):
        Source(str(folder / name)).split_names()
