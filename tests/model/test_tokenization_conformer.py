import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_asr import ConformerFeatureExtractor, ConformerProcessor, ConformerTokenizer
from hf_asr.model.tokenization_conformer import TEXT_NORMALIZATIONS, normalize_text

TEXTS = ["It's five o'clock", "打开客厅的灯", "play wifi radio"]


def table(repository) -> list[tuple[str, str, str]]:
    """Return (rule, input, output) of each line of the table of text normalisation in docs/data.md."""
    text = (repository / "docs/data.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([\w-]+)` \| `(.*?)` \| `(.*?)` \|$", text, flags=re.MULTILINE)
    assert len(lines) >= 15 and {rule for rule, *_ in lines} == set(TEXT_NORMALIZATIONS)
    return lines


def test_normalisation_equals_the_documented_table(repository):
    for rule, text, expected in table(repository):
        assert normalize_text(text, rule=rule) == expected, (rule, text)
        assert normalize_text(expected, rule=rule) == expected, "not idempotent"


def test_encoding_spells_numbers():
    tokenizer = ConformerTokenizer.from_texts(["twenty six degrees 二十六度"], text_normalization="zh-en")
    assert tokenizer("26 degrees")["input_ids"] == tokenizer("twenty six degrees")["input_ids"]
    batch = tokenizer(["26度", "26 degrees"])["input_ids"]
    assert batch == [tokenizer("二十六度")["input_ids"], tokenizer("twenty six degrees")["input_ids"]]
    assert 1 not in batch[0] + batch[1]


@pytest.fixture(scope="module", params=["char", "bpe"])
def tokenizer(request):
    return ConformerTokenizer.from_texts(TEXTS * 3, kind=request.param, text_normalization="zh-en", vocab_size=60)


@pytest.mark.parametrize("text", ["it's five", "打开灯", "打开wifi", "play 客厅 radio"])
def test_decoding_labels_returns_the_normalised_text(tokenizer, text):
    labels = tokenizer(text)["input_ids"]
    assert tokenizer.decode(labels, group_tokens=False) == tokenizer.normalize(text)
    assert min(labels) > 2


SPECIAL = ["<unk>", "<blk>", "<sos/eos>", "<pad>", "[PAD]", "</s>", "|"]


@pytest.mark.parametrize("rule", TEXT_NORMALIZATIONS)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_special_tokens_in_a_transcript_are_encoded_as_text(rule, kind, tmp_path):
    texts = ["hello world", *SPECIAL] if rule == "none" else ["hello world"]
    ours = ConformerTokenizer.from_texts(texts, kind=kind, text_normalization=rule, vocab_size=60)
    ours.save_pretrained(tmp_path)
    for tokenizer in (ours, ours.extended("é"), AutoTokenizer.from_pretrained(tmp_path)):
        batch = [f"hello {special} world" for special in SPECIAL]
        labels = tokenizer(batch)["input_ids"]
        assert labels == [tokenizer(tokenizer.normalize(text))["input_ids"] for text in batch]
        assert labels == [tokenizer(text)["input_ids"] for text in batch]
        assert all(min(ids) > 2 for ids in labels)
        decoded = [tokenizer.decode(ids, group_tokens=False) for ids in labels]
        assert decoded == (batch if rule == "none" else ["hello world"] * len(batch))
        processor = ConformerProcessor(ConformerFeatureExtractor(), tokenizer)
        assert processor(text=batch[1])["labels"].tolist() == [labels[1]]


def test_unknown_letters_of_special_tokens_in_a_transcript_are_encoded_as_unknown():
    tokenizer = ConformerTokenizer.from_texts(["hello"], text_normalization="none")
    assert tokenizer("<blk>")["input_ids"] == [1, 1, tokenizer("l")["input_ids"][0], 1, 1]


# Letters, marks and signs of many scripts, numbers and fillers: everything that normalisation handles specially.
FRAGMENTS = [
    *"abIİÉéßΣσ'’´-.,:/%^$12²½①Ⅳ№٣<>[]呃打开年▁·lsthEकیم་ದדשカか゛ﾞำน가ㄱ՞აﬁǄー〇😀",
    *(
        "\u0301",
        "\u0307",
        "\u093f",
        "\u0e49",
        "\u05f4",
        "\u200c",
        "\u200d",
        "\u0d28",
        "\u0d4d",
        "\U0001f102",
        "\u00ad",
        "\ufe0f",
        "\x00",
        "\x1c",
        "\u3000",
    ),
    *("<unk>", "<blk>", "<sos/eos>", "</s>", "30", "5-10", "3:30", "90's", "1.5e-5", "v2.0", "mp3", "uh", "mm", "hm"),
]
TRANSCRIPTS = st.lists(st.sampled_from([*FRAGMENTS, " "]), max_size=12).map("".join) | st.text(max_size=20)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(TRANSCRIPTS, st.sampled_from(list(TEXT_NORMALIZATIONS)))
def test_normalisation_is_idempotent(text, rule):
    once = normalize_text(text, rule=rule)
    assert normalize_text(once, rule=rule) == once


@pytest.mark.parametrize("rule", TEXT_NORMALIZATIONS)
@pytest.mark.parametrize(
    "text",
    ["a\u0d4d\u200dന", "ന\u0301\u0d4d\u200d", "\u095c\u094d\u200d", "ന\u0d4d\u200d\u200c", "ന\u0d4d\u200c\u200d"],
)
def test_normalisation_of_joiners_and_marks_in_any_order_is_idempotent(text, rule):
    once = normalize_text(text, rule=rule)
    assert normalize_text(once, rule=rule) == once


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(TRANSCRIPTS, min_size=1, max_size=3),
    st.sampled_from(list(TEXT_NORMALIZATIONS)),
    st.sampled_from(["char", "bpe"]),
)
def test_decoded_labels_equal_the_text_that_is_scored(texts, rule, kind):
    """Check, for any transcripts, that no label is a special token and that decoding returns the normalised text."""
    if not any(normalize_text(text, rule=rule) for text in texts):
        return
    tokenizer = ConformerTokenizer.from_texts(texts, kind=kind, text_normalization=rule, vocab_size=300)
    labels = tokenizer(texts)["input_ids"]
    for text, ids in zip(texts, labels, strict=True):
        assert not {0, 1, 2} & set(ids)
        assert ids == tokenizer(text)["input_ids"] == tokenizer(tokenizer.normalize(text))["input_ids"]
        assert tokenizer.decode(ids, group_tokens=False) == tokenizer.normalize(text)


SENTENCES = {
    "Turkish": "İSTANBUL'da ışık, çığ",
    "Vietnamese": "Tiếng Việt được viết bằng chữ Quốc ngữ",
    "Hindi": "मैं हिन्दी में क़लम लिखता हूँ",
    "Bengali": "র‍্যাব ক্ষমা",
    "Tamil": "தமிழ் மொழி ஃ",
    "Sinhala": "ශ්‍රී ලංකාව",
    "Thai": "น้ำแข็งกำลังละลาย",
    "Lao": "ນ້ຳ ພາສາລາວ",
    "Khmer": "ភាសាខ្មែរ",
    "Burmese": "မြန်မာဘာသာ၏ စကား",
    "Tibetan": "བོད་སྐད་ཡིན།",
    "Arabic": "العربِيَّةُ مُحَمَّدٌ كـــتاب",
    "Persian": "می‌خواهم خانه‌ها",
    "Hebrew": "שָׁלוֹם צה״ל",
    "Greek": "Ο Οδυσσεύς είπε τον λόγο",
    "Russian": "Ёлка, съёмка й",
    "Ukrainian": "Мʼята м’ята їжак",
    "Hawaiian": "Hawaiʻi ʻōlelo",
    "Catalan": "Col·laborar intel·ligent",
    "German": "GROẞE Straße, Äpfel",
    "Polish": "Zażółć gęślą jaźń",
    "Czech": "Příliš žluťoučký",
    "French": "L’été, ça œuvre",
    "Irish": "Gaeilge á",
    "Yoruba": "Ẹ̀kọ́ Yorùbá",
    "Guarani": "Avañe'ẽ G̃",
    "Georgian": "ქართული ᲥᲐᲠᲗᲣᲚᲘ",
    "Armenian": "Ինչպե՞ս ես",
    "Amharic": "አማርኛ ሰላም",
    "Japanese": "スーパー ガギグ ぱぴ 々",
    "Korean": unicodedata.normalize("NFD", "한국어 말씀"),
    "Mandarin": "打开客厅的灯",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_basic_rule_keeps_letters_and_marks_of_all_scripts(language):
    def letters(text: str) -> list[str]:
        text = unicodedata.normalize("NFC", text.lower().replace("i̇", "i"))
        return [character for character in text if unicodedata.category(character)[0] in "LM"]

    text = SENTENCES[language]
    normalized = normalize_text(text, rule="basic")
    assert letters(normalized) == letters(text)
    assert len(normalized.split()) == len(text.split()), normalized
    if language not in ("Turkish", "Mandarin", "Japanese") and not re.search("[a-z]", normalized):
        assert normalize_text(text, rule="zh-en") == normalized, "only Latin letters lose their accents"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("İSTANBUL", "istanbul"),
        ("co\u00adope\u200brate \ufeffit\u2060s", "cooperate its"),
        ("a\u200cb c\u200dd", "ab cd"),  # Latin letters have no joiners
        ("❤️ 1️⃣ one", "1 one"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("it´s it`s it’s", "it's it's it's"),
        ("rock 'n' roll, 'tis", "rock n roll tis"),
        ("か゛", "が"),
        ("10² 1½ ①②", "10 2 1 1 2 1 2"),
        ("a < b and c > d", "a b and c d"),
        ("1 <2 and 3> 2", "1 2 and 3 2"),
        ("a [laughter] b <background noise> c </s>", "a b c"),
        ("all [these four words stay] here", "all these four words stay here"),
        ("می\u200cخواهم ه\u200c٪", "می\u200cخواهم ه"),
        # A joiner after a virama at a word's end changes the last letter: Malayalam's chillus, Bengali's khanda ta.
        ("അവന്\u200d ഞാന്\u200d.", "അവന്\u200d ഞാന്\u200d"),
        ("হঠাত্\u200d, ক\u200d", "হঠাত্\u200d ক"),
        ("അവന്\u200c \u0d4d\u200d a\u0d4d\u200d", "അവന് a\u0d4d"),
        ("סנדוויץ׳, ג׳ירפה ׳א ״ב״ צה״ל", "סנדוויץ׳ ג׳ירפה א ב צה״ל"),
    ],
)
def test_basic_rule(text, expected):
    assert normalize_text(text, rule="basic") == expected


@pytest.mark.parametrize("rule", ["basic", "none"])
def test_bpe_keeps_spaces_before_han_characters(rule):
    texts = ["play 打开 radio", "打开 灯 play", "打 开"]
    tokenizer = ConformerTokenizer.from_texts(texts, kind="bpe", text_normalization=rule, vocab_size=40)
    assert [tokenizer.decode(ids, group_tokens=False) for ids in tokenizer(texts)["input_ids"]] == texts


def test_bpe_vocabulary_too_small_for_its_characters_is_an_error():
    texts = ["".join(map(chr, range(0x4E00, 0x4E00 + 200)))]
    with pytest.raises(ValueError, match="bpe_vocab_size to 204 or more, or the tokenizer to char"):
        ConformerTokenizer.from_texts(texts, kind="bpe", vocab_size=100)
    assert len(ConformerTokenizer.from_texts(texts, kind="bpe", vocab_size=204)) <= 204


def test_special_tokens_have_ids_0_to_2(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("鹏")["input_ids"] == [1]
    assert tokenizer("?!")["input_ids"] == []


def test_loaded_tokenizer_equals_the_saved_one(tokenizer, tmp_path):
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


def test_decoding_collapses_a_ctc_path(characters):
    assert characters.decode(path(characters, "__ffi_iivve▁▁_ll__l_")) == "fiive ll"
    assert characters.decode([*path(characters, "fi"), -100, len(characters)]) == "fi"
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


def test_unusable_arguments_are_an_error():
    with pytest.raises(ValueError, match="'char' or 'bpe', not 'word'"):
        ConformerTokenizer.from_texts(TEXTS, kind="word")
    with pytest.raises(ValueError, match="one of none, basic, en, zh, zh-en, not 'fr'"):
        ConformerTokenizer.from_texts(TEXTS, text_normalization="fr")
    with pytest.raises(ValueError, match="every transcript is empty"):
        ConformerTokenizer.from_texts(["?", " "])
