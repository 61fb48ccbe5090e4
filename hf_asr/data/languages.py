"""Recognise Mandarin by its characters, and English by its frequent words."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..model.spelling_conformer import HAN

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FEW = 0.005  # share of letters

# Scripts without spaces between words, beside Han: kana, bopomofo, Thai, Lao, Tibetan, Myanmar, Khmer.
_WITHOUT_SPACES = ((0x3040, 0x312F), (0x31F0, 0x31FF), (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF))

# Frequent English words that related languages do not have.
ENGLISH = {
    *("the", "and", "to", "that", "for", "you", "with", "this", "are", "not", "have", "from", "they", "she", "what"),
    *("would", "there", "which", "when", "your", "it", "his", "my", "of"),
}


def are_english(texts: Sequence[str]) -> bool:
    """Return whether at least one in twenty words (of the letters a to z) is a frequent English word."""
    words = Counter(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    return sum(words[word] for word in ENGLISH) >= 0.05 * max(1, words.total())


def find_language(texts: Sequence[str]) -> str | None:
    """Return `zh` for texts with Han characters, and `en` for those with frequent English words.

    A few letters of another language, one in two hundred, are ignored. None for other languages, Japanese and Korean
    included.
    """
    letters = count_letters(texts)
    han = sum(count for letter, count in letters.items() if HAN.match(letter))
    others = letters.total() - han - sum(letters[letter] for letter in LETTERS)
    if not letters or others > FEW * letters.total():
        return None
    if han > FEW * letters.total():
        return "zh"
    return "en" if are_english(texts) else None


def count_letters(texts: Sequence[str]) -> Counter[str]:
    """Count the letters of the texts, in lower case."""
    normalized = unicodedata.normalize("NFC", "".join(texts)).lower()
    return Counter(character for character in normalized if character.isalpha())


def writes_spaces(character: str) -> bool:
    """Return whether a character's script has spaces between words; Mandarin, Japanese and Thai have none."""
    return not (HAN.match(character) or any(first <= ord(character) <= last for first, last in _WITHOUT_SPACES))
