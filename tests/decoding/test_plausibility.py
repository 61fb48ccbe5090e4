"""Transcripts that a model finds implausible have worse scores than right ones, and rows without a score a reason."""

import datasets
import numpy as np
import pytest

from hf_asr import ConformerTokenizer
from hf_asr.decoding.aligner import align_recordings
from hf_asr.decoding.plausibility import (
    NUM_OTHERS,
    _spellable,
    implausible_limit,
    other_transcripts,
    score_transcripts,
    separation,
)
from hf_asr.decoding.recognizer import Recognizer


@pytest.fixture
def recognizer(tiny_model, processor) -> Recognizer:
    return Recognizer(tiny_model, processor)


def rows_of(*waveforms: np.ndarray) -> datasets.Dataset:
    arrays = [{"array": waveform.tolist(), "sampling_rate": 16000} for waveform in waveforms]
    audio = [{"bytes": None, "path": ""} for _ in waveforms]
    return datasets.Dataset.from_dict({"audio": audio, "audio_array": arrays})


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=round(16000 * seconds))).astype(np.float32)


def test_scores_are_those_of_the_alignment(recognizer):
    waveforms = [noise(1), noise(2, seed=1)]
    aligned = align_recordings(recognizer, waveforms, ["the fox", "空调"])
    items = [(0, "the fox"), (1, "空调"), (0, "the fox")]
    scores = list(score_transcripts(recognizer, rows_of(*waveforms), items))
    expected = [aligned[0].score, aligned[1].score, aligned[0].score]
    assert scores == pytest.approx(expected, abs=1e-3) and all(score < 0 for score in scores)


def test_unknown_characters_are_left_out_and_short_recordings_padded(recognizer):
    rows = rows_of(noise(1), noise(0.1))
    items = [(0, "the fox"), (0, "the ßfox"), (1, "the quick brown fox"), (0, "ß"), (0, "")]
    known, unknown, padded, none, empty = score_transcripts(recognizer, rows, items)
    assert unknown == known and padded < 0
    assert none.startswith("the transcript has no words") and empty.startswith("the transcript has no words")


def test_a_digit_inside_a_word_is_left_out():
    tokenizer = ConformerTokenizer.from_texts(["m p three"], kind="char", text_normalization="en")
    assert _spellable("the mp3", tokenizer) == "the mp" and _spellable("mp 3", tokenizer) == "mp 3"


def test_the_limit_is_between_right_and_wrong_transcripts():
    right, wrong = np.linspace(-2, 0, 101), np.linspace(-9, -5, 101)
    assert implausible_limit(right, wrong) == pytest.approx((-1.8 - 5.2) / 2)
    mixed = [*right[:85], *wrong[::7]]  # more than a tenth is wrong
    assert implausible_limit(mixed, wrong) == np.median(wrong)
    assert implausible_limit(wrong, wrong) is implausible_limit([], wrong) is None  # the model cannot judge
    assert (separation(right, wrong), separation(wrong, right)) == (1, 0)
    assert separation(right, right) == pytest.approx(0.5)


def test_other_transcripts_are_of_other_rows():
    texts = [str(i) for i in range(3 * NUM_OTHERS)]
    others = other_transcripts(texts)
    assert NUM_OTHERS - 5 < len(others) <= NUM_OTHERS and len({place for place, _ in others}) == len(others)
    assert all(texts[place] != other for place, other in others)
    assert other_transcripts(["a", "a"]) == other_transcripts([]) == []
