import pytest

from hf_asr.model.spelling_conformer import spell_english, spell_mandarin, spell_numbers


@pytest.mark.parametrize(
    ("number", "english", "mandarin"),
    [
        (0, "zero", "零"),
        (15, "fifteen", "十五"),
        (110, "one hundred and ten", "一百一十"),
        (1001, "one thousand and one", "一千零一"),
        (3050, "three thousand and fifty", "三千零五十"),
        (10010, "ten thousand and ten", "一万零一十"),
        (120000, "one hundred and twenty thousand", "十二万"),
        (1000001, "one million and one", "一百万零一"),
        (
            999999999,
            "nine hundred and ninety nine million nine hundred and ninety nine thousand nine hundred and ninety nine",
            "九亿九千九百九十九万九千九百九十九",
        ),
    ],
)
def test_cardinals(number, english, mandarin):
    assert spell_english(number) == english
    assert spell_mandarin(number) == mandarin


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "1,234.5%", "one thousand two hundred and thirty four point five percent"),
        ("en", "the 21st, the 12th and the 20th", "the twenty first , the twelfth and the twentieth"),
        ("en", "0049 and 1234567890", "zero zero four nine and one two three four five six seven eight nine zero"),
        ("en", "mp3 and covid19", "mp3 and covid19"),
        ("zh", "2026年11月24日，下降了３.5％", "二零二六年十一月二十四日,下降了百分之三点五"),
        ("zh-en", "set it to 26", "set it to twenty six"),
        ("zh-en", "iphone 15 pro 卖了3个", "iphone fifteen pro 卖了三个"),
        ("zh-en", "一共 7", "一共 七"),
    ],
)  # fmt: skip
def test_numbers_in_text(language, text, expected):
    assert " ".join(spell_numbers(text, language=language).split()) == expected
