"""Check the comparison of word times, and that `evaluate_rows` makes it where a dataset has them."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data.sources import Source
from hf_asr.data.word_times import TimedWord
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.transcript import Transcript, Word
from hf_asr.scoring.evaluation import evaluate_rows, write_results
from hf_asr.scoring.report import write_error_report
from hf_asr.scoring.word_times import compared_words, word_time_metrics


def compare(reference: list[TimedWord], prediction: list[Word]) -> list[tuple]:
    return [tuple(word.values()) for word in compared_words(reference, prediction, normalize=str.lower)]


def test_only_words_that_are_right_are_compared():
    reference = [TimedWord("turn", 0.1, 0.3), TimedWord("on", 0.3, 0.4), TimedWord("it", 0.5, 0.6)]
    prediction = [Word("turn", 0.12, 0.32), Word("off", 0.32, 0.4), Word("It", 0.48, 0.6), Word("now", 0.7, 0.8)]
    assert compare(reference, prediction) == [("turn", 0.1, 0.3, 0.12, 0.32), ("it", 0.5, 0.6, 0.48, 0.6)]
    assert compare(reference, []) == compare([], prediction) == []


def test_each_han_character_is_compared():
    """A word of two characters has the start of its first one and the end of its last one."""
    reference = [TimedWord("电灯", 0.1, 0.5), TimedWord("亮", 0.6, 0.8)]
    prediction = [Word("电", 0.12, 0.2), Word("灯", 0.32, 0.48), Word("亮", 0.64, 0.8)]
    assert compare(reference, prediction) == [
        ("电", 0.1, None, 0.12, 0.2),
        ("灯", None, 0.5, 0.32, 0.48),
        ("亮", 0.6, 0.8, 0.64, 0.8),
    ]


def test_errors_are_absolute_and_delays_are_signed():
    starts = ((0.1, 0.11), (0.2, 0.18), (0.3, 0.33), (0.4, None))
    words = [{"start": start, "end": None, "predicted_start": found, "predicted_end": 1.0} for start, found in starts]
    assert word_time_metrics(words) == {
        "word_times_compared": 4,
        "word_start_error_median_ms": 20.0,
        "word_start_error_p95_ms": 29.0,
        "word_start_delay_median_ms": 10.0,
    }
    assert word_time_metrics([]) == {"word_times_compared": 0}


def manifest(folder: Path, lines: list[dict]) -> datasets.Dataset:
    """Return the rows of a manifest of one recording, a second long, with different columns."""
    soundfile.write(folder / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    (folder / "train.jsonl").write_text("".join(json.dumps({"audio": "a.wav"} | line) + "\n" for line in lines))
    return Source(str(folder / "train.jsonl")).load("train")


@pytest.fixture
def fox(tiny_model, processor, monkeypatch) -> Recognizer:
    """A recogniser that always finds the same three words."""
    words = [Word("the", 0.12, 0.2), Word("lazy", 0.24, 0.48), Word("fox", 0.6, 0.84)]
    monkeypatch.setattr(
        Recognizer, "transcribe", lambda self, waveforms, **_: [Transcript("the lazy fox", words) for _ in waveforms]
    )
    return Recognizer(tiny_model, processor)


def test_a_dataset_with_word_times_is_compared(fox, tmp_path):
    times = [{"word": "the", "start": 0.1, "end": 0.2}, {"word": "red", "start": 0.25, "end": 0.5}]
    times += [{"word": "fox", "start": 0.55, "end": 0.85}]
    rows = manifest(tmp_path, [{"text": "the red fox", "words": times}, {"text": "the fox"}])
    metrics, records = evaluate_rows(fox, rows, show_progress=False)
    assert {name: value for name, value in metrics.items() if name.startswith("word_")} == {
        "word_times_compared": 2,
        "word_start_error_median_ms": 35.0,
        "word_start_error_p95_ms": 48.5,
        "word_start_delay_median_ms": 35.0,
        "word_end_error_median_ms": 5.0,
        "word_end_error_p95_ms": 9.5,
        "word_end_delay_median_ms": -5.0,
    }
    assert [word["word"] for word in records[0]["word_times"]] == ["the", "fox"]
    assert "word_times" not in records[1] and not any("words" in record for record in records)
    write_error_report(tmp_path / "report.html", metrics, records, rows, title="fox")
    page = (tmp_path / "report.html").read_text()
    assert "median error 35.0 ms, 95 % within 48.5 ms, median delay +35.0 ms; 2 words that are right" in page


def test_a_dataset_without_word_times_is_scored_as_before(fox, tmp_path):
    """Also one whose column `words` has another meaning, which stays in the records."""
    rows = manifest(tmp_path, [{"text": "the fox", "words": 2}])
    metrics, records = evaluate_rows(fox, rows, show_progress=False)
    assert not any(name.startswith("word_") for name in metrics)
    write_results(tmp_path, metrics, records)
    name = json.dumps(str(tmp_path / "a.wav"))
    assert (tmp_path / "predictions.jsonl").read_text() == (
        f'{{"words": 2, "utterance_id": {name}, "audio": {name}, "reference": "the fox", "prediction": "the lazy fox", '
        '"duration": 1.0, "substitutions": 0, "deletions": 0, "insertions": 5, "characters": 7}\n'
    )
    write_error_report(tmp_path / "report.html", metrics, records, rows, title="fox")
    assert "words that are right" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2, "num_left_chunks": 8}, {"streaming": True}])
def test_word_times_are_compared_in_every_mode(streaming_recognizer, corpus, tmp_path, options):
    """The reference is what the recogniser finds, 30 ms earlier."""
    arguments = DecodingArguments(**options)
    recognizer = Recognizer(streaming_recognizer.model, streaming_recognizer.processor, arguments=arguments)
    rows = Source(str(corpus)).load("validation").select(range(3))
    found = recognizer.transcribe([row["audio"]["path"] for row in rows])
    lines = []
    for row, transcript in zip(rows, found, strict=True):
        words = [word for word in transcript.words if word.start > 0.03]
        words = [{"word": word.word, "start": word.start - 0.03, "end": word.end - 0.03} for word in words]
        lines.append({"audio": row["audio"]["path"], "text": transcript.text, "words": words})
    metrics, records = evaluate_rows(recognizer, manifest(tmp_path, lines), show_progress=False)
    assert metrics["cer"] == 0
    assert [len(record["word_times"]) for record in records] == [len(line["words"]) for line in lines]
    assert metrics["word_times_compared"] > 10
    for side in ("start", "end"):
        names = ("error_median", "error_p95", "delay_median")
        assert [metrics[f"word_{side}_{name}_ms"] for name in names] == [30.0] * 3
