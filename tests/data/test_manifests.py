"""Check that values of a manifest stay as written, and that every line becomes a row."""

import json

import pytest

from hf_asr.data.sources import Source, SourceError, row_duration


def write(path, *rows: dict):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["007", "0042", "13800138000", "1.10", "true", "null", "NA", "1e5", '"quoted" word'])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_texts_ids_and_speakers_stay_as_written(folder, text, separator):
    path = folder / ("m.tsv" if separator == "\t" else "m.csv")
    written = '"' + text.replace('"', '""') + '"' if separator != "\t" and '"' in text else text
    lines = [["audio", "text", "speaker", "id"], ["a.wav", written, "01", "0001"]]
    path.write_text("".join(separator.join(line) + "\n" for line in lines))
    row = Source(str(path)).load("train")[0]
    assert (row["text"], row["speaker"], row["id"], row["utterance_id"]) == (text, "01", "0001", "0001")


def test_numbers_in_json_keep_their_digits(folder):
    lines = ['{"audio": "a.wav", "text": 1.10}', '{"audio": "b.wav", "text": 7}', '{"audio": "c.wav", "text": true}']
    (folder / "m.jsonl").write_text("\n".join(lines))
    assert Source(str(folder / "m.jsonl")).load("train")["text"][:] == ["1.10", "7", "true"]


def test_a_column_of_several_types_becomes_text(folder):
    path = write(folder / "m.jsonl", {"audio": "a.wav", "text": "x", "take": 7}, {"audio": "b.wav", "take": "late"})
    assert Source(str(path)).load("train")["take"][:] == ["7", "late"]


def test_an_unmatched_quote_in_a_tsv_is_an_ordinary_character(folder, read):
    (folder / "q.tsv").write_text('audio\ttext\na.wav\t"hello\nb.wav\ttwo\nc.wav\tthree" he said\n')
    assert read(folder / "q.tsv") == [('"hello', 1600), ("two", 3200), ('three" he said', 4800)]


def test_csv_is_quoted_as_in_rfc_4180(folder, read):
    (folder / "q.csv").write_bytes(b'audio,text\r\na.wav,"one, ""two""\nthree"\r\nb.wav,she said "hi"\r\n')
    assert read(folder / "q.csv") == [('one, "two"\nthree', 1600), ('she said "hi"', 3200)]


@pytest.mark.parametrize("rest", ["b.wav,two\nc.wav,three\n", 'b.wav,two\nc.wav,three" he said\n'])
def test_an_unclosed_csv_quote_is_an_error(folder, rest):
    (folder / "q.csv").write_text(f'audio,text\na.wav,"hello\n{rest}')
    with pytest.raises(SourceError, match="q.csv, line 2: a double quote opens a field and is not closed"):
        Source(str(folder / "q.csv")).load("train")


def test_too_many_fields_are_reported_and_missing_fields_are_null(folder, read):
    (folder / "m.csv").write_text("audio,text,speaker\na.wav,hello, world,x\nb.wav,two\nc.wav\n")
    found = read(folder / "m.csv")
    assert "line 2 has 4 fields, the header 3" in found[0][1]
    assert found[1:] == [("two", 3200), ("", 4800)]


def test_a_json_line_that_is_nested_too_deeply_is_reported(folder, read):
    nested = '{"a": ' * 5000 + "1" + "}" * 5000
    (folder / "m.jsonl").write_text(f'{{"audio": "a.wav", "text": "x"}}\n{nested}\n')
    assert "line 2 is not JSON: nested too deeply" in read(folder / "m.jsonl")[1][1]


def test_invalid_json_lines_are_reported(folder, read):
    lines = ['{"audio": "a.wav", "text": "one"}', '{"audio": "b.wav", "te', "[1]", '{"audio": "b.wav", "text": ["x"]}']
    (folder / "m.jsonl").write_text("\n".join(lines[:3]) + '\n\n{"audio": "c.wav", "text": "\\ud83d"}\n')
    found = read(folder / "m.jsonl")
    assert found[0] == ("one", 1600)
    assert (
        "line 2 is not JSON" in found[1][1]
        and "line 3 is list" in found[2][1]
        and "line 5 contains half" in found[3][1]
    )
    (folder / "n.jsonl").write_text("\n".join([lines[0], lines[3]]))
    assert read(folder / "n.jsonl") == [("one", 1600), ('["x"]', "line 2: its transcript is not text")]


def test_json_can_be_one_list(folder, read):
    (folder / "m.json").write_text('[{"audio": "a.wav", "text": "one"},\n {"audio": "b.wav", "text": "two"}]')
    assert read(folder / "m.json") == [("one", 1600), ("two", 3200)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_determines_the_encoding(folder, read, encoding):
    (folder / "m.csv").write_bytes("audio,text\na.wav,打开\n".encode(encoding))
    assert read(folder / "m.csv") == [("打开", 1600)]


def test_another_encoding_is_an_error_with_advice(folder):
    (folder / "m.csv").write_bytes("audio,text\na.wav,打开\n".encode("gbk"))
    with pytest.raises(SourceError, match="m.csv is not UTF-8 .* iconv -f GBK"):
        Source(str(folder / "m.csv")).load("train")


def test_unicode_separators_do_not_end_a_line(folder, read):
    (folder / "m.tsv").write_text("audio\ttext\na.wav\tone\u2028two\x85three\n", encoding="utf-8")
    assert read(folder / "m.tsv") == [("one\u2028two\x85three", 1600)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_nemo_offset_and_duration_select_a_part(folder, read, suffix):
    rows = [{"audio_filepath": "c.wav", "offset": o, "duration": 0.1, "text": str(o)} for o in (0, 0.1)]
    path = write(folder / f"train_manifest{suffix}", *rows, {"audio_filepath": "c.wav", "duration": 0.3, "text": "all"})
    assert read(path) == [("0", 1600), ("0.1", 1600), ("all", 4800)]
    assert [row_duration(row) for row in Source(str(path)).load("train")] == pytest.approx([0.1, 0.1, 0.3])
    assert read(folder)  # a manifest named like a split is found in its folder
    assert read(write(folder / "m.jsonl", {"audio_filepath": "c.wav", "offset": "x", "text": ""}))[0][1] == (
        "'x' is not a number of seconds"
    )


@pytest.mark.parametrize(
    ("audio", "text"), [("path", "sentence"), ("path", "transcription"), ("wav", "txt"), ("file_name", "transcript")]
)
def test_column_names_of_other_toolkits_are_found(folder, read, audio, text):
    assert read(write(folder / "m.jsonl", {audio: "a.wav", text: "one"})) == [("one", 1600)]


def test_default_names_come_first_and_a_given_name_is_used(folder, read):
    path = write(folder / "m.jsonl", {"audio": "a.wav", "path": "b.wav", "text": "one", "sentence": "two"})
    assert read(path) == [("one", 1600)]
    assert read(path, audio_column_name="path", text_column_name="sentence") == [("two", 3200)]


def test_columns_with_reserved_words_are_ordinary_columns(folder, read):
    more = {"size": 32044, "start": 5.0, "end": 6, "offset": 7, "error": "none", "channel": 3, "problem": "x"}
    path = write(folder / "m.jsonl", {"audio": "a.wav", "text": "x"} | more)
    assert read(path) == read(path, streaming=True) == [("x", 1600)]
    row = Source(str(path)).load("train")[0]
    assert {name: row[name] for name in more} == more | {"start": "5.0"}  # as written
    assert row_duration(row) == pytest.approx(0.1)


def test_null_values_are_unknown(folder, read):
    nulls = dict.fromkeys(("duration", "speaker", "split", "id"))
    rows = [{"audio": "a.wav", "text": "one"} | nulls, {"audio": "b.wav", "text": None} | nulls, {"text": "three"}]
    path = write(folder / "m.jsonl", *rows)
    assert Source(str(path)).split_names() == ["train"]
    found = read(path)
    assert found[:2] == [("one", 1600), ("", 3200)] and "has no recording" in found[2][1]
    loaded = Source(str(path)).load("train")
    assert loaded["speaker"][:] == [None] * 3 and row_duration(loaded[0]) == pytest.approx(0.1)


def test_a_split_column_divides_the_metadata_of_a_folder(folder, read):
    rows = [
        {"file_name": "a.wav", "text": "one", "split": "train"},
        {"file_name": "b.wav", "text": "2", "split": "dev"},
    ]
    write(folder / "metadata.jsonl", *rows)
    assert Source(str(folder)).split_names() == ["dev", "train"]
    assert read(folder) == [("one", 1600)] and read(folder, split="dev") == [("2", 3200)]


def test_repeated_ids_become_unique(folder):
    rows = [{"audio": f"{name}.wav", "text": name, "id": 5} for name in "abc"] + [{"audio": "a.wav", "id": "5 (2)"}]
    path = write(folder / "m.jsonl", *rows)
    for streaming in (False, True):
        loaded = Source(str(path)).load("train", streaming=streaming)
        for _ in range(2):  # in every pass over the stream
            ids = [row["utterance_id"] for row in loaded]
            assert ids[0] == "5" and ids[1] == "5 (2)" and len(set(ids)) == 4


def test_numbers_of_any_type_stay_as_written(folder):
    values = ["1.10", "7", "2.50", "123456789012345678901234567890", "NaN"]
    lines = [
        f'{{"audio": "a.wav", "text": {value}, "speaker": 1234567890123456789{i}}}' for i, value in enumerate(values)
    ]
    (folder / "m.jsonl").write_text("\n".join(lines))
    rows = Source(str(folder / "m.jsonl")).load("train")
    assert rows["text"][:] == [*values[:-1], ""]
    assert [str(speaker) for speaker in rows["speaker"]] == [f"1234567890123456789{i}" for i in range(5)]


def test_carriage_returns_end_lines_if_there_is_no_line_feed(folder, read):
    (folder / "m.csv").write_bytes(b"audio,text\ra.wav,one\rb.wav,two\r")
    assert read(folder / "m.csv") == [("one", 1600), ("two", 3200)]


@pytest.mark.parametrize("row", [{"offset": 0.1, "duration": "abc"}, {"offset": -1, "duration": 1}])
def test_invalid_times_are_reported(folder, read, row):
    path = write(folder / "m.jsonl", {"audio_filepath": "c.wav", "text": "x"} | row)
    assert "is not a number of seconds" in read(path)[0][1]
