"""Check that word times are read from every kind of source, and that wrong ones are named."""

import json

import datasets
import pytest

from hf_asr.data.sources import Source
from hf_asr.data.word_times import TimedWord, read_word_times

WORDS = [{"word": "the", "start": 0.1, "end": 0.25}, {"word": "fox", "start": 0.3, "end": 0.625}]
EXPECTED = [TimedWord("the", 0.1, 0.25), TimedWord("fox", 0.3, 0.625)]


def manifest(folder, *values) -> datasets.Dataset:
    """Return the rows of a manifest with these values in the column `words`."""
    lines = [{"audio": f"{number}.wav", "text": "the fox", "words": value} for number, value in enumerate(values)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Source(str(folder / "train.jsonl")).load("train")


def test_a_manifest_has_word_times(tmp_path):
    assert read_word_times(manifest(tmp_path, WORDS, None, [])) == [EXPECTED, None, []]


def test_parquet_has_word_times(tmp_path):
    table = {"audio": ["a.wav", "b.wav"], "text": ["the fox", ""], "words": [WORDS, None]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "train.parquet")
    assert read_word_times(Source(str(tmp_path / "train.parquet")).load("train")) == [EXPECTED, None]


def test_a_stream_keeps_word_times(tmp_path):
    table = {"audio": ["a.wav"], "text": ["the fox"], "words": [WORDS]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "train.parquet")
    (row,) = Source(str(tmp_path / "train.parquet")).load("train", streaming=True)
    assert row["words"] == WORDS


def test_ends_may_be_missing(tmp_path):
    without_ends = [{"word": word["word"], "start": word["start"]} for word in WORDS]
    assert read_word_times(manifest(tmp_path, without_ends)) == [[TimedWord("the", 0.1), TimedWord("fox", 0.3)]]


@pytest.mark.parametrize("values", [(2, 3), ("the fox",), (["the", "fox"],), (None,), ('{"the": 1}',)])
def test_a_column_with_another_meaning_has_no_word_times(tmp_path, values, caplog):
    assert read_word_times(manifest(tmp_path, *values)) is None
    assert not caplog.records


def test_a_dataset_without_the_column_has_no_word_times(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"audio": "0.wav", "text": "the fox"}\n')
    assert read_word_times(Source(str(tmp_path / "train.jsonl")).load("train")) is None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([{"word": "the", "begin": 0.1}], 'expected {"word", "start", "end"} with seconds, not'),
        ([{"word": "the", "start": -1}], 'expected {"word", "start", "end"} with seconds, not'),
        ([{"word": "the", "start": 0.5, "end": 0.4}], 'expected {"word", "start", "end"} with seconds, not'),
        (["the"], "not 'the'"),
        (WORDS[::-1], "the words are not in the order of their starts"),
        ("the fox", "'the fox' is not a list of words"),
    ],
)
def test_wrong_word_times_are_left_out_and_named(tmp_path, wrong, reason, caplog):
    assert read_word_times(manifest(tmp_path, WORDS, wrong)) == [EXPECTED, None]
    assert f"the word times of 1 rows are left out; {tmp_path / '1.wav'}: " in caplog.text and reason in caplog.text
