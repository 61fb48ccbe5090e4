"""Write numbers with digits: 二零二六年 becomes 2026年 (inverse text normalization, by WeTextProcessing)."""

import functools
import importlib.util
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from .transcript import Transcript, Word

if TYPE_CHECKING:
    import wetext


def check_itn() -> None:
    """Raise ImportError if the extra `itn` is not installed."""
    if importlib.util.find_spec("wetext") is None:
        raise ImportError("--itn needs wetext: pip install 'hf_asr[itn]'")


@functools.cache
def _normalizer() -> "wetext.Normalizer":
    import wetext

    return wetext.Normalizer(lang="auto", operator="itn")  # Mandarin if the text has a Han character, else English


def to_written_form(transcript: Transcript) -> Transcript:
    """Return a transcript with digits; words that become one number are one word from the first to the last of them.

    A text that the grammars cannot read stays as it is.
    """
    try:
        result = _normalizer().normalize_with_mapping(transcript.text)
    except RuntimeError:  # of kaldifst: no path through the grammar
        return transcript
    rest, end = deque(), 0  # the words with their places in the text
    for word in transcript.words:
        start = transcript.text.index(word.word, end)
        end = start + len(word.word)
        rest.append((start, end, word))
    words = []
    for mapping in result.mappings:
        while rest and rest[0][1] <= mapping.input_start:
            words.append(rest.popleft()[2])
        inside = []
        while rest and rest[0][0] < mapping.input_end:
            inside.append(rest.popleft()[2])
        if inside:
            words.append(_joined(inside, mapping.output_text))
    return replace(transcript, text=result.output_text, words=words + [word for _, _, word in rest])


def _joined(words: list[Word], text: str) -> Word:
    """Return one word with this text in the place of several words."""
    confidence = sum(word.confidence for word in words) / len(words)
    return Word(text, words[0].start, words[-1].end, confidence=round(confidence, 3))
