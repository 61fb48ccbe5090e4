import pytest

from hf_asr import ConformerTokenizer
from hf_asr.model.tokenization_conformer import text_normalizer

TEXTS = ["It's five o'clock", "打开客厅的灯", "play wifi radio"]


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("en", "  “It’s” FIVE o'clock -- café!  ", "it's five o'clock cafe"),
        ("zh", "打开，客厅 的灯。ＯＫ？", "打开客厅的灯ok"),
        ("zh-en", "请打开 Wi-Fi ， Naïve", "请打开wi fi naive"),
        ("basic", "Ça va? ½", "ça va 1 2"),
        ("none", "  As IS,  isn't  it? ", "As IS, isn't it?"),
    ],
)
def test_normalisation(rule, text, expected):
    normalizer = text_normalizer(rule)
    assert normalizer.normalize_str(text) == expected
    assert normalizer.normalize_str(expected) == expected


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
