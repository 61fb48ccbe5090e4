"""Write a page about the errors of a recogniser: players, alignments, confusions, and error by group."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from markupsafe import Markup

from ..data.report import row_audio_uri
from ..html import bars, write_page
from .evaluation import COUNTS
from .metrics import UNITS, align, bootstrap_interval
from .selection import describe_selection

# Keys that `evaluate_rows` adds to the columns of the source. The other columns are groups if they have few values.
OWN_COLUMNS = {"audio", "reference", "prediction", "error", "word_times", *COUNTS}
MAX_GROUPS = 50


@dataclass
class _Group:
    """Hold the CER of the utterances that have the same value in a column, with its 95 % interval."""

    name: str
    utterances: int
    cer: float
    low: float
    high: float


def write_error_report(
    path: str | Path,
    metrics: dict[str, Any],
    records: Sequence[dict],
    rows: datasets.Dataset | None,
    *,
    title: str,
    num_worst: int = 30,
    sampling_rate: int = 16000,
) -> None:
    """Write report.html with all details of an evaluation.

    Args:
        metrics, records: As `evaluate_rows` returned them for `rows`.
        rows: The rows that were scored, for players; None leaves these out.
        num_worst: Number of utterances to show, the highest error rate first.
        sampling_rate: Of the players, in Hz.
    """
    counts = _counts(records)
    errors = counts[:, :3].sum(1)
    # The highest error rate first; among equal rates the most errors.
    worst = sorted(range(len(records)), key=lambda i: (-errors[i] / max(1, counts[i, 3]), -errors[i]))
    worst = [i for i in worst[:num_worst] if errors[i]]
    _write(
        path,
        metrics,
        records,
        counts,
        title=title,
        worst=[_utterance(records[i], rows and rows[i], errors[i], sampling_rate) for i in worst],
        confusions={unit: confusions(records, unit=unit) for unit in ("word", "character")},
        groups={name: _groups(values, counts) for name, values in _metadata(records).items()},
        unreadable=[record for record in records if "error" in record],
    )


def write_public_error_report(
    path: str | Path, metrics: dict[str, Any], records: Sequence[dict], *, title: str
) -> None:
    """Write report.html for the public: only sums over many recordings, without names of speakers or words.

    Confused words are left out, because they come from the transcripts; characters are part of the vocabulary. Speakers
    and other groups have numbers instead of names.
    """
    counts = _counts(records)
    groups = {name: _groups(values, counts) for name, values in _metadata(records).items()}
    for members in groups.values():
        for number, group in enumerate(members, start=1):
            group.name = str(number)
    _write(
        path,
        metrics,
        records,
        counts,
        title=title,
        worst=[],
        confusions={"character": confusions(records, unit="character")},
        groups=groups,
        unreadable=[],
    )


def _write(
    path: str | Path, metrics: dict[str, Any], records: Sequence[dict], counts: np.ndarray, **values: Any
) -> None:
    """Render the page; `values` are those in which the public and the full report differ."""
    write_page(
        path,
        "report.html",
        metrics=metrics,
        by_duration=_duration_chart(records, counts),
        perfect=int((counts[:, :3].sum(1) == 0).sum()),
        selection=describe_selection(metrics),
        **values,
    )


def _counts(records: Sequence[dict]) -> np.ndarray:
    """Return substitutions, deletions, insertions and characters, int (utterances, 4)."""
    return np.array([[record[name] for name in COUNTS] for record in records], dtype=np.int64).reshape(-1, 4)


def confusions(records: Sequence[dict], *, unit: str, most: int = 20) -> list[tuple[str, str, int]]:
    """Return the most frequent confusions as (reference, prediction, count).

    An empty reference is an insertion, an empty prediction a deletion.

    Args:
        unit: `"character"` or `"word"`.
        most: Number of confusions to return.
    """
    counter: Counter[tuple[str, str]] = Counter()
    prepare, _, process = UNITS[unit]
    for record in records:
        reference, prediction = prepare(record["reference"]), prepare(record["prediction"])
        if not reference or reference == prediction:
            continue
        output = process(reference, prediction)
        for chunk in output.alignments[0]:
            if chunk.type == "equal":
                continue
            left = output.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
            right = output.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
            for pair in itertools.zip_longest(left, right, fillvalue=""):
                counter[tuple("␣" if side == " " else side for side in pair)] += 1
    return [(reference, prediction, count) for (reference, prediction), count in counter.most_common(most)]


def _utterance(record: dict, row: dict | None, errors: int, sampling_rate: int) -> dict[str, Any]:
    return {
        "id": record["utterance_id"],
        "audio": row_audio_uri(row, sampling_rate=sampling_rate) if row else "",
        "alignment": align(record["reference"], record["prediction"]),
        "cer": errors / max(1, record["characters"]),
        "errors": int(errors),
        "duration": record.get("duration"),
        "error": record.get("error"),
    }


def _duration_chart(records: Sequence[dict], counts: np.ndarray) -> Markup | None:
    """Return a chart of the CER by duration; each of up to eight bars has equally many utterances."""
    seconds = np.array([record.get("duration", np.nan) for record in records], dtype=float)
    known = np.flatnonzero(np.isfinite(seconds))
    if len(known) < 16:
        return None
    parts = np.array_split(known[np.argsort(seconds[known], kind="stable")], min(8, len(known) // 8))
    labels = [f"{seconds[part[0]]:.1f}-{seconds[part[-1]]:.1f}" for part in parts]
    rates = [100 * counts[part, :3].sum() / max(1, counts[part, 3].sum()) for part in parts]
    return bars(labels, rates, xlabel="seconds", ylabel="CER, %")


def _metadata(records: Sequence[dict]) -> dict[str, list[str]]:
    """Return the columns of the source that form groups: 2 to 50 values, at least two utterances each on average."""
    columns: dict[str, list[str]] = {}
    for name in records[0] if records else ():
        if name in OWN_COLUMNS:
            continue
        values = [str(record.get(name)) for record in records]
        if 2 <= len(set(values)) <= min(MAX_GROUPS, len(records) // 2):
            columns[name] = values
    return columns


def _groups(values: Sequence[str], counts: np.ndarray) -> list[_Group]:
    """Return the groups of a column, the highest CER first."""
    members = defaultdict(list)
    for place, value in enumerate(values):
        members[value].append(place)
    groups = []
    for value, places in members.items():
        part = counts[places]
        rate = part[:, :3].sum() / max(1, part[:, 3].sum())
        groups.append(_Group(value, len(places), float(rate), *bootstrap_interval(part)))
    return sorted(groups, key=lambda group: -group.cer)
