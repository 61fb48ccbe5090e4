"""AISHELL-1: an archive of archives, and one transcript file."""

import shutil

import pytest

from hf_asr.corpora.aishell1 import CORPUS
from hf_asr.corpora.prepare import prepare

from .published import loaded, pack, write_noise, write_text

SPEAKERS = {"train": ("S0002", "S0003"), "dev": ("S0724",), "test": ("S0764",)}


@pytest.fixture
def published(tmp_path):
    """The published archive alone in a folder."""
    wav, texts = tmp_path / "raw/data_aishell/wav", []
    for part, speakers in SPEAKERS.items():
        for speaker in speakers:
            for number in (122, 123):
                name = f"BAC009{speaker}W0{number}"
                write_noise(tmp_path / "speakers" / speaker / part / speaker / f"{name}.wav")
                texts.append(f"{name} 而 对 楼市 成交 {'大' * (number - 121)}")
            wav.mkdir(parents=True, exist_ok=True)
            pack(wav / f"{speaker}.tar.gz", tmp_path / "speakers" / speaker)
    write_text(tmp_path / "raw/data_aishell/transcript/aishell_transcript_v0.8.txt", *texts)
    source = tmp_path / "source"
    source.mkdir()
    pack(source / "data_aishell.tgz", tmp_path / "raw")
    return source


def test_archives_become_the_published_splits(published, tmp_path):
    summary = prepare(CORPUS, tmp_path / "out", source=published)
    assert {part: found["utterances"] for part, found in summary["parts"].items()} == {"train": 4, "dev": 2, "test": 2}
    assert summary["speakers"] == {"train": 2, "dev": 1, "test": 1} and summary["skipped"] == 0
    assert loaded(tmp_path / "out", "dev") == {
        "BAC009S0724W0122": ("而对楼市成交大", "S0724", 0.3),
        "BAC009S0724W0123": ("而对楼市成交大大", "S0724", 0.3),
    }


def test_what_has_no_counterpart_is_named(published, tmp_path):
    prepare(CORPUS, tmp_path / "out", source=published)
    wav = published / "data_aishell/wav"
    (wav / "train/S0002/BAC009S0002W0122.wav").unlink()
    write_noise(wav / "train/S0002/BAC009S0002W0999.wav")
    shutil.rmtree(wav / "train/S0003")
    (wav / "S0003.tar.gz").unlink()
    summary = prepare(CORPUS, tmp_path / "out", source=published)
    skipped = (tmp_path / "out/skipped.jsonl").read_text()
    assert summary["skipped"] == 4 and list(loaded(tmp_path / "out", "train")) == ["BAC009S0002W0123"]
    assert "W0122" in skipped and "its recording is missing" in skipped
    assert "W0999" in skipped and "it has no transcript" in skipped
    assert skipped.count("its speaker has no folder") == 2


def test_a_second_run_extracts_the_speakers_that_are_missing(published, tmp_path):
    prepare(CORPUS, tmp_path / "out", source=published)
    wav = published / "data_aishell/wav"
    first, second = wav / "train/S0002", wav / "train/S0003"
    shutil.rmtree(second)
    content, before = (wav / "S0003.tar.gz").read_bytes(), first.stat().st_ino
    (wav / "S0003.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="S0003.tar.gz is damaged or cut short"):
        prepare(CORPUS, tmp_path / "out", source=published)
    assert not second.exists()
    (wav / "S0003.tar.gz").write_bytes(content)
    assert prepare(CORPUS, tmp_path / "out", source=published)["parts"]["train"]["utterances"] == 4
    assert first.stat().st_ino == before
