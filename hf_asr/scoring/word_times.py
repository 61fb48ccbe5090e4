"""Compare the times of predicted words with the word times of a dataset."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..data.word_times import TimedWord
from ..decoding.transcript import Word
from .metrics import align, split_words

SIDES = ("start", "end")


def compared_words(
    reference: Sequence[TimedWord], prediction: Sequence[Word], *, normalize: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Return the words that are recognised right, each with its times in seconds in the reference and the prediction.

    The keys are `word`, `start`, `end`, `predicted_start` and `predicted_end`; the value of a time that is not known is
    None. Words are aligned as for the WER, so each Han character is a word.

    Args:
        normalize: The tokenizer's function that normalises a text.
    """
    expected, predicted = _units(reference, normalize), _units(prediction, normalize)
    compared, i, j = [], 0, 0
    for operation, left, right in align(*(" ".join(unit["word"] for unit in units) for units in (expected, predicted))):
        counts = len(left.split()), len(right.split())
        if operation == "equal":
            for unit, found in zip(expected[i : i + counts[0]], predicted[j : j + counts[1]], strict=True):
                compared.append(unit | {f"predicted_{side}": found[side] for side in SIDES})
        i, j = i + counts[0], j + counts[1]
    return compared


def _units(words: Sequence[TimedWord | Word], normalize: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return normalised words with their times; of "26", "twenty" has the start and "six" the end."""
    units = []
    for word in words:
        parts = split_words(normalize(word.word)).split()
        units += [{"word": part, "start": None, "end": None} for part in parts]
        if parts:
            units[-len(parts)]["start"], units[-1]["end"] = word.start, word.end
    return units


def word_time_metrics(compared: Iterable[dict[str, Any]]) -> dict[str, float | int]:
    """Return the errors of the times of words in milliseconds: absolute ones, and the delay (positive is late).

    Args:
        compared: Words of all utterances, as `compared_words` returns them.
    """
    words = list(compared)
    metrics: dict[str, float | int] = {"word_times_compared": len(words)}
    for side in SIDES:
        pairs = [(word[side], word[f"predicted_{side}"]) for word in words]
        delays = np.array([1000 * (there - here) for here, there in pairs if here is not None and there is not None])
        if len(delays):
            figures = {"error_median": np.median(abs(delays)), "error_p95": np.quantile(abs(delays), 0.95)}
            figures["delay_median"] = np.median(delays)
            metrics |= {f"word_{side}_{name}_ms": round(float(value), 1) for name, value in figures.items()}
    return metrics
