"""Word times: where the words of a recording begin and end, in the column `words` of a dataset."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import datasets

from .manifests import as_seconds

logger = logging.getLogger("hf_asr")

WORDS = "words"


@dataclass(frozen=True)
class TimedWord:
    """A word (or a Han character), and its start and end in seconds; None is an end that is not known."""

    word: str
    start: float
    end: float | None = None


def read_word_times(rows: datasets.Dataset) -> list[list[TimedWord] | None] | None:
    """Return the words of each row, None for a row without; None if the dataset has no word times.

    The column contains lists of `{"word", "start", "end"}` with seconds, as JSON if it comes from a manifest. A column
    `words` without any list of objects has another meaning. A row whose list is wrong is logged, and has no word times.
    """
    values = list(map(_decoded, rows[WORDS])) if WORDS in rows.column_names else []
    if not any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values):
        return None
    times, problems = [], []
    for value, utterance_id in zip(values, rows["utterance_id"], strict=True):
        try:
            times.append(_words(value))
        except ValueError as error:
            times.append(None)
            problems.append(f"{utterance_id}: {error}")
    if problems:
        logger.warning(f"column {WORDS!r}: the word times of {len(problems)} rows are left out; {problems[0]}")
    return times if any(times) else None


def _decoded(value: Any) -> Any:
    """Return the value of a JSON text; other values and other texts are returned unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _words(value: Any) -> list[TimedWord] | None:
    """Return the words of a row; raise ValueError for one that is not a word with times."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of words")
    words = [_word(entry) for entry in value]
    if any(word.start < before.start for before, word in zip(words, words[1:], strict=False)):
        raise ValueError("the words are not in the order of their starts")
    return words


def _word(entry: Any) -> TimedWord:
    fields = entry if isinstance(entry, dict) else {}
    word, start, end = fields.get("word"), as_seconds(fields.get("start")), as_seconds(fields.get("end"))
    is_end = fields.get("end") is None or (end is not None and start is not None and end >= start)
    if not (isinstance(word, str) and start is not None and is_end):
        raise ValueError(f'expected {{"word", "start", "end"}} with seconds, not {entry!r}')
    return TimedWord(word, start, end)
