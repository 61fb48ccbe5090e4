"""Transcripts that cannot belong to their corpus are found by their characters and their length."""

import numpy as np
import pytest

from hf_asr.data.text_checks import broken_encoding, left_digits, rate_deviations, wrong_scripts


def test_a_text_in_another_script_is_wrong():
    texts = ["打开客厅的灯"] * 50 + ["请打开wifi", "turn on the light", "включи свет", "12"]
    assert wrong_scripts(texts) == {51: "Latin", 52: "Cyrillic"}
    assert wrong_scripts(["打开客厅的灯", "turn on the light"]) == {}  # a mixed corpus
    assert wrong_scripts(["日本語のテキスト", "カタカナ", "ＡＢＣ"] * 5) == {}


@pytest.mark.parametrize("text", ["你好世界", "Das Öl für Straßen", "“quotes” — naïve café", "模", "привет", "灯 ok"])
def test_a_broken_encoding_is_recognised(text):
    assert broken_encoding(text) is None
    for encoding in ("latin-1", "cp1252"):
        try:
            broken = text.encode().decode(encoding)
        except UnicodeDecodeError:
            continue
        assert broken_encoding(broken) == text
    assert broken_encoding(text + "\ufffd") == "characters are lost"


def test_utf8_read_as_gbk_is_recognised():
    assert broken_encoding("你好世界打开灯".encode().decode("gbk", errors="ignore")) is not None
    assert broken_encoding("浣犲ソ") == "你好"
    assert broken_encoding("锟斤拷锟斤拷") == "characters are lost"


def test_words_with_digits_are_left_digits():
    assert left_digits("play mp3 number 7") == "mp3 7"
    assert left_digits("一二三") == ""


def test_an_unusual_speaking_rate_has_a_large_deviation():
    generator = np.random.default_rng(0)
    seconds = generator.uniform(1, 5, size=100)
    texts = ["a" * round(15 * second * generator.uniform(0.9, 1.1)) for second in seconds]
    texts[3], texts[7], texts[9] = texts[3] * 3, texts[7][: len(texts[7]) // 3], ""
    deviations = rate_deviations(texts, seconds)
    assert deviations[3] > 4 and deviations[7] < -4 and deviations[9] == 0
    assert np.abs(np.delete(deviations, [3, 7])).max() < 4


def test_mandarin_is_compared_with_mandarin():
    texts, seconds = ["灯" * 8] * 30 + ["a" * 30] * 30, [2.0] * 60
    assert not rate_deviations(texts, seconds).any()
    assert not rate_deviations(["a", "b" * 100], [1.0, 1.0]).any()  # too few for a deviation
