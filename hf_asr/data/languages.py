"""Recognise English by its frequent words."""

import re
from collections import Counter
from collections.abc import Sequence

# Frequent English words that related languages do not have.
ENGLISH = {
    *("the", "and", "to", "that", "for", "you", "with", "this", "are", "not", "have", "from", "they", "she", "what"),
    *("would", "there", "which", "when", "your", "it", "his", "my", "of"),
}


def are_english(texts: Sequence[str]) -> bool:
    """Return whether at least one in twenty words (of the letters a to z) is a frequent English word."""
    words = Counter(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    return sum(words[word] for word in ENGLISH) >= 0.05 * max(1, words.total())
