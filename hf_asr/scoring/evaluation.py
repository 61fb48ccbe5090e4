"""Score a checkpoint on a split: every row counts, and all characters of an unreadable recording count as deletions."""

import json
import math
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from ..data.audio import LongRecording, Recording
from ..data.rows import names_in
from ..data.sources import row_recording
from ..data.word_times import WORDS, TimedWord, read_word_times
from ..decoding.bulk import recognize_all
from ..decoding.recognizer import Recognizer
from ..files import METRICS, PREDICTIONS, write_text
from .metrics import check_references, count_errors, error_rates
from .selection import is_partial
from .word_times import compared_words, word_time_metrics

COUNTS = ("substitutions", "deletions", "insertions", "characters")
# Keys that this module writes; columns of the source with these names are left out of the records.
OWN_NAMES = {"audio", "text", "duration", "reference", "prediction", "error", "damage", *COUNTS}


def evaluate_rows(
    recognizer: Recognizer, rows: datasets.Dataset, *, show_progress: bool = True
) -> tuple[dict, list[dict]]:
    """Return metrics, and a record with reference and prediction for each row.

    The readable part of a damaged recording is scored; all characters of an unreadable recording count as
    deletions. The number of seconds of audio in memory is bounded. The real-time factor is the time for features, model
    and decoding, without reading files, divided by the duration of the audio. If the dataset has word times, the
    metrics contain their errors, and the records the times of the words that are right.

    Raises:
        ValueError: All references are empty, so that there is no error rate.
    """
    check_references([recognizer.processor.tokenizer.normalize(text) for text in rows["text"]])
    word_times = read_word_times(rows)
    records, elapsed = predict_rows(recognizer, rows, word_times=word_times, show_progress=show_progress)
    references, predictions = ([record[name] for record in records] for name in ("reference", "prediction"))
    for record, counts in zip(records, count_errors(references, predictions, unit="character").tolist(), strict=True):
        record |= dict(zip(COUNTS, counts, strict=True))
    seconds = sum(record.get("duration", 0.0) for record in records)
    metrics = {
        **error_rates(references, predictions),
        "utterances": len(rows),
        "audio_seconds": round(seconds, 2),
        "real_time_factor": elapsed / max(seconds, 1e-9),
        "unreadable": sum("error" in record for record in records),
    }
    if word_times is not None:
        metrics |= word_time_metrics(word for record in records for word in record.get("word_times", ()))
    return metrics, records


def predict_rows(
    recognizer: Recognizer,
    rows: datasets.Dataset,
    *,
    word_times: list[list[TimedWord] | None] | None = None,
    show_progress: bool = True,
) -> tuple[list[dict], float]:
    """Return a record with reference and prediction for each row, and the seconds of computation.

    Args:
        word_times: As `read_word_times` returns them; the records then have those of the words that are right.
    """
    rate, normalize = recognizer.sampling_rate, recognizer.processor.tokenizer.normalize
    references = [normalize(text) for text in rows["text"]]
    replaced = () if word_times is None else (WORDS, "word_times")
    columns = {name: _values(rows, name) for name in _metadata(rows) if name not in replaced}
    paths: dict[int, str | None] = {}

    def read(place: int, max_seconds: float) -> Recording | LongRecording:
        row = rows[place]
        paths[place] = (row["audio"] or {}).get("path")
        return row_recording(row, sampling_rate=rate, max_seconds=max_seconds, opens_longer=True)

    records: list[dict] = []
    elapsed = 0.0
    results = recognize_all(recognizer, range(len(rows)), read)
    progress = tqdm(results, total=len(rows), desc="Recognising", unit="file", disable=not show_progress)
    for place, result in enumerate(progress):
        record = {name: values[place] for name, values in columns.items()}
        record |= {"audio": paths.pop(place), "reference": references[place], "prediction": ""}
        if result.transcript is None:
            record["error"] = result.error
        else:
            record |= {"prediction": normalize(result.transcript.text), "duration": round(result.duration, 3)}
            if word_times is not None and (words := word_times[place]) is not None:
                record["word_times"] = compared_words(words, result.transcript.words, normalize=normalize)
        if result.damage:
            record["damage"] = "; ".join(result.damage)
        elapsed += result.computing_seconds
        records.append(record)
    return records, elapsed


def _metadata(rows: datasets.Dataset) -> list[str]:
    """Return the names of the columns that are copied into the records: those of the source, without audio."""
    plain = (datasets.Value, datasets.ClassLabel)
    return [
        name
        for name, feature in rows.features.items()
        if name not in OWN_NAMES and isinstance(feature, plain) and "binary" not in getattr(feature, "dtype", "")
    ]


def _values(rows: datasets.Dataset, name: str) -> list:
    """Return a column as JSON values: labels by their names, and null for NaN and infinity."""
    if isinstance(rows.features[name], datasets.ClassLabel):
        return names_in(rows, name)
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in rows[name]]


def check_output_dir(output_dir: str | Path, selection: dict | None) -> None:
    """Raise ValueError if a score of some speakers would replace the score of a whole split in `output_dir`."""
    path = Path(output_dir) / METRICS
    if not is_partial({"selection": selection}) or not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, or choose another output_dir") from error
    if not is_partial(there):
        raise ValueError(
            f"{path} is the score of {there.get('split') or 'a split'!r} without a selection of speakers, and a score "
            f"of selected speakers would replace it: choose another output_dir, as {path.parent / 'speakers'}"
        )


def write_results(output_dir: str | Path, metrics: dict, records: list[dict]) -> None:
    """Write metrics.json and predictions.jsonl."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    write_text(output_dir / PREDICTIONS, lines)
    write_text(output_dir / METRICS, json.dumps(metrics, ensure_ascii=False, indent=2) + "\n")
