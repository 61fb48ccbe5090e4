"""A corpus in the published layout goes through prepare, train and evaluate."""

import json
import tarfile

import pytest
import soundfile

from hf_asr.cli import main
from hf_asr.data.sources import Source

from ..hub.tiny_training import train

SPLITS = {"train": ("train", "S0002"), "dev": ("validation", "S0724"), "test": ("validation", "S0764")}


@pytest.fixture
def published(corpus, tmp_path):
    """The Mandarin sentences of the spoken corpus in the layout of AISHELL-1: an archive for each speaker."""
    wav, lines = tmp_path / "source/data_aishell/wav", []
    wav.mkdir(parents=True)
    for part, (split, speaker) in SPLITS.items():
        folder = tmp_path / "speakers" / part / speaker
        folder.mkdir(parents=True)
        rows = [row for row in Source(str(corpus)).load(split) if row["language"] == "zh"]
        for number, row in enumerate(rows):
            name = f"BAC009{speaker}W{number:04d}"
            soundfile.write(folder / f"{name}.wav", *soundfile.read(row["audio"]["path"]))
            lines.append(f"{name} {' '.join(row['text'])}\n")
        with tarfile.open(wav / f"{speaker}.tar.gz", "w:gz") as archive:
            archive.add(folder, f"{part}/{speaker}")
    transcript = wav.parent / "transcript/aishell_transcript_v0.8.txt"
    transcript.parent.mkdir()
    transcript.write_text("".join(lines), encoding="utf-8")
    return tmp_path / "source"


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_the_published_archives_to_a_score(published, tmp_path, capsys):
    main(["prepare", "aishell1", "--source", str(published), "--output_dir", str(tmp_path / "data")])
    summary = last_json(capsys)
    assert {part: found["utterances"] for part, found in summary["parts"].items()} == {"train": 20, "dev": 4, "test": 4}
    train(dataset_name=tmp_path / "data", output_dir=tmp_path / "run")
    capsys.readouterr()
    options = {"model_name_or_path": tmp_path / "run", "dataset_name": tmp_path / "data", "eval_split_name": "test"}
    main(["evaluate", *(word for name, value in options.items() for word in (f"--{name}", str(value)))])
    metrics = last_json(capsys)
    assert (metrics["split"], metrics["utterances"]) == ("test", 4)
    assert json.loads((tmp_path / "run/metrics.json").read_text())["split"] == "dev"


def test_a_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "wenetspeech", "--output_dir", str(tmp_path / "data")])
    assert stopped.value.code.startswith("error: WenetSpeech can only be downloaded by people who accept its terms")
    assert "\n" not in stopped.value.code
