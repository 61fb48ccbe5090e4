"""Spell numbers as they are spoken, in English and Mandarin: the speaker of "26" says "twenty six" or "二十六".

`spell_numbers` replaces one kind after the other: fractions, telephone numbers, ranges, clock times, millimetres,
scientific notation, and last all other words that contain a digit. Each kind has a pattern, which finds it, and a
function, which spells a match or returns it unchanged. Units stay as they are written, except mm.
"""

import re
import unicodedata
from collections.abc import Callable

# A Han character.
HAN = re.compile(r"[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}
_DIGITS = "零一二三四五六七八九"

# Characters that are numbers, or that contain digits after NFKC. A text without any of them has nothing to spell.
_ANY_NUMBER = re.compile(
    r"[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218b\u2460-\u24ff\u2776-\u2793\u3220-\u33ff\U0001f100-\U0001f10c]"
)
# ①, ⑴, ⒈, ❶, ㉑, 🄂: each character is one number.
_ENCLOSED = re.compile(r"[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf\U0001f100-\U0001f10c]")
# Unicode's characters for Roman numerals (Ⅳ); ordinary letters (IV) are never numbers.
_ROMAN = re.compile(r"[\u2160-\u2182\u2185-\u2188]+")
_ROMAN_LETTERS = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
# The power in 10² and 10⁻⁵.
_SUPERSCRIPT = re.compile(r"(?<=\d)\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")

_LETTER = rf"[^\W\d_{HAN.pattern[1:-1]}]"  # a Han character is not part of a word: 3个
# Before a digit that begins a number: it is not part of a name (mp3) or inside another number (1.5, 1,234).
_ALONE = rf"(?=[0-9])(?<!{_LETTER})(?<![\d_.])(?<![0-9],)"
# ½, ¼, ⅓ and the like.
_SIMPLE_FRACTION = r"\u00bc-\u00be\u2150-\u215e\u2189"
# A minus sign before a number. The hyphen in covid-19, 5-10, 5月-10月 and 歼-20 (an aeroplane) is not a minus sign.
# So a minus sign must follow the start of the text, a space, an opening bracket or quote, punctuation, or a Mandarin
# word for "is", "to" or "about". After other Han characters, but not after a number (十-15度), it is a minus sign if it
# is U+2212, or if a measure follows the number (气温-5度).
_MINUS = (
    r"(?P<minus>(?:(?<![^\s(\[{\"'“‘,:;=<>/~×、。，：；＝])|(?<=[是为到至于达约])"
    rf"|(?<={HAN.pattern})(?<![一二三四五六七八九十百千万零〇])(?<![0-9]{HAN.pattern})(?<![0-9]{HAN.pattern}{{2}})"
    r"(?=\u2212|-[0-9.,]+\s?(?:[%٪°度元块米万亿]|分(?!钟)|摄氏|华氏|[到至~]\s?[-\u2212])))"
    rf"[-\u2212](?=\.?[0-9{_SIMPLE_FRACTION}]))?"
)
# A percent sign after a number.
_PERCENT = r"(?:\s?(?P<percent>[%٪％﹪]))?"
# ½, 1½, 3⁄4 (with U+2044), -½, 3½%.
_FRACTION = re.compile(
    rf"{_MINUS}(?:{_ALONE}(?P<whole>[0-9]+)\s?)?"
    rf"(?P<fraction>[{_SIMPLE_FRACTION}]|{_ALONE}[0-9]+\u2044[0-9]+){_PERCENT}"
)
# 1.5e5, 1e-5; not 1e5, which can be a name.
_SCIENTIFIC = re.compile(
    rf"{_MINUS}{_ALONE}(?P<number>[0-9]+(?:\.[0-9]+(?=[eE])|(?=[eE][+-])))"
    rf"[eE]\+?(?P<power>-?[0-9]+)(?!{_LETTER}*[0-9]|[.,][0-9]){_PERCENT}"
)
# 555-1234, 138-0013-8000, 010-12345678; not 581-1279年, which is a range of years.
_TELEPHONE = re.compile(
    rf"{_ALONE}(?<![0-9][/–-])"
    r"(?:(?:[0-9]{1,4}-)+[0-9]{3,4}-[0-9]{4}|[0-9]{3}-[0-9]{4}|[0-9]{3,4}-[0-9]{7,8})"
    rf"(?!{_LETTER}|[0-9]|[.,/–-][0-9]|\s?[%年元米人个])"
)
# 5-10; not 138-0013-8000, and not a date such as 5-10-2026.
_RANGE = re.compile(
    rf"{_ALONE}(?<![/-])(?P<first>[1-9][0-9]{{0,3}}(?:\.[0-9]+)?)"
    r"[-–~](?P<last>[1-9][0-9]{0,3}(?:\.[0-9]+)?)(?![0-9.,]*[0-9]|[-–~/][0-9])"
)
# 3:30; not 3:30:15.
_CLOCK = re.compile(rf"{_ALONE}(?<!:)(?P<hours>[0-9]{{1,2}}):(?P<minutes>[0-5][0-9])(?![0-9:])")
# 5mm, 5 mm.
_MILLIMETERS = re.compile(rf"{_ALONE}(?P<number>[0-9.,]*[0-9])\s?mm(?!{_LETTER}|[0-9])")

# What follows a Mandarin year: 年, at once (2000年) or after further years (1998到2000年, 1998/2000年).
_YEAR = re.compile(r"\s*(?:[到至和或、/~–-]\s*[0-9]{4}\s*)*年")

# A word that contains a digit, with its sign, plural, power and percent sign: 26, mp3, 3.5.2, 1,234, -5%, 10^2.
_WORD = re.compile(
    rf"{_MINUS}(?P<word>(?:(?<!{_LETTER})(?<![\d_.])\.(?=[0-9])|(?<!{_LETTER}){_LETTER}+)?"
    rf"[0-9](?:{_LETTER}|[0-9])*(?:[.,][0-9](?:{_LETTER}|[0-9])*)*)"
    rf"(?P<plural>'[sS](?!{_LETTER}|[0-9]))?"
    rf"(?:\^(?P<power>[-\u2212]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)))?{_PERCENT}"
)
# A word as letters, one number and letters: v2.0, 10km, 21st.
_NUMERAL = re.compile(rf"(?P<head>{_LETTER}*)(?P<number>\.?[0-9]+(?:[.,][0-9]+)*)(?P<tail>{_LETTER}*)")
# A single number, without or with commas: 1234.5, 1,234.5, and 1,23,456 as in India. Not 3.5.2.
_GROUPED = re.compile(
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}|[0-9]*)(?:\.(?P<decimals>[0-9]+))?"
)


def spell_english(number: int) -> str:
    """Return the English cardinal of 0 to 999 999 999 999: 325 is "three hundred and twenty five"."""
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
    """Return the Mandarin cardinal of 0 to 999 999 999 999: 325 is 三百二十五, 3050 三千零五十, 120 000 十二万."""
    if number < 10:
        return _DIGITS[number]
    if number < 20:
        return "十" + (_DIGITS[number - 10] if number > 10 else "")
    names = ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十"))
    size, name = next((size, name) for size, name in names if number >= size)
    count, rest = divmod(number, size)
    if not rest:
        return spell_mandarin(count) + name
    # Inside a larger number, missing digits are read as one 零 (3050), and ten is 一十 instead of 十 (三百一十五).
    link = ("零" if rest < size // 10 else "") + ("一" if 10 <= rest < 20 else "")
    return spell_mandarin(count) + name + link + spell_mandarin(rest)


def has_number(text: str) -> bool:
    """Return whether a text contains a number that `spell_numbers` might spell."""
    return _ANY_NUMBER.search(text) is not None


def spell_numbers(text: str, *, language: str) -> str:
    """Return a text with its numbers spelled; the text is also normalised to NFKC.

    Numbers that begin with 0 or have more than nine digits are read digit by digit, and so are telephone numbers and
    Mandarin years (1998年). A number is spelled completely or not at all: digits that are part of a name (mp3, h2o) or
    of a plural (90s) stay digits.

    Args:
        language: `"en"`, `"zh"` or `"zh-en"`. With `"zh-en"` a number is Mandarin if a Han character is next to it, or
            if the text has Han characters and no Latin letters; otherwise it is English.
    """
    # Before NFKC, which would join 10² to 102 and ①② to 12. Fractions too: NFKC turns 1½ into 11⁄2.
    text = _plain_digits(text)

    def spell_each(pattern: re.Pattern, spell: Callable[..., str]) -> None:
        """Replace each match of a pattern in `text` by what `spell` returns for it."""
        nonlocal text
        text = pattern.sub(lambda match: spell(match, mandarin=_is_mandarin(match, language)), text)

    spell_each(_FRACTION, _spell_fraction)
    text = unicodedata.normalize("NFKC", text)  # ASCII for full-width percent signs, commas and colons
    if not text.isascii():  # separate number signs that are not digits (Tamil's ௰): they are not part of a name
        text = "".join(f" {sign} " if unicodedata.category(sign) == "No" else sign for sign in text)
    spell_each(_TELEPHONE, _spell_telephone)
    spell_each(_RANGE, _spell_range)
    spell_each(_CLOCK, _spell_clock)
    # As a word alone, "mm" would be removed as an English filler.
    spell_each(_MILLIMETERS, lambda match, *, mandarin: match["number"] + ("毫米" if mandarin else " millimeters"))
    spell_each(_SCIENTIFIC, _spell_scientific)
    spell_each(_WORD, _spell_word)
    return text


def _is_mandarin(match: re.Match, language: str) -> bool:
    """Return whether a number is read in Mandarin, as `spell_numbers` describes it for each language."""
    if language != "zh-en":
        return language == "zh"
    text = match.string
    before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
    beside = HAN.match(before[-1:]) or HAN.match(after[:1]) or _YEAR.match(after)
    return bool(beside or (HAN.search(text) and not re.search("[A-Za-z]", text)))


def _plain_digits(text: str) -> str:
    """Write the digits of all scripts as 0 to 9, and separate numbers that NFKC would join.

    10² becomes 10^2, and ①② becomes " 1  2 ".
    """
    if text.isascii():
        return text
    text = re.sub(r"№(?=\d)", "№ ", text)
    text = _ENCLOSED.sub(_value, text)
    text = _ROMAN.sub(_roman, text)
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-"), text)
    return re.sub(r"(?![0-9])\d", lambda match: str(unicodedata.decimal(match[0])), text)


def _value(match: re.Match) -> str:
    """Return the value of one character, between spaces."""
    return f" {int(unicodedata.numeric(match[0]))} "


def _roman(match: re.Match) -> str:
    """Return the value of Roman numerals, between spaces: ⅩⅣ is one number (14), ⅫⅢ are two (12 and 3)."""
    letters = unicodedata.normalize("NFKC", match[0]).upper()
    if not _ROMAN_LETTERS.fullmatch(letters):
        return "".join(f" {int(unicodedata.numeric(sign))} " for sign in match[0])
    values = [_ROMAN_VALUES[letter] for letter in letters]
    following = [*values[1:], 0]  # a value is subtracted if a larger value follows it
    return f" {sum(-value if value < after else value for value, after in zip(values, following, strict=True))} "


def _spell_telephone(match: re.Match, *, mandarin: bool) -> str:
    """Spell a telephone number digit by digit; leave 800-1000, whose numbers are round, for `_spell_range`."""
    if re.fullmatch("[1-9][0-9]0-[1-9][0-9]{2}0", match[0]):
        return match[0]
    words = _spell_number(match[0].replace("-", ""), mandarin=mandarin, by_digit=True)
    return words if mandarin else f" {words} "


def _spell_range(match: re.Match, *, mandarin: bool) -> str:
    """Spell the hyphen of a range that increases (5-10); leave 3-2, which can be a score."""
    if float(match["first"]) >= float(match["last"]):
        return match[0]
    return f"{match['first']}{'到' if mandarin else ' to '}{match['last']}"


def _spell_clock(match: re.Match, *, mandarin: bool) -> str:
    """Write 点 for the colon in Mandarin; in English the colon will become a space, which Mandarin does not have."""
    if not mandarin:
        return match[0]
    return f"{match['hours']}点" + ("" if match["minutes"] == "00" else match["minutes"])


def _spell_scientific(match: re.Match, *, mandarin: bool) -> str:
    """Spell 1.5e-5 as "one point five times ten to the power of minus five" or 一点五乘以十的负五次方."""
    number, power = _spell_number(match["number"], mandarin=mandarin), _spell_power(match["power"], mandarin)
    words = f"{number}乘以十{power}" if mandarin else f"{number} times ten{power}"
    return _with_signs(words, match, mandarin)


def _spell_word(match: re.Match, *, mandarin: bool) -> str:
    """Spell a match of `_WORD`; leave it if its digits are part of a name or a plural."""
    word, plural = match["word"], match["plural"] or ""
    is_year = mandarin and re.fullmatch("[0-9]{4}", word) and _YEAR.match(match.string, match.end())
    is_plural = bool(plural) and not unicodedata.category(match.string[match.end("plural") :][:1] or " ").startswith(
        "M"
    )
    words = _read(word, mandarin=mandarin, by_digit=bool(is_year), is_plural=is_plural)
    power = _spell_power(match["power"], mandarin) if match["power"] else ""
    if words == word:  # a name, whose power is spelled nevertheless
        return f"{match['minus'] or ''}{word}{plural}{power} {match['percent'] or ''}" if power else match[0]
    words = _with_signs(words + power, match, mandarin)
    if mandarin and not word.replace(",", "").replace(".", "").isdecimal():
        words = f" {words} "
    return words + plural


def _with_signs(words: str, match: re.Match, mandarin: bool) -> str:
    """Add the minus and percent signs of a match: 负百分之五, minus five percent."""
    if mandarin:
        return ("负" if match["minus"] else "") + ("百分之" if match["percent"] else "") + words
    return f" {'minus ' if match['minus'] else ''}{words}{' percent' if match['percent'] else ''} "


def _read(word: str, *, mandarin: bool, by_digit: bool = False, is_plural: bool = False) -> str:
    """Spell the numbers of a word; return it unchanged if its digits are part of a name or a plural.

    Args:
        word: From `_WORD`: 26, 1,234.5, v2.0, 10km, 21st, mp3, 1.5x2, or a list such as 3,mp3.
        by_digit: Spell digit by digit, for Mandarin years.
        is_plural: The word is followed by 's (90's).
    """
    numeral = _NUMERAL.fullmatch(word)
    is_list = "," in word and not (numeral and not numeral["head"] and _GROUPED.fullmatch(numeral["number"]))
    whole, point, decimals = word.partition(".")
    # 1.5x2 is "one point 5x2": without its point, 1 would be another number.
    if numeral is None and whole.isdecimal() and point:
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
    """Spell a number without letters and signs: 26, 007, 1,234.5, .5, 3.5.2.

    In versions and addresses (3.5.2, 192.168.1.1) "point" separates the parts. A part with three digits or more, or
    with a leading 0, is spelled digit by digit.
    """
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
    # Ten digits without commas can be a telephone number; with commas they are an amount.
    longest = 9 if written == whole else 12
    by_digit = by_digit or whole.startswith("0") or len(whole) > longest
    words = _DIGITS[0] if mandarin else ""  # .5 is "point five" or 零点五
    if whole:
        words = one_by_one(whole) if by_digit else cardinal(int(whole))
    return (words + (point + one_by_one(grouped["decimals"]) if grouped["decimals"] else "")).strip()


def _spell_power(power: str, mandarin: bool) -> str:
    """Spell a power: 2 is "squared" or 的平方, -5 is "to the power of minus five" or 的负五次方."""
    if power in ("2", "3"):
        squared, cubed = ("的平方", "的立方") if mandarin else (" squared", " cubed")
        return squared if power == "2" else cubed
    number = power.lstrip("-\u2212")
    words = _spell_number(number, mandarin=mandarin)
    if mandarin:
        return f"的{'负' if number != power else ''}{words}次方"
    return f" to the power of {'minus ' if number != power else ''}{words}"


def _spell_fraction(match: re.Match, *, mandarin: bool) -> str:
    """Spell a fraction with its whole number and signs: 3½% is "three and one half percent" or 百分之三又二分之一."""
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
    """Return the English ordinal of a spelled cardinal: "twenty first" for "twenty one"."""
    *rest, last = cardinal.split()
    last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*rest, last])
