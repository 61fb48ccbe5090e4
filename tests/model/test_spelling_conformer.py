import pytest

from hf_asr.model.spelling_conformer import spell_english, spell_mandarin, spell_numbers
from hf_asr.model.tokenization_conformer import normalize_text


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


@pytest.mark.parametrize(
    ("text", "english", "mandarin"),
    [
        ("192.168.1.1", "one nine two point one six eight point one point one", "一九二点一六八点一点一"),
        ("3.5.2", "three point five point two", "三点五点二"),
        (".5", "point five", "零点五"),
        ("10km", "ten km", "十km"),
        ("4K", "four k", "四k"),
        (
            "1,23,456",
            "one hundred and twenty three thousand four hundred and fifty six",
            "十二万三千四百五十六",
        ),
        ("1,000,000,000", "one billion", "十亿"),
        ("10²", "ten squared", "十的平方"),
        ("10⁻⁵", "ten to the power of minus five", "十的负五次方"),
        ("1½", "one and one half", "一又二分之一"),
        ("¾", "three quarters", "四分之三"),
        ("-5", "minus five", "负五"),
        ("5-10", "five to ten", "五到十"),
        ("1.5e-5", "one point five times ten to the power of minus five", "一点五乘以十的负五次方"),
        ("٣", "three", "三"),
        ("①②", "one two", "一二"),
        ("Ⅳ", "four", "四"),
        ("№5", "no five", "no五"),
        ("v2.0", "v two point zero", "v二点零"),
        ("mp3,5", "mp3 five", "mp3五"),
        ("5mm", "five millimeters", "五毫米"),
        ("在3:30", "在 three thirty", "在三点三十"),
        ("the 21st", "the twenty first", "the第二十一"),
        *((whole, whole, whole) for whole in ("mp3", "h2o", "1e5", "1920x1080", "90s", "90's")),
    ],
)
def test_a_number_is_spelled_as_a_whole_or_left(text, english, mandarin):
    assert normalize_text(text, rule="en") == english
    assert normalize_text(text, rule="zh") == mandarin
