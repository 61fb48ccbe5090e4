"""Find transcripts that cannot belong to their corpus: another script, a broken encoding, digits, an unusual rate."""

import codecs
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..model.spelling_conformer import HAN

EXPECTED_SHARE = 0.05  # of the texts of a corpus: a script that fewer of them contain is not expected
MAX_DEVIATION = 4.0  # robust standard deviations of the logarithm of the speaking rate
MIN_GROUP = 20  # transcripts whose rates are compared; fewer have no meaningful deviation
REPLACED = "\ufffd"  # what decoders write for bytes that they cannot decode
GBK_OF_REPLACED = "锟斤拷"  # two of them in UTF-8, read as GBK
ENCODINGS = ("cp1252", "latin-1", "gbk")  # those that UTF-8 is read as by mistake


@functools.cache
def script_of(letter: str) -> str:
    """Return the script of a letter in capitals, such as LATIN or CJK."""
    return "CJK" if HAN.match(letter) else unicodedata.name(letter, "UNKNOWN").removeprefix("FULLWIDTH ").split()[0]


def count_scripts(text: str) -> Counter[str]:
    """Return the number of letters of each script."""
    return Counter(script_of(letter) for letter in text if letter.isalpha())


def wrong_scripts(texts: Sequence[str]) -> dict[int, str]:
    """Return the script of each text that has no letter of a script that the others have, by the number of the text."""
    counts = [count_scripts(text) for text in texts]
    containing = Counter(script for scripts in counts for script in scripts)
    expected = {script for script, count in containing.items() if count >= EXPECTED_SHARE * len(texts)}
    found = {}
    for i, scripts in enumerate(counts):
        if scripts and not scripts.keys() & expected:
            found[i] = scripts.most_common(1)[0][0].title()
    return found


def broken_encoding(text: str) -> str | None:
    """Return what a transcript seems to have been before it was read in a wrong encoding; None if it seems right."""
    if REPLACED in text or GBK_OF_REPLACED in text:
        return "characters are lost"
    if text.isascii():
        return None
    for encoding in ENCODINGS:
        try:
            # The last character may be incomplete: one of its bytes has no meaning in the wrong encoding.
            meant = codecs.getincrementaldecoder("utf-8")().decode(text.encode(encoding))
        except UnicodeError:
            continue
        letters = [letter for letter in meant if not letter.isascii()]
        # A short text in GBK may be valid UTF-8 by chance, but then it is not of Han characters.
        if letters and (encoding != "gbk" or (len(letters) > 1 and all(map(HAN.match, letters)))):
            return meant
    return None


def left_digits(text: str) -> str:
    """Return the words of a normalised transcript that contain digits."""
    return " ".join(word for word in text.split() if re.search(r"\d", word))


def rate_deviations(texts: Sequence[str], seconds: Sequence[float]) -> np.ndarray:
    """Return by how many robust standard deviations (Iglewicz and Hoaglin 1993) each speaking rate differs, (texts,).

    The rate is the logarithm of characters per second. Texts in Han characters, whose rate is lower, are compared with
    one another. An empty text, and one of few texts, has a deviation of 0.

    Args:
        seconds: Of speech, without the silence at both ends.
    """
    lengths = np.array([len(text.replace(" ", "")) for text in texts], dtype=float)
    rates = np.log(np.maximum(lengths, 1) / np.maximum(seconds, 0.01))
    is_han = np.array([2 * len(HAN.findall(text)) > len(text) for text in texts], dtype=bool)
    deviations = np.zeros(len(texts))
    for group in (is_han, ~is_han):
        group = group & (lengths > 0)
        if group.sum() >= MIN_GROUP:
            distance = rates[group] - np.median(rates[group])
            spread = 1.4826 * np.median(np.abs(distance))
            deviations[group] = distance / max(spread, 0.05)
    return deviations
