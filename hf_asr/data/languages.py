"""Recognise Mandarin by its characters, and English by its frequent words."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..model.spelling_conformer import HAN

KANA_AND_HANGUL = re.compile("[\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7af]")
LETTERS = set("abcdefghijklmnopqrstuvwxyz")

# Frequent English words that related languages do not have.
ENGLISH = {
    *("the", "and", "to", "that", "for", "you", "with", "this", "are", "not", "have", "from", "they", "she", "what"),
    *("would", "there", "which", "when", "your", "it", "his", "my", "of"),
}


def are_english(texts: Sequence[str]) -> bool:
    """Return whether at least one in twenty words (of the letters a to z) is a frequent English word."""
    words = Counter(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    return sum(words[word] for word in ENGLISH) >= 0.05 * max(1, words.total())


def letters_of(texts: Sequence[str]) -> set[str]:
    """Return the letters of the texts, in lower case."""
    return {character for character in unicodedata.normalize("NFC", "".join(texts)).lower() if character.isalpha()}


def find_language(texts: Sequence[str]) -> str | None:
    """Return `zh` for texts with Han characters, and `en` for those with frequent English words and only a to z.

    None for other languages, Japanese and Korean included.
    """
    letters = letters_of(texts)
    if any(HAN.match(character) for character in letters) and not KANA_AND_HANGUL.search("".join(letters)):
        return "zh"
    return "en" if letters <= LETTERS and are_english(texts) else None
