"""Read a list of words with their frequencies, and write sentences of random words for a language model."""

import math
import random
from collections.abc import Mapping
from pathlib import Path

from ..data.encodings import EncodingError, read_lines
from ..data.joined_texts import join_texts

WORDS_PER_SENTENCE = 6


def read_word_list(path: str | Path) -> dict[str, float]:
    """Return the frequency of each word; a word in several lines has the sum of them.

    A line is a word and its frequency, separated by a tab or by spaces; what follows (jieba's `dict.txt` has the part
    of speech) is not used. Empty lines are left out.

    Raises:
        ValueError: The file is not text, a line has another form, or no frequency is larger than 0.
    """
    try:
        lines = read_lines(path)
    except EncodingError as error:
        raise ValueError(f"{path} {error}") from error
    frequencies: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, frequency = _fields(line)
        if not word or frequency is None:
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} must be a word and its frequency (a number of 0 or more), "
                "separated by a tab or spaces"
            )
        frequencies[word] = frequencies.get(word, 0.0) + frequency
    if not sum(frequencies.values()) > 0:
        raise ValueError(f"{path} has no word with a frequency larger than 0")
    return frequencies


def random_sentences(frequencies: Mapping[str, float], *, count: int, seed: int = 0) -> list[str]:
    """Return `count` sentences of words that are drawn by their frequencies.

    Words of scripts without spaces, such as Han, have none between them.
    """
    words, weights = list(frequencies), list(frequencies.values())
    drawn = random.Random(seed).choices(words, weights=weights, k=count * WORDS_PER_SENTENCE)
    parts = [drawn[first : first + WORDS_PER_SENTENCE] for first in range(0, len(drawn), WORDS_PER_SENTENCE)]
    return [join_texts(part) for part in parts]


def _fields(line: str) -> tuple[str, float | None]:
    """Return the word and the frequency of a line; None instead of a frequency that is not a number of 0 or more."""
    word, *others = line.split("\t") if "\t" in line else line.split()
    try:
        frequency = float(others[0])
    except (IndexError, ValueError):
        return word.strip(), None
    return word.strip(), frequency if 0 <= frequency < math.inf else None
