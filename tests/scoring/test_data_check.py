"""Every defect of a row is a finding, and the rows to keep are those without a serious one."""

import json

import numpy as np
import pytest
import soundfile

from hf_asr import ConformerConfig
from hf_asr.data.sources import Source
from hf_asr.scoring import data_check
from hf_asr.scoring.data_check import LEFT_OUT, check_splits, summarize, to_records
from hf_asr.scoring.data_check_report import write_check, write_rows

RATE = 16000


@pytest.fixture(scope="module")
def messy(corpus, tmp_path_factory) -> dict[str, list[dict]]:
    """Rows of the spoken corpus with one defect each, by split; each begins with right ones."""
    folder = tmp_path_factory.mktemp("messy")
    rows = {split: list(Source(str(corpus)).load(split)) for split in ("train", "validation")}
    waveforms = [soundfile.read(row["audio"]["path"])[0] for row in rows["train"][:4]]
    pause = np.zeros(3 * RATE)
    altered = {
        "silent": (np.zeros(2 * RATE), RATE, rows["train"][0]["text"]),
        "copy": (0.5 * waveforms[0], RATE, rows["train"][0]["text"]),
        "clipped": (np.clip(20 * waveforms[1], -1, 1), RATE, "another text"),
        "pause": (np.concatenate([pause, waveforms[2], pause]), RATE, "yet another text"),
        "low": (waveforms[3][::2], 8000, "a text that was never spoken"),
    }
    found = {split: [_row(row["audio"]["path"], row["text"]) for row in rows[split]] for split in rows}
    for name, (waveform, rate, text) in altered.items():
        soundfile.write(folder / f"{name}.wav", waveform, rate)
        found["train"].append(_row(folder / f"{name}.wav", text))
    (folder / "broken.wav").write_bytes(b"not audio")
    found["train"].append(_row(folder / "broken.wav", "broken"))
    found["train"][4]["text"] = "включи свет"
    found["train"][5]["text"] = "你好世界".encode().decode("latin-1")
    found["train"][6]["text"] = "play mp3"
    found["validation"][0]["text"] = found["train"][7]["text"]
    found["validation"][1] |= {"text": "ж", "speaker": "anna"}
    found["train"][8]["speaker"] = "anna"
    return found


def _row(path, text: str) -> dict:
    return {"audio": str(path), "utterance_id": str(path), "text": text, "speaker": None}


@pytest.fixture(scope="module")
def splits(messy, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("manifests")
    for split, rows in messy.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = Source(str(folder))
    return {split: source.load(split) for split in messy}


@pytest.fixture(scope="module")
def checked(splits, processor):
    return check_splits(splits, processor, config=ConformerConfig(), show_progress=False)


def reasons(checked, split: str) -> dict[str, set[str]]:
    """The reasons of the findings of each row, by the last part of its path, or its number."""
    found: dict[str, set[str]] = {}
    for finding in checked[split].inspection.findings:
        is_altered = finding.utterance_id.endswith(".wav")
        name = finding.utterance_id.rpartition("/")[2] if is_altered else str(finding.row)
        found.setdefault(name, set()).add(finding.reason)
    return found


def test_defects_of_the_sound_are_found(checked):
    found = reasons(checked, "train")
    assert found["silent.wav"] == {"silent recording"}
    assert found["copy.wav"] >= {"copy of a recording"}
    assert found["clipped.wav"] >= {"clipped"}
    assert found["pause.wav"] >= {"long silence", "copy of a recording, other transcript"}
    assert "copy of a recording, other transcript" in found["2"]  # one of the two has a wrong transcript
    assert found["low.wav"] >= {"low sampling rate"}
    assert found["broken.wav"] == {"unreadable audio"}


def test_defects_of_the_transcripts_are_found(checked):
    found = reasons(checked, "train")
    assert "wrong script" in found["4"] and "broken encoding" in found["5"] and "digits left" in found["6"]
    found = reasons(checked, "validation")
    assert "text of another split" in found["0"]
    assert found["1"] >= {"speaker of another split", "characters not in the first split"}


def test_only_rows_with_a_serious_finding_are_left_out(checked, splits, processor):
    train = checked["train"]
    serious = {each.row for each in train.inspection.findings if each.is_skipped}
    assert all(each.is_skipped for each in train.inspection.findings if each.reason in LEFT_OUT)
    assert sorted(serious | set(train.inspection.kept)) == list(range(len(train.rows)))
    assert not serious & set(train.inspection.kept) and 6 in train.inspection.kept
    assert len(train.inspection.labels) == len(train.inspection.durations) == len(train.inspection.kept)
    options = {"config": ConformerConfig(), "show_progress": False, "left_out": {"text of another split"}}
    again = check_splits(splits, processor, **options)
    assert 0 not in again["validation"].inspection.kept and 4 in again["train"].inspection.kept


def test_records_have_every_row_once_and_the_unusable_ones_first(checked):
    records = to_records(checked["train"])
    assert sorted(record["row"] for record in records) == list(range(len(checked["train"].rows)))
    are_kept = [record["is_kept"] for record in records]
    assert are_kept == sorted(are_kept) and not are_kept[0]
    (low,) = (record for record in records if record["utterance_id"].endswith("low.wav"))
    assert low["file_rate"] == 8000 and "low sampling rate" in low["findings"] and low["same_text"] == 1
    summary = summarize(checked)["train"]
    assert summary["rows"] == len(records) and summary["kept"] == sum(are_kept)
    assert summary["findings"]["copy of a recording"] == 1


def test_implausible_transcripts_come_first_and_are_left_out(splits, processor, monkeypatch):
    rows = splits["validation"]
    wrong = {2: -9.0, 5: -7.0}

    def score(_, rows, items):
        for number, (place, _text) in enumerate(items):
            yield -8.0 if number >= len(rows) else wrong.get(place, -0.1 * place / 8)

    def predict(_, rows, show_progress):
        return [{"prediction": "what the model reads"} for _ in rows], 0.0

    monkeypatch.setattr(data_check, "score_transcripts", score)
    monkeypatch.setattr(data_check, "predict_rows", predict)
    monkeypatch.setattr(data_check, "implausible_limit", lambda scores, others: -4.0)
    options = {"config": ConformerConfig(), "recognizer": object(), "show_progress": False}
    found = check_splits({"validation": rows}, processor, **options)["validation"]
    assert found.worst_first()[:2] == [2, 5] and not {2, 5} & set(found.inspection.kept)
    unspelled = [each for each in found.inspection.findings if each.reason == "characters out of vocabulary"]
    assert {each.row: each.detail for each in unspelled}[1] == "ж"
    records = to_records(found)
    assert [record["score"] for record in records[:2]] == [-9.0, -7.0]
    assert records[0]["prediction"] == "what the model reads" and records[0]["cer"] > 0
    assert "implausible transcript" in records[1]["findings"] and "implausible transcript" not in records[2]["findings"]


def test_kept_rows_are_a_dataset_for_training(checked, processor, tmp_path, monkeypatch):
    write_check(tmp_path, checked, summarize(checked), processor)
    source = Source(str(tmp_path / "kept"))
    assert sorted(source.split_names()) == ["train", "validation"]
    for name, found in checked.items():
        expected, rows = found.rows.select(found.inspection.kept), source.load(name)
        for column in ("utterance_id", "text", "speaker", "audio"):
            assert rows[column][:] == expected[column][:]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    relative = checked["train"].rows.select([0]).map(lambda _: {"audio": {"bytes": None, "path": "a.wav"}})
    write_rows(tmp_path / "one.parquet", relative)
    assert Source(str(tmp_path / "one.parquet")).load("train")[0]["audio"]["path"] == str(tmp_path / "here" / "a.wav")


def test_the_files_of_an_earlier_check_are_replaced(checked, processor, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "test.parquet").write_bytes(b"stale")
    write_check(tmp_path, checked, {"splits": {}}, processor)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.json", "kept", "report.html", "rows.jsonl"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["train.parquet", "validation.parquet"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "silent recording" in page and page.count("<audio") > 10 and "включи свет" in page
