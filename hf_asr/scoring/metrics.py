"""CER and WER as `evaluate.Metric`s over jiwer, and what a report needs beside them.

Characters include the spaces between words. A Han character is a word, so that WER means something in Mandarin (the
mixed error rate of code-switching corpora).
"""

from collections.abc import Sequence

import datasets
import evaluate
import jiwer
import numpy as np

from ..model.spelling_conformer import HAN


def split_words(text: str) -> str:
    """Words separated by single spaces, each Han character a word."""
    return " ".join(HAN.sub(lambda match: f" {match.group()} ", text).split())


def count_errors(references: Sequence[str], predictions: Sequence[str], *, unit: str) -> np.ndarray:
    """Substitutions, deletions, insertions and reference length of each utterance, int (utterances, 4).

    Args:
        unit: `"character"` or `"word"`.

    Raises:
        ValueError: Not as many predictions as references.
    """
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} references but {len(predictions)} predictions")
    prepare, process = (
        (str.strip, jiwer.process_characters) if unit == "character" else (split_words, jiwer.process_words)
    )
    counts = []
    for reference, prediction in zip(references, predictions, strict=True):
        reference, prediction = prepare(reference), prepare(prediction)
        units = (list if unit == "character" else str.split)(reference)
        if not reference:  # jiwer refuses an empty reference
            counts.append((0, 0, len((list if unit == "character" else str.split)(prediction)), 0))
            continue
        output = process(reference, prediction)
        counts.append((output.substitutions, output.deletions, output.insertions, len(units)))
    return np.array(counts, dtype=np.int64).reshape(-1, 4)


def check_references(references: Sequence[str]) -> None:
    """Raise ValueError if there is nothing to divide the errors by."""
    if not any(reference.strip() for reference in references):
        what = (
            f"all {len(references)} references are empty once normalised"
            if len(references)
            else "there is no utterance"
        )
        raise ValueError(f"{what}: an error rate needs at least one character that was said")


def bootstrap_interval(
    counts: np.ndarray, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the error rate, utterances drawn with replacement (Bisani and Ney 2004).

    One draw is in memory at a time.
    """
    generator = np.random.default_rng(seed)
    errors, lengths = counts[:, :3].sum(1), counts[:, 3]
    rates = np.empty(samples)
    for sample in range(samples):
        drawn = generator.integers(len(counts), size=len(counts))
        rates[sample] = errors[drawn].sum() / max(lengths[drawn].sum(), 1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)


class _ErrorRate(evaluate.Metric):
    unit: str
    short_name: str

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=f"{self.unit.capitalize()} error rate of speech recognition: (S + D + I) / N",
            citation="",
            inputs_description="predictions, references: lists of normalised transcripts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | int | list[float]]:
        counts = count_errors(references, predictions, unit=self.unit)
        check_references(references)
        substitutions, deletions, insertions, length = counts.sum(0).tolist()
        name = self.short_name
        return {
            name: (substitutions + deletions + insertions) / length,
            f"{name}_interval": list(bootstrap_interval(counts)),
            f"{name}_substitutions": substitutions,
            f"{name}_deletions": deletions,
            f"{name}_insertions": insertions,
            f"{name}_reference_{self.unit}s": length,
        }


class CharacterErrorRate(_ErrorRate):
    """`cer`, its 95 % bootstrap interval, and the counts behind it."""

    unit, short_name = "character", "cer"


class WordErrorRate(_ErrorRate):
    """`wer`, likewise."""

    unit, short_name = "word", "wer"


def error_rates(references: list[str], predictions: list[str]) -> dict[str, float | int | list[float]]:
    """CER and WER of normalised transcripts with their intervals and counts, in one dict.

    Raises:
        ValueError: No reference has a character, so that there is no error rate.
    """
    check_references(references)
    rates = {}
    for metric in (CharacterErrorRate(), WordErrorRate()):
        rates |= metric.compute(references=references, predictions=predictions)
    return rates
