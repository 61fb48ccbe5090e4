"""Write what was found in a dataset: a table of all rows, a page, a summary, and the rows to keep for training."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from ..data.report import Doubtful, report_data, row_audio_uri
from ..files import REPORT, write_text, written_beside
from ..html import histogram
from ..model import ConformerProcessor
from .data_check import CheckedSplit, to_records
from .metrics import align

ROWS = "rows.jsonl"
SUMMARY = "check.json"
KEPT = "kept"  # folder with a parquet file of each split
WRITTEN_ROWS = 200  # that are in memory at a time, with their audio if the source contains it


def write_check(
    folder: str | Path,
    checked: Mapping[str, CheckedSplit],
    summary: dict[str, Any],
    processor: ConformerProcessor,
    *,
    speaker_column: str = "speaker",
    num_worst: int = 50,
) -> None:
    """Write the files of a check; each is complete or not there.

    Args:
        summary: Content of check.json.
        num_worst: Rows of the page, of all splits together.
    """
    folder = Path(folder)
    (folder / KEPT).mkdir(parents=True, exist_ok=True)
    records = [record for found in checked.values() for record in to_records(found)]
    write_text(folder / ROWS, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    for stale in (folder / KEPT).glob("*.parquet"):
        stale.unlink()
    for name, found in checked.items():
        if found.inspection.kept:
            write_rows(folder / KEPT / f"{name.replace('/', '-')}.parquet", found.rows.select(found.inspection.kept))
    inspections = {name: found.inspection for name, found in checked.items()}
    report_data(
        inspections,
        processor=processor,
        path=folder / REPORT,
        speaker_column=speaker_column,
        more_facts={name: _facts(found) for name, found in checked.items()},
        more_charts={name: _charts(found) for name, found in checked.items()},
        worst=_worst(checked, records, num_worst),
        table=ROWS,
    )
    write_text(folder / SUMMARY, json.dumps(summary, ensure_ascii=False, indent=2) + "\n")


def write_rows(path: Path, rows: datasets.Dataset) -> None:
    """Write rows as a parquet file that training reads; recordings that are files are not copied."""
    schema = rows.features.arrow_schema
    with written_beside(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for start in range(0, len(rows), WRITTEN_ROWS):
            chosen = range(start, min(start + WRITTEN_ROWS, len(rows)))
            table = rows.with_format("arrow")[chosen.start : chosen.stop]
            audio = table.column("audio").combine_chunks()
            stored, paths = audio.field("bytes"), audio.field("path").to_pylist()
            paths = [
                os.path.abspath(path) if path and not there and "://" not in path else path
                for path, there in zip(paths, stored.is_valid().to_pylist(), strict=True)
            ]
            audio = pa.StructArray.from_arrays([stored, pa.array(paths, pa.string())], names=["bytes", "path"])
            table = table.set_column(table.column_names.index("audio"), "audio", audio)
            writer.write_table(table.cast(schema))


def _facts(found: CheckedSplit) -> list[tuple[str, str]]:
    measured = [each for each in found.acoustics if each is not None]
    rates = Counter(each.file_rate for each in measured)
    characters = Counter(character for text in found.texts for character in text if character != " ")
    rare = [character for character, count in characters.items() if count == 1]
    facts = [
        ("sampling rates", ", ".join(f"{rate} Hz: {count}" for rate, count in rates.most_common(5))),
        ("different sentences", str(len(set(found.texts)))),
        ("characters that occur once", f"{len(rare)} {' '.join(rare[:10])}{' …' if len(rare) > 10 else ''}".strip()),
    ]
    if found.limit is not None:
        facts.append(("limit of the score", f"{found.limit:.2f}"))
    return facts


def _charts(found: CheckedSplit) -> list[Markup]:
    measured = [each for each in found.acoustics if each is not None]
    charts = []
    if measured:
        charts = [
            histogram([each.snr for each in measured], label="signal to noise, dB"),
            histogram([each.level for each in measured], label="level, dB of full scale"),
        ]
    if scores := [score for score in found.scores if score is not None]:
        charts.append(histogram(scores, label="score of the transcript"))
        charts.append(histogram(found.other_scores, label="score of the transcript of another recording"))
    return charts


def _worst(checked: Mapping[str, CheckedSplit], records: list[dict[str, Any]], num_worst: int) -> list[Doubtful]:
    """Return the rows to show: the most implausible ones that were recognised."""
    chosen = sorted((each for each in records if each.get("prediction") is not None), key=_score)[:num_worst]
    return [_doubtful(checked[record["split"]], record) for record in chosen]


def _score(record: dict[str, Any]) -> float:
    return -float("inf") if record["score"] is None else record["score"]


def _doubtful(found: CheckedSplit, record: dict[str, Any]) -> Doubtful:
    score = "no score" if record["score"] is None else f"score {record['score']:.2f}"
    reasons = ", ".join(record["findings"])
    note = f"{score}, CER {record['cer']:.0%}, {record['duration']:.1f} s" + f"; {reasons}" * bool(reasons)
    audio = row_audio_uri(found.rows[record["row"]])
    return Doubtful(record["utterance_id"], note, audio, align(found.texts[record["row"]], record["prediction"]))
