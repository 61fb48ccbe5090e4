"""Compare two recognisers on the same utterances by a paired bootstrap of the CER (Bisani and Ney 2004)."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import PREDICTIONS
from .metrics import check_references, count_errors


@dataclass
class Comparison:
    """Hold the error rates of A and B.

    Attributes:
        low, high: The 95 % interval of the difference, B − A.
        moved: Utterances with more or fewer errors, the largest change first: utterance_id, reference, a, b, errors_a,
            errors_b.
    """

    utterances: int
    cer_a: float
    cer_b: float
    low: float
    high: float
    moved: list[dict]

    @property
    def verdict(self) -> str:
        """Return the result as one sentence."""
        change = f"{abs(self.cer_b - self.cer_a):.2%} CER (95 % interval {self.low:+.2%} to {self.high:+.2%})"
        if self.low > 0:
            return f"A is better, by {change}"
        if self.high < 0:
            return f"B is better, by {change}"
        return f"no difference: {change}"


def compare_predictions(
    records_a: Sequence[dict], records_b: Sequence[dict], *, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare the predictions of two checkpoints for the same data by a paired bootstrap of the CER.

    Args:
        records_a, records_b: Records as `evaluate_rows` returns them.
        samples: Number of draws of the bootstrap.

    Raises:
        ValueError: The utterances or their references differ, or there are none.
    """
    pairs = _pairs(records_a, records_b)
    references = [a["reference"] for a, _ in pairs]
    check_references(references)
    predictions = [[record["prediction"] for record in side] for side in zip(*pairs, strict=True)]
    counts = [count_errors(references, side, unit="character") for side in predictions]
    lengths = counts[0][:, 3]
    errors_a, errors_b = counts[0][:, :3].sum(1), counts[1][:, :3].sum(1)
    low, high = _difference_interval(errors_b - errors_a, lengths, samples=samples, seed=seed)
    moved = [i for i in np.argsort(-np.abs(errors_b - errors_a), kind="stable") if errors_a[i] != errors_b[i]]
    return Comparison(
        utterances=len(pairs),
        cer_a=float(errors_a.sum() / lengths.sum()),
        cer_b=float(errors_b.sum() / lengths.sum()),
        low=low,
        high=high,
        moved=[
            {
                "utterance_id": pairs[i][0]["utterance_id"],
                "reference": references[i],
                "a": predictions[0][i],
                "b": predictions[1][i],
                "errors_a": int(errors_a[i]),
                "errors_b": int(errors_b[i]),
            }
            for i in moved
        ],
    )


def _pairs(records_a: Sequence[dict], records_b: Sequence[dict]) -> list[tuple[dict, dict]]:
    """Return the records of each utterance, in the order of `records_a`."""
    ids_a, ids_b = ([record["utterance_id"] for record in side] for side in (records_a, records_b))
    missing = set(ids_a) ^ set(ids_b)
    if missing:
        ids_a, ids_b = _below_common_folder(ids_a), _below_common_folder(ids_b)
    by_id = dict(zip(ids_b, records_b, strict=True))
    if len(by_id) != len(records_b) or set(ids_a) != set(by_id):
        raise ValueError(f"not the same utterances: {len(missing)} are in one only, as {sorted(missing)[:1]}")
    pairs = [(record, by_id[name]) for record, name in zip(records_a, ids_a, strict=True)]
    for a, b in pairs:
        if a["reference"] != b["reference"]:
            raise ValueError(
                f"{a['utterance_id']} has two references, {a['reference']!r} and {b['reference']!r}: "
                "the checkpoints normalise differently"
            )
    return pairs


def _below_common_folder(ids: Sequence[str]) -> list[str]:
    """Return ids that are paths without the folders that all of them begin with: a dataset has several paths."""
    parts = [re.split(r"[/\\]", name) for name in ids]
    common = len(os.path.commonprefix([names[:-1] for names in parts]))
    return ["/".join(names[common:]) for names in parts]


def _difference_interval(
    differences: np.ndarray, lengths: np.ndarray, *, samples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of B's CER minus A's; both are computed on the same draw of utterances.

    Args:
        differences: Errors of B minus errors of A, int (utterances,).
        lengths: Characters of the references, int (utterances,).
    """
    generator, rates = np.random.default_rng(seed), np.empty(samples)
    for sample in range(samples):
        drawn = generator.integers(len(lengths), size=len(lengths))
        rates[sample] = differences[drawn].sum() / max(1, lengths[drawn].sum())
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def read_predictions(folder: str | Path) -> list[dict]:
    """Return the records of predictions.jsonl in the folder of an evaluation or a training run.

    Raises:
        ValueError: The file does not exist or is damaged.
    """
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: evaluate into that folder first, or name a dataset to evaluate both on"
        )
    records = []
    # Only a line feed ends a line: a transcript may contain other characters at which `splitlines` would break it.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not {"utterance_id", "reference", "prediction"} <= set(record):
                raise ValueError("utterance_id, reference or prediction is missing")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error}): evaluate into that folder again") from error
        records.append(record)
    return records
