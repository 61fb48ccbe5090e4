from collections import Counter

import pytest

from hf_asr.decoding.word_list import WORDS_PER_SENTENCE, random_sentences, read_word_list


@pytest.mark.parametrize(
    "text",
    [
        "the 30\n\nNew York 1\n".replace("New York", "New_York"),
        "the\t30\nNew_York\t1.0\n",
        "\ufeffthe 10 r\r\nthe 20 n\r\nNew_York 1e0 ns\r\n",
    ],
    ids=["spaces and an empty line", "tabs", "parts of speech, a word twice, Windows"],
)
def test_words_and_frequencies_are_read(text, tmp_path):
    (tmp_path / "words.txt").write_bytes(text.encode())
    assert read_word_list(tmp_path / "words.txt") == {"the": 30.0, "New_York": 1.0}


def test_a_word_of_a_list_with_tabs_can_contain_spaces(tmp_path):
    (tmp_path / "words.txt").write_text("New York\t3\n")
    assert read_word_list(tmp_path / "words.txt") == {"New York": 3.0}


@pytest.mark.parametrize("line", ["word", "3 word", "word -1", "word nan", "word inf", "\t3"])
def test_a_line_that_is_no_word_with_a_frequency_is_named(line, tmp_path):
    (tmp_path / "words.txt").write_text(f"the 30\n{line}\n")
    with pytest.raises(ValueError, match="words.txt, line 2: .* must be a word and its frequency"):
        read_word_list(tmp_path / "words.txt")


def test_words_are_drawn_by_their_frequencies():
    frequencies = {"often": 8.0, "seldom": 2.0, "never": 0.0}
    sentences = random_sentences(frequencies, count=1000)
    assert sentences == random_sentences(frequencies, count=1000) != random_sentences(frequencies, count=1000, seed=1)
    counts = Counter(word for sentence in sentences for word in sentence.split(" "))
    assert {len(sentence.split(" ")) for sentence in sentences} == {WORDS_PER_SENTENCE}
    assert counts["often"] / counts.total() == pytest.approx(0.8, abs=0.02) and not counts["never"]


@pytest.mark.parametrize("word", ["空调", "これ", "テレビ", "น้ำ", "ນ້ຳ", "ရေ", "ទឹក"])
def test_words_of_scripts_without_spaces_have_none_between_them(word):
    assert random_sentences({word: 1.0}, count=1) == [word * WORDS_PER_SENTENCE]
    assert f"{word} ok" in random_sentences({word: 1.0, "ok": 1.0}, count=10)[0]


def test_korean_words_have_spaces():
    assert random_sentences({"물": 1.0}, count=1) == [" ".join(["물"] * WORDS_PER_SENTENCE)]
