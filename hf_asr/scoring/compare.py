"""Two recognisers on the same utterances: is one better, and where (paired bootstrap, Bisani and Ney 2004)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .metrics import check_references, count_errors


@dataclass
class Comparison:
    """Error rates of A and B and their difference, B − A, with its 95 % interval.

    `moved` holds the utterances with more or fewer errors, the largest change first: utterance_id, reference, a, b,
    errors_a, errors_b.
    """

    utterances: int
    cer_a: float
    cer_b: float
    low: float
    high: float
    moved: list[dict]

    @property
    def verdict(self) -> str:
        """One sentence."""
        change = f"{abs(self.cer_b - self.cer_a):.2%} CER (95 % interval {self.low:+.2%} to {self.high:+.2%})"
        if self.low > 0:
            return f"A is better, by {change}"
        if self.high < 0:
            return f"B is better, by {change}"
        return f"no difference: {change}"


def compare(
    records_a: Sequence[dict], records_b: Sequence[dict], *, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compares what `evaluate_rows` wrote for two checkpoints on the same data.

    Raises:
        ValueError: The utterances or their references are not the same, or there are none.
    """
    by_id = {record["utterance_id"]: record for record in records_b}
    if len(by_id) != len(records_b) or {record["utterance_id"] for record in records_a} != set(by_id):
        missing = {record["utterance_id"] for record in records_a} ^ set(by_id)
        raise ValueError(f"not the same utterances: {len(missing)} are in one only, as {sorted(missing)[:1]}")
    pairs = [(record, by_id[record["utterance_id"]]) for record in records_a]
    for a, b in pairs:
        if a["reference"] != b["reference"]:
            raise ValueError(
                f"{a['utterance_id']} has two references, {a['reference']!r} and {b['reference']!r}: "
                "the checkpoints normalise differently"
            )
    references = [a["reference"] for a, _ in pairs]
    check_references(references)
    predictions = [[record["prediction"] for record in side] for side in zip(*pairs, strict=True)]
    counts = [count_errors(references, side, unit="character") for side in predictions]
    lengths = counts[0][:, 3]
    errors_a, errors_b = counts[0][:, :3].sum(1), counts[1][:, :3].sum(1)
    generator, differences = np.random.default_rng(seed), []
    for _ in range(samples):  # both on the same draw
        drawn = generator.integers(len(pairs), size=len(pairs))
        differences.append((errors_b[drawn] - errors_a[drawn]).sum() / max(1, lengths[drawn].sum()))
    low, high = np.quantile(differences, [0.025, 0.975])
    moved = [i for i in np.argsort(-np.abs(errors_b - errors_a), kind="stable") if errors_a[i] != errors_b[i]]
    return Comparison(
        utterances=len(pairs),
        cer_a=float(errors_a.sum() / lengths.sum()),
        cer_b=float(errors_b.sum() / lengths.sum()),
        low=float(low),
        high=float(high),
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


def read_predictions(folder: str | Path) -> list[dict]:
    """predictions.jsonl of an evaluation's or a training run's folder.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    path = Path(folder) / "predictions.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: evaluate into that folder first, or give --dataset_name")
    records = []
    # Lines end with a line feed only: a transcript may hold other characters that Python takes for the end of one.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not {"utterance_id", "reference", "prediction"} <= set(record):
                raise ValueError("it lacks utterance_id, reference or prediction")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error}): evaluate into that folder again") from error
        records.append(record)
    return records
