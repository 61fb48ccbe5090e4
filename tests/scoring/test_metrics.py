import numpy as np
import pytest

from hf_asr.scoring.metrics import CharacterErrorRate, WordErrorRate, bootstrap_interval, count_errors, split_words


def test_counts_by_hand():
    counts = count_errors(["abcd", "", "ab"], ["abxd", "zz", ""], unit="character")
    assert counts.tolist() == [[1, 0, 0, 4], [0, 0, 2, 0], [0, 2, 0, 2]]
    words = count_errors(["the cat sat"], ["the cat sat down"], unit="word")
    assert words.tolist() == [[0, 0, 1, 3]]


def test_spaces_count_as_characters():
    assert CharacterErrorRate().compute(references=["a b"], predictions=["ab"])["cer"] == pytest.approx(1 / 3)


def test_a_han_character_is_a_word():
    assert split_words("打开wifi吧 now") == "打 开 wifi 吧 now"
    assert WordErrorRate().compute(references=["打开灯"], predictions=["打关灯"])["wer"] == pytest.approx(1 / 3)


def test_rates_are_over_the_corpus_not_averaged_over_utterances():
    result = WordErrorRate().compute(references=["a", "b c d"], predictions=["x", "b c d"])
    assert result["wer"] == pytest.approx(1 / 4)
    assert (result["wer_substitutions"], result["wer_deletions"], result["wer_insertions"]) == (1, 0, 0)


def test_interval_holds_the_rate_and_narrows_with_data():
    generator = np.random.default_rng(0)

    def width(count: int) -> float:
        errors = generator.binomial(20, 0.1, count)
        counts = np.stack([errors, 0 * errors, 0 * errors, 0 * errors + 20], 1)
        low, high = bootstrap_interval(counts)
        assert low <= errors.sum() / (20 * count) <= high
        return high - low

    assert width(1000) < width(50) / 2


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 references but 1 predictions"):
        count_errors(["a", "b"], ["a"], unit="word")
