"""Compute CER and WER as `evaluate.Metric`s over jiwer, with their intervals and counts.

Characters include the spaces between words. A Han character counts as a word, so that WER is meaningful in Mandarin
(the mixed error rate of code-switching corpora).
"""

from collections.abc import Sequence

import datasets
import evaluate
import jiwer
import numpy as np

from ..model.spelling_conformer import HAN


def split_words(text: str) -> str:
    """Return the words separated by single spaces; each Han character is a word."""
    return " ".join(HAN.sub(lambda match: f" {match.group()} ", text).split())


# How a text is prepared, split into units, and aligned by jiwer.
UNITS = {
    "character": (str.strip, list, jiwer.process_characters),
    "word": (split_words, str.split, jiwer.process_words),
}


def count_errors(references: Sequence[str], predictions: Sequence[str], *, unit: str) -> np.ndarray:
    """Return substitutions, deletions, insertions and reference length of each utterance, int (utterances, 4).

    Args:
        unit: `"character"` or `"word"`.

    Raises:
        ValueError: The number of predictions differs from the number of references.
    """
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} references but {len(predictions)} predictions")
    prepare, split, process = UNITS[unit]
    counts = []
    for reference, prediction in zip(references, predictions, strict=True):
        reference, prediction = prepare(reference), prepare(prediction)
        if not reference:  # jiwer refuses an empty reference
            counts.append((0, 0, len(split(prediction)), 0))
            continue
        output = process(reference, prediction)
        counts.append((output.substitutions, output.deletions, output.insertions, len(split(reference))))
    return np.array(counts, dtype=np.int64).reshape(-1, 4)


def align(reference: str, prediction: str) -> list[tuple[str, str, str]]:
    """Return runs of words as (operation, reference, prediction).

    The operation is equal, substitute, delete or insert.
    """
    reference, prediction = split_words(reference), split_words(prediction)
    if not reference:
        return [("insert", "", prediction)] if prediction else []
    output = jiwer.process_words(reference, prediction)
    reference_words, prediction_words = output.references[0], output.hypotheses[0]
    return [
        (
            chunk.type,
            " ".join(reference_words[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(prediction_words[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]


def check_references(references: Sequence[str]) -> None:
    """Raise ValueError if all references are empty, because an error rate would be a division by zero."""
    if not any(reference.strip() for reference in references):
        what = (
            f"all {len(references)} references are empty once normalised"
            if len(references)
            else "there is no utterance"
        )
        raise ValueError(f"{what}: an error rate needs at least one character in a reference")


def bootstrap_interval(
    counts: np.ndarray, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the error rate; utterances are drawn with replacement (Bisani and Ney 2004).

    Only one draw is in memory at a time.

    Args:
        counts: As `count_errors` returns them, int (utterances, 4).
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
    """Compute the error rate of a unit, which a subclass names."""

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
    """Compute `cer` with its 95 % bootstrap interval and its counts."""

    unit, short_name = "character", "cer"


class WordErrorRate(_ErrorRate):
    """Compute `wer` with its 95 % bootstrap interval and its counts."""

    unit, short_name = "word", "wer"


def error_rates(references: list[str], predictions: list[str]) -> dict[str, float | int | list[float]]:
    """Return CER and WER of normalised transcripts with their intervals and counts, in one dict.

    Raises:
        ValueError: All references are empty, so that there is no error rate.
    """
    check_references(references)
    rates = {}
    for metric in (CharacterErrorRate(), WordErrorRate()):
        rates |= metric.compute(references=references, predictions=predictions)
    return rates
