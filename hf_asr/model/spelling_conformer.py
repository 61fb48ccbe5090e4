"""Written numbers as they are spoken, in English and Mandarin: a transcript says "26", the recording "twenty six"."""

import re
import unicodedata

HAN = re.compile(r"[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}
_DIGITS = "零一二三四五六七八九"

# 1,234.5% or 21st; nothing that hangs on a letter (mp3, covid19) is a number
_NUMBER = re.compile(
    r"(?<![A-Za-z\d.])(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?"
    r"(?:\s?(?P<percent>%)|(?P<ordinal>(?i:st|nd|rd|th))\b)?(?![A-Za-z\d])"
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


def spell_numbers(text: str, *, language: str) -> str:
    """`text` with its numbers spelled.

    Numbers that begin with 0 or have more than nine digits are read digit by digit, and so are Mandarin years (1998年).

    Args:
        language: `"en"`, `"zh"`, or `"zh-en"`: Mandarin beside a Han character, or where the text has them and no
            Latin letter; else English.
    """
    text = unicodedata.normalize("NFKC", text)  # full-width digits, percent signs and commas

    def spell(match: re.Match) -> str:
        before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
        is_mandarin = language == "zh"
        if language == "zh-en":
            beside = HAN.match(before[-1:]) or HAN.match(after[:1])
            is_mandarin = bool(beside or (HAN.search(text) and not re.search("[A-Za-z]", text)))
        whole, decimals = match["whole"].replace(",", ""), match["decimals"]
        is_year = is_mandarin and len(match["whole"]) == 4 and after.startswith("年") and not decimals
        by_digit = is_year or (whole[0] == "0" and len(whole) > 1) or len(whole) > 9
        if is_mandarin:
            words = "".join(_DIGITS[int(digit)] for digit in whole) if by_digit else spell_mandarin(int(whole))
            words += "点" + "".join(_DIGITS[int(digit)] for digit in decimals) if decimals else ""
            return f"百分之{words}" if match["percent"] else words
        words = " ".join(_UNITS[int(digit)] for digit in whole) if by_digit else spell_english(int(whole))
        words += " point " + " ".join(_UNITS[int(digit)] for digit in decimals) if decimals else ""
        if match["ordinal"]:
            *rest, last = words.split()
            last = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
            words = " ".join([*rest, last])
        return f" {words} percent " if match["percent"] else f" {words} "

    return _NUMBER.sub(spell, text)
