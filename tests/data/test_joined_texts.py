"""Joined texts have spaces where their script has them, and a vocabulary knows this space."""

import pytest

from hf_asr.data.joined_texts import has_space, join_texts, lacking_space
from hf_asr.model import ConformerTokenizer


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["one", "two", "three"], "one two three"),
        (["Yes.", "(No)"], "Yes. (No)"),
        (["你好。", "早"], "你好。早"),
        (["はい", "いいえ"], "はいいいえ"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["네", "아니요"], "네 아니요"),  # Korean has spaces
        (["打开", "tv", "关", "26", "度"], "打开 tv 关 26 度"),
        (["one", "", "two"], "one two"),
        (["…", "a"], "… a"),
        ([], ""),
    ],
)
def test_scripts_decide_where_a_space_is(texts, joined):
    assert join_texts(texts) == joined


def test_without_a_space_in_the_vocabulary_nothing_separates():
    assert join_texts(["one", "two"], has_space=False) == "onetwo"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_vocabulary_of_single_words_gets_the_space_between_them(kind):
    words = ["one", "two", "three"]
    assert lacking_space(words) == ["one one"]
    tokenizer = ConformerTokenizer.from_texts(words + lacking_space(words), kind=kind, vocab_size=30)
    assert has_space(tokenizer)
    assert tokenizer.unk_token_id not in tokenizer(join_texts(words)).input_ids
    assert not has_space(ConformerTokenizer.from_texts(words))


@pytest.mark.parametrize("texts", [["one two", "three"], ["你好", "再见"], ["はい", "いいえ"], [""]])
def test_other_vocabularies_stay_as_they_are(texts):
    assert lacking_space(texts) == []


def test_a_mixed_set_gets_a_space_for_its_words():
    assert lacking_space(["你好", "tv"]) == ["tv tv"]
