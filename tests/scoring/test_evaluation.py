"""Check that every row of a split is scored and read once, and that columns of the source are kept."""

import json

import datasets
import numpy as np
import pytest
import soundfile
import torch

from hf_asr.data.sources import Source
from hf_asr.decoding import bulk
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.transcript import Transcript
from hf_asr.scoring import evaluation
from hf_asr.scoring.evaluation import check_output_dir, evaluate_rows


@pytest.fixture
def rows(tmp_path) -> datasets.Dataset:
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    for place in range(20):
        soundfile.write(tmp_path / f"{place}.wav", sound[: 8000 + 400 * place], 16000)
    (tmp_path / "3.wav").write_bytes(b"no audio")
    whole = (tmp_path / "4.wav").read_bytes()
    (tmp_path / "4.wav").write_bytes(whole[: len(whole) // 2])
    lines = ({"audio": f"{place}.wav", "text": "fox", "error": "none", "duration": None} for place in range(20))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Source(str(tmp_path / "m.jsonl")).load("train")


def test_every_row_is_scored_in_order_with_any_memory_limit(rows, tiny_model, processor, monkeypatch):
    at_once, records = evaluate_rows(Recognizer(tiny_model, processor), rows, show_progress=False)
    assert [record["audio"].rsplit("/", 1)[1] for record in records] == [f"{place}.wav" for place in range(20)]
    assert [i for i, record in enumerate(records) if "error" in record] == [3] and at_once["unreadable"] == 1
    assert [i for i, record in enumerate(records) if "damage" in record] == [4]
    assert records[3]["deletions"] == 3 and records[5]["duration"] == pytest.approx(10000 / 16000, abs=1e-3)
    monkeypatch.setattr(bulk, "GROUP_SECONDS", 1.0)
    monkeypatch.setattr(bulk, "LONG_SECONDS", 0.7)  # most recordings are recognised alone
    in_groups, again = evaluate_rows(Recognizer(tiny_model, processor), rows, show_progress=False)
    assert again == records and in_groups["cer"] == at_once["cer"]


def test_a_recording_is_read_once(rows, tiny_model, processor, monkeypatch):
    places, original = [], evaluation.row_recording
    monkeypatch.setattr(
        evaluation, "row_recording", lambda row, **k: places.append(row["audio"]["path"]) or original(row, **k)
    )
    rows_read, item = [], datasets.Dataset.__getitem__
    monkeypatch.setattr(
        datasets.Dataset,
        "__getitem__",
        lambda self, key: (rows_read.append(key) if isinstance(key, int) else None) or item(self, key),
    )
    evaluate_rows(Recognizer(tiny_model, processor), rows, show_progress=False)
    assert len(places) == len(set(places)) == 20 and sorted(rows_read) == list(range(20))


def test_reference_and_prediction_are_normalised(rows, tiny_model, processor, monkeypatch):
    monkeypatch.setattr(Recognizer, "transcribe", lambda self, waveforms, **_: [Transcript("The  FOX!")])
    (row,) = rows.select([0]).to_list()
    rows = datasets.Dataset.from_list([row | {"text": "“The fox”"}])
    metrics, (record,) = evaluate_rows(Recognizer(tiny_model, processor), rows, show_progress=False)
    assert record["reference"] == record["prediction"] == "the fox" and metrics["cer"] == 0


def test_audio_columns_are_left_out_of_the_records(tiny_model, processor, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.1, np.float32), 16000)
    stored = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}
    table = {"audio": [stored], "noisy": [stored], "text": ["fox"], "speaker": ["x"]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "train.parquet")
    rows = Source(str(tmp_path / "train.parquet")).load("train")
    with torch.inference_mode():
        _, (record,) = evaluate_rows(Recognizer(tiny_model, processor), rows, show_progress=False)
    assert record["speaker"] == "x" and "noisy" not in record


@pytest.mark.parametrize("text", ["", " ", "..."])
def test_empty_references_are_an_error(rows, tiny_model, processor, text):
    silent = rows.map(lambda row: {"text": text}, keep_in_memory=True)
    with pytest.raises(ValueError, match="all 20 references are empty once normalised: an error rate needs"):
        evaluate_rows(Recognizer(tiny_model, processor), silent, show_progress=False)
    with pytest.raises(ValueError, match="there is no utterance: an error rate needs"):
        evaluate_rows(Recognizer(tiny_model, processor), rows.select([]), show_progress=False)


def test_a_score_of_some_speakers_does_not_replace_the_score_of_a_split(tmp_path):
    place, some = tmp_path / "metrics.json", {"speakers": 1, "of": 6}
    check_output_dir(tmp_path, some)  # no file exists
    place.write_text(json.dumps({"split": "validation", "selection": some}))
    check_output_dir(tmp_path, some)
    held_out = {"held_out_share": 0.05, "by": "speaker", "seed": 42}
    for there in ({"split": "dev"}, {"split": "dev", "selection": None}, {"split": "dev", "selection": held_out}):
        place.write_text(json.dumps(there))
        check_output_dir(tmp_path, None)
        with pytest.raises(
            ValueError, match="is the score of 'dev' without a selection .* output_dir, as .*/speakers$"
        ):
            check_output_dir(tmp_path, some)
    place.write_text("{")
    with pytest.raises(ValueError, match="metrics.json is damaged"):
        check_output_dir(tmp_path, some)
