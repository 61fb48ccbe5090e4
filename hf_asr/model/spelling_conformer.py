"""Written numbers as they are spoken, in English and Mandarin: a transcript says "26", the recording "twenty six"."""

import re
import unicodedata
from collections.abc import Callable

HAN = re.compile(r"[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}
_DIGITS = "零一二三四五六七八九"

# What has a value of its own, or holds digits once it is NFKC: texts without are left alone.
_ANY_NUMBER = re.compile(
    r"[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218b\u2460-\u24ff\u2776-\u2793\u3220-\u33ff\U0001f100-\U0001f10c]"
)
# ①, ⑴, ⒈, ❶, ㉑, 🄂: each is a number
_ENCLOSED = re.compile(r"[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf\U0001f100-\U0001f10c]")
_ROMAN = re.compile(r"[\u2160-\u2182\u2185-\u2188]+")
_ROMAN_LETTERS = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_SUPERSCRIPT = re.compile(r"(?<=\d)\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")

_LETTER = rf"[^\W\d_{HAN.pattern[1:-1]}]"  # a Han character is no letter of a word
_ALONE = rf"(?=[0-9])(?<!{_LETTER})(?<![\d_.])(?<![0-9],)"  # before a number that is no part of another or of a name
_SIMPLE_FRACTION = r"\u00bc-\u00be\u2150-\u215e\u2189"
# The hyphen of covid-19, 5-10, 5月-10月 and of the aeroplane 歼-20 is no minus sign: after a Han character it is one
# before a measure and after a word for "is" or "to", as is the sign that nothing else is written with.
_MINUS = (
    r"(?P<minus>(?:(?<![^\s(\[{\"'“‘,:;=<>/~×、。，：；＝])|(?<=[是为到至于达约])"
    rf"|(?<={HAN.pattern})(?<![一二三四五六七八九十百千万零〇])(?<![0-9]{HAN.pattern})(?<![0-9]{HAN.pattern}{{2}})"
    r"(?=\u2212|-[0-9.,]+\s?(?:[%٪°度元块米万亿]|分(?!钟)|摄氏|华氏|[到至~]\s?[-\u2212])))"
    rf"[-\u2212](?=\.?[0-9{_SIMPLE_FRACTION}]))?"
)
_PERCENT = r"(?:\s?(?P<percent>[%٪％﹪]))?"
_FRACTION = re.compile(
    rf"{_MINUS}(?:{_ALONE}(?P<whole>[0-9]+)\s?)?"
    rf"(?P<fraction>[{_SIMPLE_FRACTION}]|{_ALONE}[0-9]+\u2044[0-9]+){_PERCENT}"
)
_SCIENTIFIC = re.compile(  # 1.5e5, 1e-5; 1e5 may be a name
    rf"{_MINUS}{_ALONE}(?P<number>[0-9]+(?:\.[0-9]+(?=[eE])|(?=[eE][+-])))"
    rf"[eE]\+?(?P<power>-?[0-9]+)(?!{_LETTER}*[0-9]|[.,][0-9]){_PERCENT}"
)
_TELEPHONE = re.compile(  # 555-1234, 138-0013-8000, 010-12345678; not 581-1279年
    rf"{_ALONE}(?<![0-9][/–-])"
    r"(?:(?:[0-9]{1,4}-)+[0-9]{3,4}-[0-9]{4}|[0-9]{3}-[0-9]{4}|[0-9]{3,4}-[0-9]{7,8})"
    rf"(?!{_LETTER}|[0-9]|[.,/–-][0-9]|\s?[%年元米人个])"
)
_RANGE = re.compile(  # 5-10; not 138-0013-8000
    rf"{_ALONE}(?<![/-])(?P<first>[1-9][0-9]{{0,3}}(?:\.[0-9]+)?)"
    r"[-–~](?P<last>[1-9][0-9]{0,3}(?:\.[0-9]+)?)(?![0-9.,]*[0-9]|[-–~/][0-9])"
)
_CLOCK = re.compile(rf"{_ALONE}(?<!:)(?P<hours>[0-9]{{1,2}}):(?P<minutes>[0-5][0-9])(?![0-9:])")
_MILLIMETERS = re.compile(rf"{_ALONE}(?P<number>[0-9.,]*[0-9])\s?mm(?!{_LETTER}|[0-9])")

# After the first of 1998到2000年 and 1998/2000年 as after the second
_YEAR = re.compile(r"\s*(?:[到至和或、/~–-]\s*[0-9]{4}\s*)*年")

# A word with a digit in it, 3.5.2 and 1,234 as one
_WORD = re.compile(
    rf"{_MINUS}(?P<word>(?:(?<!{_LETTER})(?<![\d_.])\.(?=[0-9])|(?<!{_LETTER}){_LETTER}+)?"
    rf"[0-9](?:{_LETTER}|[0-9])*(?:[.,][0-9](?:{_LETTER}|[0-9])*)*)"
    rf"(?P<plural>'[sS](?!{_LETTER}|[0-9]))?"
    rf"(?:\^(?P<power>[-\u2212]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)))?{_PERCENT}"
)
_NUMERAL = re.compile(rf"(?P<head>{_LETTER}*)(?P<number>\.?[0-9]+(?:[.,][0-9]+)*)(?P<tail>{_LETTER}*)")
# 1,234.5, and 1,23,456 as it is grouped in India
_GROUPED = re.compile(
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}|[0-9]*)(?:\.(?P<decimals>[0-9]+))?"
)


def spell_english(number: int) -> str:
    """Cardinal up to 999 999 999 999: 325 is "three hundred and twenty five"."""
    if number < 20:
        return _UNITS[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f" {_UNITS[number % 10]}" if number % 10 else "")
    names = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
    size, name = next((size, name) for size, name in names if number >= size)
    count, rest = divmod(number, size)
    link = " and " if rest < 100 else " "
    return f"{spell_english(count)} {name}" + (link + spell_english(rest) if rest else "")


def spell_mandarin(number: int) -> str:
    """Cardinal up to 999 999 999 999: 325 is "三百二十五", 3050 is "三千零五十", 120 000 is "十二万"."""
    if number < 10:
        return _DIGITS[number]
    if number < 20:
        return "十" + (_DIGITS[number - 10] if number > 10 else "")
    names = ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十"))
    size, name = next((size, name) for size, name in names if number >= size)
    count, rest = divmod(number, size)
    if not rest:
        return spell_mandarin(count) + name
    # Inside a larger number a skipped place is read as one 零, and ten keeps its 一 (三百一十五).
    link = ("零" if rest < size // 10 else "") + ("一" if 10 <= rest < 20 else "")
    return spell_mandarin(count) + name + link + spell_mandarin(rest)


def has_number(text: str) -> bool:
    """Whether there is anything to spell."""
    return _ANY_NUMBER.search(text) is not None


def spell_numbers(text: str, *, language: str) -> str:
    """`text` with its numbers spelled.

    Numbers that begin with 0 or have more than nine digits are read digit by digit, and so are Mandarin years (1998年).
    A number is spelled as a whole or not at all: digits that are part of a name (mp3, h2o) or a plural (90s) stay.

    Args:
        language: `"en"`, `"zh"`, or `"zh-en"`: Mandarin beside a Han character, or where the text has them and no
            Latin letter; else English.
    """
    # Before NFKC, which would make 102 of 10², 11/2 of 1½ and 12 of ①②
    text = _plain_digits(text)

    def is_mandarin(match: re.Match) -> bool:
        if language != "zh-en":
            return language == "zh"
        text = match.string
        before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
        beside = HAN.match(before[-1:]) or HAN.match(after[:1]) or _YEAR.match(after)
        return bool(beside or (HAN.search(text) and not re.search("[A-Za-z]", text)))

    def spell_each(pattern: re.Pattern, spell: Callable[..., str]) -> None:
        nonlocal text
        text = pattern.sub(lambda match: spell(match, mandarin=is_mandarin(match)), text)

    spell_each(_FRACTION, _spell_fraction)
    text = unicodedata.normalize("NFKC", text)  # full-width percent signs, commas and colons
    if not text.isascii():  # numbers of other scripts that have no digits (௰) are no letters of a name
        text = "".join(f" {sign} " if unicodedata.category(sign) == "No" else sign for sign in text)
    spell_each(_TELEPHONE, _spell_telephone)
    spell_each(_RANGE, _spell_range)
    spell_each(_CLOCK, _spell_clock)
    # English would take it for a filler: mm.
    spell_each(_MILLIMETERS, lambda match, *, mandarin: match["number"] + ("毫米" if mandarin else " millimeters"))
    spell_each(_SCIENTIFIC, _spell_scientific)
    spell_each(_WORD, _spell_word)
    return text


def _plain_digits(text: str) -> str:
    """0 to 9 for all other digits, and apart what NFKC would make one number of: 102 of 10², 12 of ①②."""
    if text.isascii():
        return text
    text = re.sub(r"№(?=\d)", "№ ", text)
    text = _ENCLOSED.sub(_value, text)
    text = _ROMAN.sub(_roman, text)
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-"), text)
    return re.sub(r"(?![0-9])\d", lambda match: str(unicodedata.decimal(match[0])), text)


def _value(match: re.Match) -> str:
    return f" {int(unicodedata.numeric(match[0]))} "


def _roman(match: re.Match) -> str:
    """Ⅳ and ⅩⅣ are one number, ⅫⅢ are two."""
    letters = unicodedata.normalize("NFKC", match[0]).upper()
    if not _ROMAN_LETTERS.fullmatch(letters):
        return "".join(f" {int(unicodedata.numeric(sign))} " for sign in match[0])
    values = [_ROMAN_VALUES[letter] for letter in letters]
    following = [*values[1:], 0]
    return f" {sum(-value if value < after else value for value, after in zip(values, following, strict=True))} "


def _spell_telephone(match: re.Match, *, mandarin: bool) -> str:
    """Digit by digit; 800-1000, between round numbers, is a range."""
    if re.fullmatch("[1-9][0-9]0-[1-9][0-9]{2}0", match[0]):
        return match[0]
    words = _spell_number(match[0].replace("-", ""), mandarin=mandarin, by_digit=True)
    return words if mandarin else f" {words} "


def _spell_range(match: re.Match, *, mandarin: bool) -> str:
    """5-10; a score of 3-2 and a 7-1 that is anything else stay."""
    if float(match["first"]) >= float(match["last"]):
        return match[0]
    return f"{match['first']}{'到' if mandarin else ' to '}{match['last']}"


def _spell_clock(match: re.Match, *, mandarin: bool) -> str:
    """In Mandarin, where no space would keep the two numbers of 3:30 apart."""
    if not mandarin:
        return match[0]
    return f"{match['hours']}点" + ("" if match["minutes"] == "00" else match["minutes"])


def _spell_scientific(match: re.Match, *, mandarin: bool) -> str:
    number, power = _spell_number(match["number"], mandarin=mandarin), _spell_power(match["power"], mandarin)
    words = f"{number}乘以十{power}" if mandarin else f"{number} times ten{power}"
    return _with_signs(words, match, mandarin)


def _spell_word(match: re.Match, *, mandarin: bool) -> str:
    word, plural = match["word"], match["plural"] or ""
    is_year = mandarin and re.fullmatch("[0-9]{4}", word) and _YEAR.match(match.string, match.end())
    is_plural = bool(plural) and not unicodedata.category(match.string[match.end("plural") :][:1] or " ").startswith(
        "M"
    )
    words = _read(word, mandarin=mandarin, by_digit=bool(is_year), is_plural=is_plural)
    power = _spell_power(match["power"], mandarin) if match["power"] else ""
    if words == word:  # left whole
        return f"{match['minus'] or ''}{word}{plural}{power} {match['percent'] or ''}" if power else match[0]
    words = _with_signs(words + power, match, mandarin)
    if mandarin and not word.replace(",", "").replace(".", "").isdecimal():
        words = f" {words} "
    return words + plural


def _with_signs(words: str, match: re.Match, mandarin: bool) -> str:
    """With its minus and percent: 负百分之五, minus five percent."""
    if mandarin:
        return ("负" if match["minus"] else "") + ("百分之" if match["percent"] else "") + words
    return f" {'minus ' if match['minus'] else ''}{words}{' percent' if match['percent'] else ''} "


def _read(word: str, *, mandarin: bool, by_digit: bool = False, is_plural: bool = False) -> str:
    """A word with digits; as it is where they are part of a name or a plural."""
    numeral = _NUMERAL.fullmatch(word)
    is_list = "," in word and not (numeral and not numeral["head"] and _GROUPED.fullmatch(numeral["number"]))
    whole, point, decimals = word.partition(".")
    if numeral is None and whole.isdecimal() and point:  # 1.5x2: without the point 1 would be a number of its own
        words = _spell_number(whole, mandarin=mandarin)
        return f"{words}{'点' if mandarin else ' point '}{_read(decimals, mandarin=mandarin)}"
    if numeral is None or is_list:
        parts = re.split(r"[.,]" if numeral is None else ",", word)
        return word if len(parts) == 1 else " ".join(_read(part, mandarin=mandarin) for part in parts)
    head, number, tail = numeral.groups()
    if number.isdecimal() and (head or is_plural or tail in ("s", "S")):
        return word
    words = _spell_number(number, mandarin=mandarin, by_digit=by_digit)
    if number.replace(",", "").isdecimal() and tail.lower() in ("st", "nd", "rd", "th"):
        words, tail = (f"第{words}" if mandarin else _ordinal(words)), ""
    return " ".join(part for part in (head, words, tail) if part)


def _spell_number(number: str, *, mandarin: bool, by_digit: bool = False) -> str:
    """26, 007, 1,234.5, .5; in 3.5.2 and 192.168.1.1 a point between any two numbers, long ones digit by digit."""
    point, space = ("点", "") if mandarin else (" point ", " ")
    digits = _DIGITS if mandarin else _UNITS
    cardinal = spell_mandarin if mandarin else spell_english

    def one_by_one(part: str) -> str:
        return space.join(digits[int(digit)] for digit in part)

    grouped = _GROUPED.fullmatch(number)
    if grouped is None:
        parts = number.strip(".").split(".")
        return point.join(
            one_by_one(part) if len(part) > 2 or part[0] == "0" else cardinal(int(part)) for part in parts
        )
    written = grouped["whole"]
    whole = written.replace(",", "")
    longest = 9 if written == whole else 12  # 1,000,000,000 is a number, 1000000000 may be anybody's
    by_digit = by_digit or whole.startswith("0") or len(whole) > longest
    words = _DIGITS[0] if mandarin else ""  # .5 is point five, 零点五
    if whole:
        words = one_by_one(whole) if by_digit else cardinal(int(whole))
    return (words + (point + one_by_one(grouped["decimals"]) if grouped["decimals"] else "")).strip()


def _spell_power(power: str, mandarin: bool) -> str:
    """What follows 10 in 10², 10^-3."""
    if power in ("2", "3"):
        squared, cubed = ("的平方", "的立方") if mandarin else (" squared", " cubed")
        return squared if power == "2" else cubed
    number = power.lstrip("-\u2212")
    words = _spell_number(number, mandarin=mandarin)
    if mandarin:
        return f"的{'负' if number != power else ''}{words}次方"
    return f" to the power of {'minus ' if number != power else ''}{words}"


def _spell_fraction(match: re.Match, *, mandarin: bool) -> str:
    """½, 1½, 3⁄4, 3½%."""
    numerator, denominator = unicodedata.normalize("NFKC", match["fraction"]).split("\u2044")
    upper, lower = _spell_number(numerator, mandarin=mandarin), _spell_number(denominator, mandarin=mandarin)
    whole = _spell_number(match["whole"], mandarin=mandarin) if match["whole"] else ""
    if mandarin:
        return _with_signs((f"{whole}又" if whole else "") + f"{lower}分之{upper}", match, mandarin)
    several = int(numerator) != 1
    named = {"2": "halves" if several else "half", "4": "quarters" if several else "quarter"}
    lower = named.get(denominator) or _ordinal(lower) + ("s" if several else "")
    return _with_signs((f"{whole} and " if whole else "") + f"{upper} {lower}", match, mandarin)


def _ordinal(cardinal: str) -> str:
    *rest, last = cardinal.split()
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*rest, last])
