import re

import pytest

from hf_asr import ConformerTokenizer
from hf_asr.model.tokenization_conformer import TEXT_NORMALIZATIONS, normalize_text

TEXTS = ["It's five o'clock", "打开客厅的灯", "play wifi radio"]


def table(repository) -> list[tuple[str, str, str]]:
    """(rule, input, output) of the README's table of text normalisation."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([\w-]+)` \| `(.*?)` \| `(.*?)` \|$", text, flags=re.MULTILINE)
    assert len(lines) >= 15 and {rule for rule, *_ in lines} == set(TEXT_NORMALIZATIONS)
    return lines


def test_normalisation_is_as_the_readme_says(repository):
    for rule, text, expected in table(repository):
        assert normalize_text(text, rule=rule) == expected, (rule, text)
        assert normalize_text(expected, rule=rule) == expected, "not idempotent"


def test_numbers_are_spelled_in_encoding_too():
    tokenizer = ConformerTokenizer.from_texts(["twenty six degrees 二十六度"], text_normalization="zh-en")
    assert tokenizer("26 degrees")["input_ids"] == tokenizer("twenty six degrees")["input_ids"]
    batch = tokenizer(["26度", "26 degrees"])["input_ids"]
    assert batch == [tokenizer("二十六度")["input_ids"], tokenizer("twenty six degrees")["input_ids"]]
    assert 1 not in batch[0] + batch[1]


@pytest.fixture(scope="module", params=["char", "bpe"])
def tokenizer(request):
    return ConformerTokenizer.from_texts(TEXTS * 3, kind=request.param, text_normalization="zh-en", vocab_size=60)


@pytest.mark.parametrize("text", ["it's five", "打开灯", "打开wifi", "play 客厅 radio"])
def test_what_is_encoded_is_decoded(tokenizer, text):
    labels = tokenizer(text)["input_ids"]
    assert tokenizer.decode(labels, group_tokens=False) == tokenizer.normalize(text)
    assert min(labels) > 2


def test_special_ids(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("鹏")["input_ids"] == [1]
    assert tokenizer("?!")["input_ids"] == []


def test_everything_survives_a_reload(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = ConformerTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in ("IT'S  five!", "打 开 Wifi", "play radio"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.normalize(text) == tokenizer.normalize(text)


@pytest.fixture(scope="module")
def characters():
    return ConformerTokenizer.from_texts(TEXTS, text_normalization="zh-en")


def path(tokenizer, text: str) -> list[int]:
    return [0 if character == "_" else tokenizer.convert_tokens_to_ids(character) for character in text]


def test_ctc_is_collapsed(characters):
    assert characters.decode(path(characters, "__ffi_iivve▁▁_ll__l_")) == "fiive ll"
    assert characters.decode([*path(characters, "fi"), -100, -100]) == "fi"
    assert characters.decode([]) == ""


def test_offsets_are_in_frames(characters):
    output = characters.decode(path(characters, "_ff▁i_t打打开"), output_char_offsets=True, output_word_offsets=True)
    assert output["text"] == "f it打开"
    assert output["char_offsets"][0] == {"char": "f", "start_offset": 1, "end_offset": 3}
    assert [(w["word"], w["start_offset"], w["end_offset"]) for w in output["word_offsets"]] == [
        ("f", 1, 3),
        ("it", 4, 7),
        ("打", 7, 9),
        ("开", 9, 10),
    ]


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="'char' or 'bpe', not 'word'"):
        ConformerTokenizer.from_texts(TEXTS, kind="word")
    with pytest.raises(ValueError, match="one of none, basic, en, zh, zh-en, not 'fr'"):
        ConformerTokenizer.from_texts(TEXTS, text_normalization="fr")
    with pytest.raises(ValueError, match="every transcript is empty"):
        ConformerTokenizer.from_texts(["?", " "])
