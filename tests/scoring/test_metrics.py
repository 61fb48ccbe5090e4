import tracemalloc

import numpy as np
import pytest

from hf_asr.scoring.metrics import (
    CharacterErrorRate,
    WordErrorRate,
    align,
    bootstrap_interval,
    count_errors,
    error_rates,
    split_words,
)


def test_errors_are_counted():
    counts = count_errors(["abcd", "", "ab"], ["abxd", "zz", ""], unit="character")
    assert counts.tolist() == [[1, 0, 0, 4], [0, 0, 2, 0], [0, 2, 0, 2]]
    words = count_errors(["the cat sat"], ["the cat sat down"], unit="word")
    assert words.tolist() == [[0, 0, 1, 3]]


def test_spaces_count_as_characters():
    assert CharacterErrorRate().compute(references=["a b"], predictions=["ab"])["cer"] == pytest.approx(1 / 3)


def test_a_han_character_is_a_word():
    assert split_words("打开wifi吧 now") == "打 开 wifi 吧 now"
    assert WordErrorRate().compute(references=["打开灯"], predictions=["打关灯"])["wer"] == pytest.approx(1 / 3)


def test_words_and_han_characters_are_aligned():
    assert align("turn on the light", "turn off the light now") == [
        ("equal", "turn", "turn"),
        ("substitute", "on", "off"),
        ("equal", "the light", "the light"),
        ("insert", "", "now"),
    ]
    assert align("打开灯", "打开等") == [("equal", "打 开", "打 开"), ("substitute", "灯", "等")]
    assert align("", "oh") == [("insert", "", "oh")]


def test_rates_are_over_the_corpus_not_averaged_over_utterances():
    result = WordErrorRate().compute(references=["a", "b c d"], predictions=["x", "b c d"])
    assert result["wer"] == pytest.approx(1 / 4)
    assert (result["wer_substitutions"], result["wer_deletions"], result["wer_insertions"]) == (1, 0, 0)


def test_the_interval_contains_the_rate_and_narrows_with_data():
    generator = np.random.default_rng(0)

    def width(count: int) -> float:
        errors = generator.binomial(20, 0.1, count)
        counts = np.stack([errors, 0 * errors, 0 * errors, 0 * errors + 20], 1)
        low, high = bootstrap_interval(counts)
        assert low <= errors.sum() / (20 * count) <= high
        return high - low

    assert width(1000) < width(50) / 2


def test_different_numbers_of_texts_are_an_error():
    with pytest.raises(ValueError, match="2 references but 1 predictions"):
        count_errors(["a", "b"], ["a"], unit="word")


def test_the_interval_needs_memory_for_one_draw_only():
    """All 1000 draws at once would need 16 KB per utterance, here 800 MB."""
    generator = np.random.default_rng(0)
    counts = np.concatenate([generator.integers(3, size=(50_000, 3)), np.full((50_000, 1), 20)], 1)
    tracemalloc.start()
    try:
        interval = bootstrap_interval(counts, samples=100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    drawn = np.random.default_rng(0).integers(len(counts), size=(100, len(counts)))  # the draws are the same as before
    rates = counts[:, :3].sum(1)[drawn].sum(1) / (20 * len(counts))
    assert interval == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=1e-12)


def test_empty_references_have_no_error_rate():
    with pytest.raises(ValueError, match="all 2 references are empty"):
        error_rates(["", " "], ["", "a"])
    with pytest.raises(ValueError, match="there is no utterance"):
        error_rates([], [])
    assert error_rates(["", "ab"], ["x", "ab"])["cer"] == 0.5  # insertions count even with an empty reference
