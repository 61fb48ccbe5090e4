"""`hf-asr align` writes files that can be read again, and names what cannot be aligned."""

import csv
import json
import re
from pathlib import Path

import pytest

from hf_asr.cli import main

FORMATS = ("textgrid", "json", "ctm", "srt")


def align(*arguments) -> None:
    main(["align", *map(str, arguments)])


def stopped(*arguments) -> str:
    with pytest.raises(SystemExit) as error:
        align(*arguments)
    return str(error.value.code)


def read_scores(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def short_texts(corpus, tmp_path_factory) -> Path:
    """A manifest of recordings of the corpus with transcripts that the checkpoint's vocabulary can spell."""
    texts = ["the lazy dog", "空调", "quick brown fox", "jumps over"]
    files = sorted((corpus / "validation").glob("*.flac"))
    words = [{"word": "quick", "start": 0.1, "end": 0.5}, {"word": "brown", "start": 0.5, "end": 0.9}]
    rows = [{"audio": str(file), "text": text} for file, text in zip(files, texts, strict=False)]
    rows[2]["words"] = words
    path = tmp_path_factory.mktemp("manifest") / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_dataset_is_aligned(checkpoint, short_texts, tmp_path, capsys):
    options = ["--model_name_or_path", checkpoint, "--dataset_name", short_texts, "--eval_split_name", "train"]
    align(*options, "--output_dir", tmp_path, "--output_format", *FORMATS)
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (metrics["utterances"], metrics["aligned"], metrics["decoding"]) == (4, 4, "alignment")
    assert metrics["word_times_compared"] == 2 and "word_start_error_median_ms" in metrics
    assert json.loads((tmp_path / "alignment.json").read_text()) == metrics
    scores = read_scores(tmp_path)
    values = [float(row["score"]) for row in scores]
    assert values == sorted(values) and len(values) == 4
    assert {row["text"] for row in scores} == {"the lazy dog", "空调", "quick brown fox", "jumps over"}
    for row in scores:
        content = json.loads((tmp_path / "alignments" / f"{row['file']}.json").read_text(encoding="utf-8"))
        assert (content["text"], content["score"]) == (row["text"], float(row["score"]))
        words = [word["word"] for word in content["words"]]
        assert "".join(words) == row["text"].replace(" ", "")
        assert len(content["tokens"]) == int(row["tokens"])
        assert all(0 <= word["start"] <= word["end"] <= content["duration"] for word in content["words"])
        lines = (tmp_path / "alignments" / f"{row['file']}.ctm").read_text(encoding="utf-8").splitlines()
        assert [line.split(" ")[4] for line in lines] == words
        assert all(len(line.split(" ")) == 6 and line.startswith(row["file"] + " 1 ") for line in lines)
        grid = (tmp_path / "alignments" / f"{row['file']}.TextGrid").read_text(encoding="utf-8")
        assert [text for text in re.findall('text = "(.+)"', grid.partition("item [2]")[0])] == words
        subtitles = (tmp_path / "alignments" / f"{row['file']}.srt").read_text(encoding="utf-8")
        assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", subtitles)
    assert not list(tmp_path.rglob("*.partial*"))


def test_rows_that_cannot_be_aligned_are_named_and_come_first(checkpoint, recording, tmp_path, capsys):
    texts = {"good": "the fox", "empty": "…", "unknown": "ß", "long": "the lazy dog " * 100, "../../lost": "the fox"}
    rows = [{"id": name, "audio": str(recording), "text": text} for name, text in texts.items()]
    rows[-1]["audio"] = "missing.wav"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model_name_or_path", checkpoint, "--dataset_name", tmp_path / "train.jsonl"]
    align(*options, "--eval_split_name", "train", "--output_dir", tmp_path / "out")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped ")]
    reasons = dict(line.removeprefix("skipped ").split(": ", 1) for line in lines)
    assert set(reasons) == set(texts) - {"good"}
    assert reasons["empty"] == "the transcript has no words after normalisation: '…'"
    assert reasons["unknown"] == "the vocabulary cannot spell 'ß'"
    assert reasons["long"].startswith("the transcript is longer than the recording allows: its ")
    assert reasons["../../lost"] == "file not found"
    scores = read_scores(tmp_path / "out")
    assert [row["utterance_id"] for row in scores][-1] == "good" and all(row["error"] for row in scores[:-1])
    assert sorted(path.name for path in (tmp_path / "out" / "alignments").iterdir()) == ["good.TextGrid", "good.json"]
    assert json.loads((tmp_path / "out" / "alignment.json").read_text())["aligned"] == 1


@pytest.mark.parametrize("longest", [120.0, 0.5], ids=["read", "read as it is encoded"])
def test_a_recording_and_its_text_are_aligned(checkpoint, recording, tmp_path, capsys, monkeypatch, longest):
    monkeypatch.setattr("hf_asr.decoding.bulk.LONG_SECONDS", longest)
    (tmp_path / "text.txt").write_text("The lazy\ndog.\n", encoding="utf-16")
    options = [
        "--audio",
        recording,
        "--text",
        tmp_path / "text.txt",
        "--output_dir",
        tmp_path,
        "--output_format",
        "json",
    ]
    align("--model_name_or_path", checkpoint, *options)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["split"] is None
    content = json.loads((tmp_path / "alignments" / f"{recording.stem}.json").read_text())
    assert content["utterance_id"] == recording.name
    assert [word["word"] for word in content["words"]] == ["the", "lazy", "dog"]


def test_a_wrong_argument_is_an_error_of_one_line(checkpoint, corpus, recording, tmp_path):
    model, output = ["--model_name_or_path", checkpoint], ["--output_dir", tmp_path / "out"]
    text = tmp_path / "text.txt"
    text.write_text("ß")
    for arguments in ([], ["--audio", recording], ["--text", text], ["--dataset_name", corpus, "--audio", recording]):
        assert stopped(*model, *output, *arguments) == "error: give either --dataset_name, or --audio and --text"
    pair = ["--audio", recording, "--text", text]
    assert stopped(*model, *output, *pair) == f"error: {recording}: the vocabulary cannot spell 'ß'"
    text.write_text("")
    assert "the transcript has no words" in stopped(*model, *output, *pair)
    text.write_bytes(b"\xff\xfea")
    assert stopped(*model, *output, *pair).startswith(f"error: {text} is not UTF-8")
    text.write_text("fox")
    missing = tmp_path / "missing.wav"
    assert stopped(*model, *output, "--audio", missing, "--text", text) == f"error: {missing}: file not found"
    assert "No such file" in stopped(*model, *output, "--audio", recording, "--text", tmp_path / "missing.txt")
    rows = tmp_path / "train.jsonl"
    rows.write_text(json.dumps({"audio": str(recording), "text": "ß"}) + "\n")
    arguments = ["--dataset_name", rows, "--eval_split_name", "train"]
    assert stopped(*model, *output, *arguments) == "error: none of 1 transcripts is aligned; see the reasons above"
