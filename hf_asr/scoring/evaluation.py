"""Scores a checkpoint on a split: every row counts, and what cannot be read counts as deleted."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..data.audio import AudioError
from ..data.sources import read_row
from ..decoding.recognizer import recognize
from ..files import write_text
from .metrics import count_errors, error_rates


def evaluate_rows(
    model: PreTrainedModel, processor: ProcessorMixin, rows: datasets.Dataset, *, show_progress: bool = True
) -> tuple[dict, list[dict]]:
    """Metrics, and a prediction for each row.

    The real-time factor is the time of features, model and decoding (not of reading files) over the audio's.
    """
    rate = processor.feature_extractor.sampling_rate

    def read(row: dict) -> np.ndarray | AudioError:
        try:
            return read_row(row, sampling_rate=rate)
        except AudioError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reading = pool.map(read, rows)
        audio = list(tqdm(reading, total=len(rows), desc="Reading", unit="file", disable=not show_progress))
    readable = [i for i, waveform in enumerate(audio) if not isinstance(waveform, AudioError)]
    started = time.perf_counter()
    transcripts = recognize(model, processor, [audio[i] for i in readable], show_progress=show_progress)
    elapsed = time.perf_counter() - started

    normalize = processor.tokenizer.normalize
    texts = dict(zip(readable, (transcript.text for transcript in transcripts), strict=True))
    references = [normalize(text) for text in rows["text"]]
    predictions = [normalize(texts.get(i, "")) for i in range(len(rows))]
    counts = count_errors(references, predictions, unit="character")
    seconds = sum(len(audio[i]) for i in readable) / rate
    metrics = {
        **error_rates(references, predictions),
        "utterances": len(rows),
        "audio_seconds": round(seconds, 2),
        "real_time_factor": elapsed / max(seconds, 1e-9),
        "unreadable": len(rows) - len(readable),
    }
    metadata = [name for name in rows.column_names if name not in ("audio", "text")]
    records = []
    for i, row in enumerate(rows):
        record = {name: row[name] for name in metadata}
        record |= {"audio": row["audio"]["path"], "reference": references[i], "prediction": predictions[i]}
        record |= dict(zip(("substitutions", "deletions", "insertions", "characters"), counts[i].tolist(), strict=True))
        if isinstance(audio[i], AudioError):
            record["error"] = str(audio[i])
        else:
            record["duration"] = round(len(audio[i]) / rate, 3)
        records.append(record)
    return metrics, records


def write_results(output_dir: str | Path, metrics: dict, records: list[dict]) -> None:
    """metrics.json and predictions.jsonl."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    write_text(output_dir / "predictions.jsonl", lines)
    write_text(output_dir / "metrics.json", json.dumps(metrics, ensure_ascii=False, indent=2) + "\n")
