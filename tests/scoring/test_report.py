import json
import re
from pathlib import Path

import datasets
import pytest

from hf_asr.cli import main
from hf_asr.scoring.report import confusions, write_error_report, write_public_error_report


def test_confusions_are_counted():
    records = [{"reference": "three cats", "prediction": "tree cats"}, {"reference": "three", "prediction": "tree"}]
    assert confusions(records, unit="word") == [("three", "tree", 2)]
    assert confusions(records, unit="character") == [("h", "", 2)]
    assert confusions([{"reference": "a b", "prediction": "ab"}], unit="character") == [("␣", "", 1)]


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scores")


@pytest.fixture(scope="module")
def page(checkpoint, corpus, scores) -> tuple[str, list[dict]]:
    folder = scores
    main(
        [
            "evaluate",
            "--model_name_or_path",
            str(checkpoint),
            "--dataset_name",
            str(corpus),
            "--output_dir",
            str(folder),
        ]
        + ["--eval_split_name", "train"]
    )
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return (folder / "report.html").read_text(), records


def test_the_page_is_self_contained(page):
    text, _ = page
    addresses = re.findall(r"""(?:src|href)=["']([^"']{0,40})""", text)
    assert addresses and all(address.startswith(("data:audio/mpeg;base64,", "#")) for address in addresses)
    assert "@import" not in text and "<script" not in text


def test_the_worst_utterances_are_shown_with_players(page):
    text, records = page
    errors = {
        record["utterance_id"]: (record["substitutions"] + record["deletions"] + record["insertions"])
        / record["characters"]
        for record in records
    }
    ranked = sorted(errors.values(), reverse=True)
    named = re.findall(r"<audio .*?</audio><br>\s*<code>(.*?)</code>", text)
    assert len(named) == 30
    assert [errors[name] for name in named] == ranked[:30]


def test_groups_and_durations_are_shown(page):
    text, _ = page
    for heading in ("Error by duration", "Error by speaker", "Error by language"):
        assert f"<h2>{heading}</h2>" in text


def test_transcripts_are_escaped_in_the_page(tmp_path):
    text = "<script>alert(1)</script>"
    records = [
        {"utterance_id": text, "reference": text, "prediction": "b", "error": text, "audio": None}
        | {"substitutions": 1, "deletions": 0, "insertions": 0, "characters": 1}
    ]
    rows = datasets.Dataset.from_list([{"audio": {"bytes": None, "path": "gone"}, "text": text, "utterance_id": text}])
    metrics = {"cer": 1.0, "cer_interval": [1, 1], "wer": 1.0, "wer_interval": [1, 1], "cer_reference_characters": 1}
    metrics |= {"cer_substitutions": 1, "cer_deletions": 0, "cer_insertions": 0, "utterances": 1}
    metrics |= {"audio_seconds": 1.0, "real_time_factor": 0.1}
    write_error_report(tmp_path / "report.html", metrics, records, rows, title=text)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_the_public_page_has_sums_and_no_words_or_names(page, scores, tmp_path):
    text, records = page
    metrics = json.loads((scores / "metrics.json").read_text())
    for record in records[:3]:
        record["error"] = f"file not found: {record['audio']}"
    write_public_error_report(tmp_path / "report.html", metrics, records, title="owner/name")
    public = (tmp_path / "report.html").read_text()
    assert f"{100 * metrics['cer']:.2f} %" in public and "owner/name" in public
    for heading in ("Error by duration", "Error by speaker", "Most common confusions"):
        assert f"<h2>{heading}</h2>" in public
    for record in records:
        words = [record["utterance_id"], record["audio"], record["reference"], record["prediction"], record["speaker"]]
        words += [word for word in record["reference"].split() if len(word) > 6]
        assert record["utterance_id"] in text or record["speaker"] in text
        assert not [word for word in words if len(word) > 1 and word in public]
    assert "<audio" not in public and str(scores) not in public


def test_the_page_describes_the_selection(page, scores, tmp_path):
    metrics, records = json.loads((scores / "metrics.json").read_text()), page[1]
    metrics["selection"] = {"speakers": 1, "of": 6}
    write_error_report(tmp_path / "report.html", metrics, records, None, title="x")
    assert "<code>train</code> (1 of 6 speakers)" in (tmp_path / "report.html").read_text()
