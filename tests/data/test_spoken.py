"""Sentences are spoken once, independently of one another, and cached."""

import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_asr.arguments import checked
from hf_asr.data import spoken
from hf_asr.data.augment import build_augmentation
from hf_asr.data.spoken import (
    DEFAULT_AUGMENTATIONS,
    WarmStartArguments,
    cached_speech,
    choose_language,
    read_texts,
    speak_sentences,
)

pytest.importorskip("espeakng_loader", reason="synthetic speech needs espeakng-loader")

SENTENCES = ["turn on the light", "play music"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty folder for cached speech."""
    monkeypatch.setattr(spoken, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hf_asr" / "spoken"


def speak(sentences, *, validation=(), **options):
    arguments = WarmStartArguments(**{"language": "en", "steps": 1, "voices": 2, **options})
    return speak_sentences(arguments, transcripts=sentences, validation=validation)


def waveforms(folder: Path) -> dict[tuple[str, str], bytes]:
    """Return the files of an audio folder by transcript and speaker."""
    lines = (folder / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["text"], row["speaker"]): (folder / "train" / row["file_name"]).read_bytes() for row in rows}


def test_each_sentence_is_spoken_once_in_several_voices():
    found = speak([*SENTENCES, "turn on the light"], voices=3)
    assert found.rows["text"][:] == [sentence for sentence in SENTENCES for _ in range(3)]
    assert found.voice == "en-us" and found.findings == []
    for place in (0, 3):
        assert len(set(found.rows["speaker"][place : place + 3])) == 3
    assert len(set(found.rows["utterance_id"])) == 6
    info = soundfile.info(found.rows[0]["audio"]["path"])
    assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC")
    assert found.rows[0]["duration"] == pytest.approx(info.duration, abs=1e-4)


def test_capitals_are_spoken_as_words_and_kept_in_the_transcript():
    whole = speak(["PLAY MUSIC"]).rows
    assert set(whole["text"]) == {"PLAY MUSIC"}
    assert max(whole["duration"]) < 2  # ten letters take longer


def test_adding_a_sentence_does_not_change_the_others(cache):
    first = waveforms(cached_speech(SENTENCES, language="en", voices=3, seed=0))
    more = waveforms(cached_speech(["a new one", *SENTENCES], language="en", voices=3, seed=0))
    assert len(first) == 6 and len(more) == 9 and first.items() <= more.items()
    assert len(list(cache.glob("*.partial"))) == 0


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"language": "en-gb"}, {"sentences": SENTENCES[::-1]}, {"voices": 2}], ids=str
)
def test_the_cache_depends_on_everything_that_decides_the_speech(change):
    options = {"sentences": SENTENCES, "language": "en", "voices": 1, "seed": 0}
    assert cached_speech(**options) == cached_speech(**options)
    assert cached_speech(**options) != cached_speech(**(options | change))


def test_cached_speech_is_not_spoken_again(monkeypatch):
    folder = cached_speech(SENTENCES, language="en", voices=1, seed=0)
    monkeypatch.setattr(spoken, "make_recording", None)
    assert cached_speech(SENTENCES, language="en", voices=1, seed=0) == folder


def test_interrupted_speaking_continues_where_it_stopped(cache, monkeypatch):
    """It was stopped while a line of metadata.jsonl was written."""
    expected = waveforms(cached_speech(SENTENCES, language="en", voices=3, seed=0))
    folder = next(path for path in cache.iterdir() if path.is_dir())
    partial = folder.with_suffix(".partial")
    folder.rename(partial)
    lines = (partial / "train" / "metadata.jsonl").read_bytes().splitlines(keepends=True)
    (partial / "train" / "metadata.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    calls, make_recording = [], spoken.make_recording
    monkeypatch.setattr(
        spoken, "make_recording", lambda *args, **options: calls.append(args) or make_recording(*args, **options)
    )
    assert waveforms(cached_speech(SENTENCES, language="en", voices=3, seed=0)) == expected
    assert len(calls) == 3 and not partial.exists()


def test_decomposed_letters_are_spoken_as_composed_ones():
    """Transcripts written on macOS hold a letter and its mark as two characters."""
    spoken_forms = [
        waveforms(cached_speech([unicodedata.normalize(form, "schöne grüße")], language="de", voices=1, seed=0))
        for form in ("NFC", "NFD")
    ]
    assert [*spoken_forms[0].values()] == [*spoken_forms[1].values()]


def test_sentences_without_speech_are_findings():
    found = speak(["???", *SENTENCES, "  ", "…"])
    assert [(finding.row, finding.reason, finding.detail) for finding in found.findings] == [
        (0, "not spoken", "'???'"),
        (3, "not spoken", "'…'"),
    ]
    assert all(finding.split == "synthetic speech" and finding.is_skipped for finding in found.findings)
    with pytest.raises(ValueError, match="espeak-ng speaks none of 1 sentences"):
        speak(["???"])


def test_mandarin_that_espeak_reads_in_english_is_not_spoken():
    found = speak(["大熊猫在玩", "打开灯", "去那儿", "播放 jazz"], voices=1, language="zh")
    assert found.rows["text"][:] == ["打开灯", "播放 jazz"]
    assert [finding.row for finding in found.findings] == [0, 2]


def test_texts_are_spoken_without_validation_transcripts(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hf_asr")
    (tmp_path / "a.txt").write_text("\ufeffPlay jazz!\r\n\r\nWake me up\r\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("  stop \nplay music\n", encoding="utf-8")
    texts = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    found = speak(SENTENCES, validation=["play JAZZ", "stop it"], texts=texts, voices=1)
    assert found.texts == ["Wake me up", "stop", "play music"]
    assert found.rows["text"][:] == [*SENTENCES, "Wake me up", "stop"]
    assert "1 lines of texts are left out" in caplog.text
    only = speak(SENTENCES, texts=texts[1], transcripts=False, voices=1)
    assert only.rows["text"][:] == ["stop", "play music"]


def test_unreadable_texts_are_an_error(tmp_path):
    (tmp_path / "gbk.txt").write_bytes("打开".encode("gbk"))
    with pytest.raises(ValueError, match="gbk.txt is not UTF-8"):
        read_texts([str(tmp_path / "gbk.txt")])
    with pytest.raises(ValueError, match="none.txt cannot be read: No such file"):
        read_texts([str(tmp_path / "none.txt")])


@pytest.mark.parametrize(
    ("sentences", "language"),
    [
        (["打开灯", "播放 jazz"], "zh"),
        (["It's TEN o'clock.", "room 12", "Where is the key?"], "en"),
        (["the end of the day, and the start of it", "what is your name"] * 40 + ["a 龙 in a café"], "en"),
        (["现在播放音乐", "打开客厅的灯"] * 40 + ["の"], "zh"),
    ],
)
def test_mandarin_and_english_are_recognised(sentences, language):
    assert choose_language(sentences) == language


@pytest.mark.parametrize(
    "sentence", ["schön", "das große haus", "selamat pagi", "12 34", "नमस्ते", "日本語です", "한국어 漢字"]
)
def test_the_language_of_other_letters_must_be_given(sentence):
    with pytest.raises(ValueError, match="give the language of the sentences"):
        choose_language(["one", sentence])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set steps or share"),
        ({"steps": 1, "voices": 0}, "voices must be 1 or more"),
        ({"steps": -1}, "steps and fade_steps 0 or more"),
        ({"share": 1.5}, "share between 0 and 1"),
        ({"share": 1}, "no recording is trained on"),
        ({"steps": 1, "transcripts": False}, "nothing to speak"),
        ({"steps": 1, "texts": 3}, "texts must be a file or a list of files, not 3"),
        ({"steps": 1, "language": False}, "language must be a code"),
        ({"steps": 1, "augmentations": "Gain"}, "augmentations must be a list"),
        ({"step": 1}, "has no step; it has: augmentations, fade_steps"),
        ({"steps": "many"}, "steps must be a whole number"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        WarmStartArguments(**checked(WarmStartArguments, options))


def test_default_augmentations_can_be_built_and_replaced():
    assert WarmStartArguments(steps=1).augmentations == DEFAULT_AUGMENTATIONS
    assert WarmStartArguments(steps=1, augmentations=[]).augmentations == []
    augment = build_augmentation(DEFAULT_AUGMENTATIONS, seed=0)
    speech = np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32)
    results = [augment(speech, 16000, epoch, "a") for epoch in range(20)]
    assert all(np.isfinite(result).all() and len(result) <= 16000 * augment.longest(1.0) + 1 for result in results)
    assert len({result.tobytes() for result in results}) == 20
