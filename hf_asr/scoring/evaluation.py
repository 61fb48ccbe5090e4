"""Scores a checkpoint on a split: every row counts, and what cannot be read counts as deleted."""

import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import datasets
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..data.audio import AudioError, Recording
from ..data.rows import names_in
from ..data.sources import row_recording
from ..decoding.recognizer import recognize
from ..files import write_text
from .metrics import count_errors, error_rates

GROUP_SECONDS = 1800.0  # of audio that is in memory at once
READ_AHEAD = 8  # recordings
COUNTS = ("substitutions", "deletions", "insertions", "characters")
# What a record says by itself: a column of the source with one of these names would be taken for it.
OWN_NAMES = {"audio", "text", "duration", "reference", "prediction", "error", "damage", *COUNTS}


def evaluate_rows(
    model: PreTrainedModel, processor: ProcessorMixin, rows: datasets.Dataset, *, show_progress: bool = True
) -> tuple[dict, list[dict]]:
    """Return metrics, and a prediction for each row.

    Of damaged recordings, what can be decoded is scored. Each recording is read once, and a bounded number of seconds
    is in memory. The real-time factor is the time of features, model and decoding (not of reading files) over the
    audio's.
    """
    rate, normalize = processor.feature_extractor.sampling_rate, processor.tokenizer.normalize
    columns = {name: _values(rows, name) for name in _metadata(rows)}
    references = [normalize(text) for text in rows["text"]]
    records: list[dict] = []
    elapsed = seconds = 0.0
    progress = tqdm(total=len(rows), desc="Recognising", unit="file", disable=not show_progress)
    for group in _groups(rows, rate):
        readable = [recording for _, recording in group if isinstance(recording, Recording)]
        started = time.perf_counter()
        transcripts = iter(recognize(model, processor, [recording.waveform for recording in readable]))
        elapsed += time.perf_counter() - started
        for path, recording in group:
            place = len(records)
            record = {name: values[place] for name, values in columns.items()}
            record |= {"audio": path, "reference": references[place], "prediction": ""}
            if isinstance(recording, Recording):
                duration = len(recording.waveform) / rate
                seconds += duration
                record |= {"prediction": normalize(next(transcripts).text), "duration": round(duration, 3)}
                if recording.damage:
                    record["damage"] = "; ".join(recording.damage)
            else:
                record["error"] = str(recording)
            records.append(record)
        progress.update(len(group))
    progress.close()
    predictions = [record["prediction"] for record in records]
    for record, counts in zip(records, count_errors(references, predictions, unit="character").tolist(), strict=True):
        record |= dict(zip(COUNTS, counts, strict=True))
    metrics = {
        **error_rates(references, predictions),
        "utterances": len(rows),
        "audio_seconds": round(seconds, 2),
        "real_time_factor": elapsed / max(seconds, 1e-9),
        "unreadable": sum("error" in record for record in records),
    }
    return metrics, records


def _metadata(rows: datasets.Dataset) -> list[str]:
    """The source's own columns, without those that hold audio."""
    plain = (datasets.Value, datasets.ClassLabel)
    return [
        name
        for name, feature in rows.features.items()
        if name not in OWN_NAMES and isinstance(feature, plain) and "binary" not in getattr(feature, "dtype", "")
    ]


def _values(rows: datasets.Dataset, name: str) -> list:
    """A column as JSON can hold it: labels by their names, and null for what is no number."""
    if isinstance(rows.features[name], datasets.ClassLabel):
        return names_in(rows, name)
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in rows[name]]


def _groups(rows: datasets.Dataset, rate: int) -> Iterator[list[tuple[str | None, Recording | AudioError]]]:
    """Path and recording of each row in its order, so many at once as `GROUP_SECONDS` allows."""

    def read(place: int) -> tuple[str | None, Recording | AudioError]:
        row = rows[place]
        path = row["audio"]["path"]
        try:
            return path, row_recording(row, sampling_rate=rate)
        except AudioError as error:
            return path, error

    group, samples = [], 0
    places = iter(range(len(rows)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead: deque[Future] = deque(pool.submit(read, place) for place in itertools.islice(places, READ_AHEAD))
        while ahead:
            group.append(ahead.popleft().result())
            ahead.extend(pool.submit(read, place) for place in itertools.islice(places, 1))
            samples += len(group[-1][1].waveform) if isinstance(group[-1][1], Recording) else 0
            if samples > GROUP_SECONDS * rate:
                yield group
                group, samples = [], 0
    if group:
        yield group


def write_results(output_dir: str | Path, metrics: dict, records: list[dict]) -> None:
    """metrics.json and predictions.jsonl."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    write_text(output_dir / "predictions.jsonl", lines)
    write_text(output_dir / "metrics.json", json.dumps(metrics, ensure_ascii=False, indent=2) + "\n")
