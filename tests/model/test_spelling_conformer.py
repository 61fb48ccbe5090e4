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
def test_cardinals_are_spelled(number, english, mandarin):
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
def test_numbers_in_a_text_are_spelled(language, text, expected):
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
        ("3½%", "three and one half percent", "百分之三又二分之一"),
        ("50٪", "fifty percent", "百分之五十"),
        ("-5%", "minus five percent", "负百分之五"),
        ("1.5e5s", "one point five times ten to the power of five s", "一点五乘以十的五次方s"),
        ("1.5x2", "one point 5x2", "一点5x2"),
        ("2^0.5", "two to the power of zero point five", "二的零点五次方"),
        ("2^-.5", "two to the power of minus point five", "二的负零点五次方"),
        ("ⅫⅢ", "twelve three", "十二三"),
        ("ⅩⅣ", "fourteen", "十四"),
        ("ↂ", "ten thousand", "一万"),
        ("Ↄ", "ↄ", "ↄ"),  # a letter between Unicode's Roman numerals
        ("🄂", "one", "一"),
        ("8-12", "eight to twelve", "八到十二"),
        ("800-1000", "eight hundred to one thousand", "八百到一千"),
        ("call 555-1234", "call five five five one two three four", "call五五五一二三四"),
        ("138-0013-8000", "one three eight zero zero one three eight zero zero zero", "一三八零零一三八零零零"),
        ("010-12345678", "zero one zero one two three four five six seven eight", "零一零一二三四五六七八"),
        ("temperature:-5", "temperature minus five", "temperature负五"),
        ("x=-½", "x minus one half", "x负二分之一"),
        ("-1.5e5", "minus one point five times ten to the power of five", "负一点五乘以十的五次方"),
        ("covid-19, a-5", "covid nineteen a five", "covid十九a五"),
        ("8%-10", "eight percent ten", "百分之八十"),
        *((whole, whole, whole) for whole in ("mp3", "h2o", "1e5", "1920x1080", "90s", "90's")),
    ],
)
def test_number_is_spelled_completely_or_not_at_all(text, english, mandarin):
    assert normalize_text(text, rule="en") == english
    assert normalize_text(text, rule="zh") == mandarin
    for rule, once in (("en", english), ("zh", mandarin)):
        assert normalize_text(once, rule=rule) == once, "not idempotent"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("气温-5度", "气温负五度"),
        ("气温-5°C", "气温负五c"),
        ("气温−5", "气温负五"),
        ("，-5度", "负五度"),
        ("得分-5分，休息-5分钟", "得分负五分休息五分钟"),
        ("今天，5-10度", "今天五到十度"),
        ("今天-5到-3度", "今天负五到负三度"),
        ("利率是-0.5%", "利率是负百分之零点五"),
        ("得分是-.5", "得分是负零点五"),
        ("我有.5个", "我有零点五个"),
        ("歼-20和长征-5号", "歼二十和长征五号"),  # the hyphen is part of a name
        ("5度-10度", "五度十度"),  # a range
        ("十-15度", "十十五度"),
        ("1998-2000年", "一九九八到二零零零年"),
        ("1998/2000年", "一九九八二零零零年"),
        ("1998、1999和2000年", "一九九八一九九九和二零零零年"),
    ],
)
def test_numbers_next_to_han_characters_are_spelled_in_mandarin(text, expected):
    for rule in ("zh", "zh-en"):
        assert normalize_text(text, rule=rule) == expected
    assert normalize_text("wifi，" + text.lstrip("，"), rule="zh-en") == "wifi" + expected
