"""Common Voice: tables of clips, in a folder for each language."""

import pytest

from hf_asr.corpora.common_voice import CORPUS
from hf_asr.corpora.prepare import prepare

from .published import loaded, pack, write_noise, write_text

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes"


def write_language(root, *, name="clip"):
    for part in ("train", "dev", "test", "validated"):
        path = f"{name}_{part}.mp3"
        write_text(root / f"{part}.tsv", HEADER, f"abc\t{path}\t1\t“打开”客厅\t2", f"abc\tgone_{part}.mp3\t2\t灯\t2")
        write_noise(root / "clips" / path)
    return root


def test_clips_and_speakers_come_from_the_tables(tmp_path):
    write_language(tmp_path / "cv-corpus-21.0-2025-03-14/zh-CN")
    summary = prepare(CORPUS, tmp_path / "out", source=tmp_path)
    text, speaker, seconds = loaded(tmp_path / "out", "train")["clip_train"]
    assert (text, speaker) == ("“打开”客厅", "abc") and 0.2 < seconds < 0.5
    assert list(summary["parts"]) == ["train", "dev", "test"] and summary["skipped"] == 3
    assert "gone_dev.mp3" in (tmp_path / "out/skipped.jsonl").read_text()
    assert list(prepare(CORPUS, tmp_path / "all", source=tmp_path, parts=["validated"])["parts"]) == ["validated"]


def test_archives_of_any_name_are_extracted(tmp_path):
    raw = tmp_path / "raw"
    write_language(raw / "cv-corpus-21.0-2025-03-14/zh-CN")
    (tmp_path / "source").mkdir()
    pack(tmp_path / "source/1741916155-cv-corpus-21.0-2025-03-14-zh-CN.tar.gz", raw)
    assert prepare(CORPUS, tmp_path / "out", source=tmp_path / "source")["parts"]["test"]["utterances"] == 1


def test_one_of_several_languages_is_chosen(tmp_path):
    for language in ("zh-CN", "en"):
        write_language(tmp_path / "cv" / language, name=language)
    with pytest.raises(ValueError, match="choose one with --language: .*en, .*zh-CN"):
        prepare(CORPUS, tmp_path / "out", source=tmp_path)
    prepare(CORPUS, tmp_path / "out", source=tmp_path, language="en")
    assert list(loaded(tmp_path / "out", "dev")) == ["en_dev"]
