"""Joined texts have spaces where their script has them, and a vocabulary knows this space."""

import pytest

from hf_asr.data.joined_texts import example_of_joints, has_space, join_texts, joined_labels
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


def tokenizer_of(texts: list[str], rule: str, kind: str = "char") -> ConformerTokenizer:
    return ConformerTokenizer.from_texts(texts, kind=kind, text_normalization=rule, vocab_size=60)


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize(
    ("texts", "rule", "expected"),
    [
        (["yes", "no"], "en", "yes no"),
        (["uh yes", "no"], "en", "yes no"),  # normalisation removes the filler and its space
        (["Oui !", "Non ?"], "basic", "oui non"),
        (["打开 tv", "yes", "no"], "zh-en", "打开tv yes no"),
        (["1", "2"], "en", "one two"),
        (["3", "はい"], "basic", "3 はい"),
    ],
)
def test_a_vocabulary_knows_the_space_between_its_texts(texts, rule, expected, kind):
    tokenizer = tokenizer_of(texts + example_of_joints(texts), rule, kind)
    labels = joined_labels(texts, tokenizer)
    assert tokenizer.unk_token_id not in labels
    assert tokenizer.decode(labels, group_tokens=False).strip() == expected


@pytest.mark.parametrize(
    ("texts", "rule"), [(["你好", "再见"], "zh"), (["3", "你"], "zh-en"), (["はい", "いいえ"], "basic")]
)
def test_a_vocabulary_of_a_script_without_spaces_gets_none(texts, rule):
    assert not has_space(tokenizer_of(texts + example_of_joints(texts), rule))


@pytest.mark.parametrize(
    ("texts", "rule", "expected"),
    [(["1", "2"], "en", "onetwo"), (["我要3", "4个"], "zh", "我要三四个"), ([], "zh", "")],
)
def test_an_older_vocabulary_without_the_space_has_no_unknown_token(texts, rule, expected):
    """Each number stays one of its own, too."""
    tokenizer = tokenizer_of(["one", "two", "我要三四个"], rule)
    labels = joined_labels(texts, tokenizer)
    assert tokenizer.convert_ids_to_tokens(labels) == list(expected)
