"""`hf-asr check-data` writes a table, a page, a summary and a dataset of the rows to keep."""

import json
import re
from pathlib import Path

import pytest

from hf_asr.cli import main
from hf_asr.training.arguments import DataArguments
from hf_asr.training.splits import load_splits


def check_data(*arguments) -> None:
    main(["check-data", *map(str, arguments)])


def stopped(*arguments) -> str:
    with pytest.raises(SystemExit) as error:
        check_data(*arguments)
    return str(error.value.code)


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_dataset_is_checked_without_a_model(corpus, tmp_path, capsys):
    check_data("--dataset_name", corpus, "--output_dir", tmp_path)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "check.json").read_text()) == summary
    assert list(summary["splits"]) == ["train", "validation"]  # the one to train on first
    assert (summary["splits"]["train"]["rows"], summary["splits"]["validation"]["rows"]) == (40, 8)
    assert len(read_rows(tmp_path)) == 48 and "score" not in read_rows(tmp_path)[0]
    splits = load_splits(DataArguments(dataset_name=summary["kept"]), seed=0)
    assert (len(splits.train), len(splits.evaluation)) == tuple(each["kept"] for each in summary["splits"].values())
    assert not list(tmp_path.rglob("*.partial*"))


def test_a_model_ranks_the_transcripts(checkpoint, corpus, tmp_path, capsys):
    options = ["--dataset_name", corpus, "--split_names", "validation", "--model_name_or_path", checkpoint]
    check_data(*options, "--output_dir", tmp_path, "--num_worst", 3)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["decoding"] == "greedy" and list(summary["splits"]) == ["validation"]
    assert 0 <= summary["splits"]["validation"]["separation"] <= 1
    rows = read_rows(tmp_path)
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert scores == sorted(scores) and len(rows) == 8
    assert all("prediction" in row for row in rows)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The 3 most doubtful transcripts" in page and "what the model reads instead" in page
    addresses = re.findall(r"""(?:src|href)=["']([^"']{0,40})""", page)
    assert addresses and all(address.startswith(("data:audio/mpeg;base64,", "#")) for address in addresses)


def test_a_wrong_argument_is_an_error_of_one_line(corpus, tmp_path):
    options = ["--dataset_name", corpus, "--output_dir", tmp_path / "out"]
    assert "has no split 'test'" in stopped(*options, "--split_names", "test")
    assert stopped(*options, "--leave_out", "noises") == "2"
    assert "does not exist" in stopped("--dataset_name", tmp_path / "none.csv", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
