import hashlib
import importlib.metadata
import json
import platform
import shutil

import numpy as np
import pytest
import soundfile

from hf_asr.data import synthetic
from hf_asr.data.espeak import SAMPLE_RATE
from hf_asr.data.synthetic import (
    SyntheticCorpusArguments,
    make_corpus,
    make_sentences,
    spell_english,
    spell_mandarin,
)
from hf_asr.scoring.metrics import split_words

pytest.importorskip("espeakng_loader", reason="the synthetic corpus needs espeakng-loader")

ARGUMENTS = SyntheticCorpusArguments(train_sentences=15, validation_sentences=6, test_sentences=4)


def read_rows(corpus_dir, split):
    return [
        json.loads(line) for line in (corpus_dir / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("synthetic") / "corpus", ARGUMENTS)


@pytest.mark.parametrize(
    ("number", "english", "mandarin"),
    [
        (0, "zero", "零"),
        (10, "ten", "十"),
        (13, "thirteen", "十三"),
        (40, "forty", "四十"),
        (99, "ninety nine", "九十九"),
        (300, "three hundred", "三百"),
        (305, "three hundred and five", "三百零五"),
        (315, "three hundred and fifteen", "三百一十五"),
        (320, "three hundred and twenty", "三百二十"),
        (2000, "two thousand", "二千"),
        (3012, "three thousand and twelve", "三千零一十二"),
        (3050, "three thousand and fifty", "三千零五十"),
        (3005, "three thousand and five", "三千零五"),
        (4725, "four thousand seven hundred and twenty five", "四千七百二十五"),
    ],
)
def test_numbers_are_spelled(number, english, mandarin):
    assert spell_english(number) == english
    assert spell_mandarin(number) == mandarin


def test_vocabulary_is_small_and_covered():
    english = set("".join(make_sentences("en", count=1000, generator=np.random.default_rng(0))))
    mandarin = set("".join(make_sentences("zh", count=1000, generator=np.random.default_rng(0))))
    assert english == set("abcdefghijklmnopqrstuvwxyz' ")
    assert len(mandarin) == 44


def test_sentences_are_distinct_and_many():
    for language in ("zh", "en"):
        sentences = make_sentences(language, count=5000, generator=np.random.default_rng(1))
        assert len(set(sentences)) == 5000


def test_unknown_language_is_refused():
    with pytest.raises(ValueError, match="choose from zh, en"):
        make_sentences("fr", count=1, generator=np.random.default_rng(0))


def test_audio_and_metadata_agree(corpus_dir):
    for split, count in (("train", 15), ("validation", 6), ("test", 4)):
        rows = read_rows(corpus_dir, split)
        assert len(rows) == count
        assert {row["language"] for row in rows} == {"zh", "en"}
        for row in rows:
            assert row["speaker"].split("+")[0] == {"zh": "cmn", "en": "en-us"}[row["language"]]
            info = soundfile.info(corpus_dir / split / row["file_name"])
            assert (info.samplerate, info.channels, info.format, info.subtype) == (SAMPLE_RATE, 1, "FLAC", "PCM_16")
            samples, _ = soundfile.read(corpus_dir / split / row["file_name"])
            assert row["duration"] == pytest.approx(len(samples) / SAMPLE_RATE, abs=1e-4)
            assert 0.9 < row["duration"] < 5
            assert 0.25 < np.abs(samples).max() < 1
            assert 1e-4 < samples[: SAMPLE_RATE // 25].std() < 1e-2  # quiet at the start, but not digital silence


def test_every_word_has_its_times(corpus_dir):
    for split in ("train", "validation", "test"):
        for row in read_rows(corpus_dir, split):
            assert [word["word"] for word in row["words"]] == split_words(row["text"]).split()
            times = [time for word in row["words"] for time in (word["start"], word["end"])]
            assert times == sorted(times) and times[0] >= 0.05 and times[-1] <= row["duration"] - 0.05


PACKAGES = {"espeakng-loader": "0.2.4", "soxr": "0.5.0.post1"}  # with which the hash was computed


@pytest.mark.skipif(
    platform.machine() != "x86_64" or any(importlib.metadata.version(name) != PACKAGES[name] for name in PACKAGES),
    reason="another espeak-ng or soxr may give other samples",
)
def test_word_times_did_not_change_the_audio(corpus_dir):
    """The hash is of the samples of version 1 of the corpus, which had no word times: measured CERs stay valid."""
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for row in read_rows(corpus_dir, split):
            digest.update(soundfile.read(corpus_dir / split / row["file_name"], dtype="int16")[0].tobytes())
    assert digest.hexdigest() == "bb046252c671e38433a80ff023742273685d5465b782c8f9592fb8c5295f2b0e"


def test_splits_are_disjoint(corpus_dir):
    texts = [row["text"] for split in ("train", "validation", "test") for row in read_rows(corpus_dir, split)]
    assert len(set(texts)) == 25


def test_corpus_is_a_function_of_the_arguments(corpus_dir, tmp_path):
    again = make_corpus(tmp_path / "again", ARGUMENTS)
    names = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(names) == 25 + 3 + 1
    for name in names:
        assert (again / name).read_bytes() == (corpus_dir / name).read_bytes()


def test_seed_changes_the_sentences(corpus_dir, tmp_path):
    other = make_corpus(tmp_path / "other", SyntheticCorpusArguments(train_sentences=4, validation_sentences=0, seed=1))
    assert [row["text"] for row in read_rows(other, "train")] != [
        row["text"] for row in read_rows(corpus_dir, "train")
    ][:4]
    assert not (other / "validation").exists()


def test_finished_corpus_is_reused(corpus_dir):
    audio = corpus_dir / "train" / "00000.flac"
    written = audio.stat().st_mtime_ns
    assert make_corpus(corpus_dir, ARGUMENTS) == corpus_dir
    assert audio.stat().st_mtime_ns == written
    assert [path.name for path in corpus_dir.parent.iterdir()] == ["corpus"]  # no temporary folder is left


def test_a_corpus_that_another_process_has_written_meanwhile_is_kept(corpus_dir, tmp_path, monkeypatch):
    """Two trainings that begin together need the same corpus."""

    def written_twice(folder, arguments):
        shutil.copytree(corpus_dir, tmp_path / "new")  # by the other process
        write_corpus(folder, arguments)

    write_corpus = synthetic._write_corpus
    monkeypatch.setattr(synthetic, "_write_corpus", written_twice)
    assert make_corpus(tmp_path / "new", ARGUMENTS) == tmp_path / "new"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_another_folder_that_appears_meanwhile_is_refused_and_kept(tmp_path, monkeypatch):
    arguments = SyntheticCorpusArguments(train_sentences=1, validation_sentences=1)
    monkeypatch.setattr(synthetic, "_write_corpus", lambda *_: (tmp_path / "new" / "other").mkdir(parents=True))
    with pytest.raises(ValueError, match="choose a new folder for the corpus"):
        make_corpus(tmp_path / "new", arguments)
    assert (tmp_path / "new" / "other").exists()


def test_other_arguments_are_refused(corpus_dir):
    with pytest.raises(ValueError, match="choose a new folder for the corpus"):
        make_corpus(corpus_dir, SyntheticCorpusArguments(seed=1))


def test_another_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="choose a new folder for the corpus"):
        make_corpus(tmp_path, ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
