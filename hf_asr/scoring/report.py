"""Where a recogniser fails: one self-contained page with players, alignments, confusions and error by group."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import jiwer
import numpy as np
from markupsafe import Markup

from ..data.audio import AudioError
from ..data.sources import read_row
from ..html import audio_uri, bars, write_page
from .metrics import bootstrap_interval, split_words
from .selection import describe_selection

# What evaluate_rows adds to a source's own columns; those are groups to compare if they have few values.
OWN_COLUMNS = {"audio", "reference", "prediction", "substitutions", "deletions", "insertions", "characters", "error"}
MAX_GROUPS = 50


@dataclass
class _Group:
    """Error of the utterances that share a value."""

    name: str
    utterances: int
    cer: float
    low: float
    high: float


def write_report(
    path: str | Path,
    metrics: dict[str, Any],
    records: Sequence[dict],
    rows: datasets.Dataset | None,
    *,
    title: str,
    num_worst: int = 30,
    sampling_rate: int = 16000,
) -> None:
    """Write report.html from what `evaluate_rows` returned for `rows`; without the rows, without players."""
    counts = _counts(records)
    errors = counts[:, :3].sum(1)
    # The highest error rate first; among equal ones the most errors.
    worst = sorted(range(len(records)), key=lambda i: (-errors[i] / max(1, counts[i, 3]), -errors[i]))
    worst = [i for i in worst[:num_worst] if errors[i]]
    write_page(
        path,
        "report.html",
        title=title,
        metrics=metrics,
        worst=[_utterance(records[i], rows and rows[i], errors[i], sampling_rate) for i in worst],
        confusions={unit: confusions(records, unit=unit) for unit in ("word", "character")},
        by_duration=_duration_chart(records, counts),
        groups={name: _groups(values, counts) for name, values in _metadata(records).items()},
        unreadable=[record for record in records if "error" in record],
        perfect=int((errors == 0).sum()),
        selection=describe_selection(metrics),
    )


def write_public_report(path: str | Path, metrics: dict[str, Any], records: Sequence[dict], *, title: str) -> None:
    """Write report.html for everybody: sums over many recordings, and nothing that stands for one or names anybody.

    Words that are confused stay out, for they are of the transcripts; characters are of the vocabulary. Speakers and
    other groups have numbers.
    """
    counts = _counts(records)
    groups = {name: _groups(values, counts) for name, values in _metadata(records).items()}
    for members in groups.values():
        for number, group in enumerate(members, start=1):
            group.name = str(number)
    write_page(
        path,
        "report.html",
        title=title,
        metrics=metrics,
        worst=[],
        confusions={"character": confusions(records, unit="character")},
        by_duration=_duration_chart(records, counts),
        groups=groups,
        unreadable=[],
        perfect=int((counts[:, :3].sum(1) == 0).sum()),
        selection=describe_selection(metrics),
    )


def _counts(records: Sequence[dict]) -> np.ndarray:
    """Substitutions, deletions, insertions and characters, (utterances, 4)."""
    names = ("substitutions", "deletions", "insertions", "characters")
    return np.array([[record[name] for name in names] for record in records], dtype=np.int64).reshape(-1, 4)


def align(reference: str, prediction: str) -> list[tuple[str, str, str]]:
    """(operation, reference, prediction) of runs of words; the operation is equal, substitute, delete or insert."""
    reference, prediction = split_words(reference), split_words(prediction)
    if not reference:
        return [("insert", "", prediction)] if prediction else []
    output = jiwer.process_words(reference, prediction)
    said, heard = output.references[0], output.hypotheses[0]
    return [
        (
            chunk.type,
            " ".join(said[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(heard[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]


def confusions(records: Sequence[dict], *, unit: str, most: int = 20) -> list[tuple[str, str, int]]:
    """The commonest (reference, prediction, count) that differ; an empty side is an insertion or a deletion."""
    counter: Counter[tuple[str, str]] = Counter()
    prepare, process = (
        (str.strip, jiwer.process_characters) if unit == "character" else (split_words, jiwer.process_words)
    )
    for record in records:
        reference, prediction = prepare(record["reference"]), prepare(record["prediction"])
        if not reference or reference == prediction:
            continue
        output = process(reference, prediction)
        said, heard = output.references[0], output.hypotheses[0]
        for chunk in output.alignments[0]:
            if chunk.type == "equal":
                continue
            left = said[chunk.ref_start_idx : chunk.ref_end_idx]
            right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
            for i in range(max(len(left), len(right))):
                pair = (left[i] if i < len(left) else "", right[i] if i < len(right) else "")
                counter[tuple("␣" if side == " " else side for side in pair)] += 1
    return [(said, heard, count) for (said, heard), count in counter.most_common(most)]


def _utterance(record: dict, row: dict | None, errors: int, sampling_rate: int) -> dict[str, Any]:
    try:
        audio = audio_uri(read_row(row, sampling_rate=sampling_rate)) if row else ""
    except AudioError:
        audio = ""
    return {
        "id": record["utterance_id"],
        "audio": audio,
        "alignment": align(record["reference"], record["prediction"]),
        "cer": errors / max(1, record["characters"]),
        "errors": int(errors),
        "duration": record.get("duration"),
        "error": record.get("error"),
    }


def _duration_chart(records: Sequence[dict], counts: np.ndarray) -> Markup | None:
    """CER of as many utterances in each of at most eight bars, by length."""
    seconds = np.array([record.get("duration", np.nan) for record in records], dtype=float)
    known = np.flatnonzero(np.isfinite(seconds))
    if len(known) < 16:
        return None
    parts = np.array_split(known[np.argsort(seconds[known], kind="stable")], min(8, len(known) // 8))
    labels = [f"{seconds[part[0]]:.1f}-{seconds[part[-1]]:.1f}" for part in parts]
    rates = [100 * counts[part, :3].sum() / max(1, counts[part, 3].sum()) for part in parts]
    return bars(labels, rates, xlabel="seconds", ylabel="CER, %")


def _metadata(records: Sequence[dict]) -> dict[str, list[str]]:
    """Columns of the source with 2 to 50 different values, fewer than there are utterances."""
    columns: dict[str, list[str]] = {}
    for name in records[0] if records else ():
        if name in OWN_COLUMNS:
            continue
        values = [str(record.get(name)) for record in records]
        if 2 <= len(set(values)) <= min(MAX_GROUPS, len(records) // 2):
            columns[name] = values
    return columns


def _groups(values: Sequence[str], counts: np.ndarray) -> list[_Group]:
    """The hardest first."""
    members = defaultdict(list)
    for place, value in enumerate(values):
        members[value].append(place)
    groups = []
    for value, places in members.items():
        part = counts[places]
        rate = part[:, :3].sum() / max(1, part[:, 3].sum())
        groups.append(_Group(value, len(places), float(rate), *bootstrap_interval(part)))
    return sorted(groups, key=lambda group: -group.cer)
