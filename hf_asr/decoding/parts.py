"""Transcribe a dataset in parts, by several processes that may be interrupted.

Part 42 is the transcripts of `rows_per_part` consecutive rows, in the file `part-00042.parquet`. The file is renamed to
this name when it is complete: a part that is there is right, and the others are left to do. A part is recognised by
itself, so its content does not depend on the number of processes.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate.utils import get_cpu_distributed_information
from tqdm.auto import tqdm

from ..data.audio import LongRecording, Recording
from ..data.rows import escaped
from ..data.sources import Source, row_recording
from ..files import TRANSCRIPTION, written_beside
from ..provenance import file_sha256, weights_sha256
from .arguments import DecodingArguments
from .bulk import recognize_all
from .hotwords import named_hotwords
from .lexicon import named_lexicon
from .recognizer import Recognizer, load
from .tuned import read_tuned

POLL_SECONDS = 1.0  # how often a process looks for the parts of the others
WORD = pa.struct([("word", pa.string()), *((name, pa.float64()) for name in ("start", "end", "confidence"))])
SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("file", pa.string()),
        ("text", pa.string()),  # null if there is an error
        ("duration", pa.float64()),  # seconds
        ("words", pa.list_(WORD)),  # with start and end in seconds
        ("notes", pa.string()),  # damage of a recording, and what is unusual about it
        ("error", pa.string()),  # why the recording cannot be read
    ]
)


@dataclass(frozen=True)
class DatasetJob:
    """Name a dataset to transcribe, the recogniser, and the folder for the parts.

    Args:
        split: Split of the dataset.
        folder: For the parts; every process must see it.
        rows_per_part: What an interruption costs, at most, is the time for this number of rows in each process.
    """

    source: Source
    split: str
    model_name_or_path: str
    folder: Path
    arguments: DecodingArguments
    rows_per_part: int = 256

    def __post_init__(self):
        if self.rows_per_part < 1:
            raise ValueError(f"rows_per_part must be 1 or more, not {self.rows_per_part}")

    def load_rows(self) -> datasets.Dataset:
        """Return the rows of the dataset, which needs no transcripts."""
        return replace(self.source).load(self.split, needs_text=False)  # a copy: the listing of a folder stays small

    def places(self, part: int, *, num_rows: int) -> range:
        """Return the places of a part's rows in the dataset."""
        return range(part * self.rows_per_part, min(num_rows, (part + 1) * self.rows_per_part))

    def path(self, part: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{part:05}.parquet"


def transcribe_dataset(job: DatasetJob, *, ray_workers: int = 0) -> dict[str, Any] | None:
    """Transcribe what is left of a dataset; return counts when all parts are there, None in all processes but one.

    Under `accelerate launch`, each process transcribes its share of the parts.

    Args:
        ray_workers: Number of recognisers that Ray Data starts instead, on the machines of a Ray cluster.

    Raises:
        ValueError: The folder has the transcripts of another dataset, of another model, or with other options; or
            several processes are to start Ray's workers.
    """
    launched = get_cpu_distributed_information()  # which reads the environment of accelerate, torchrun or mpirun
    if ray_workers < 0 or ray_workers and launched.world_size > 1:
        raise ValueError(f"ray_workers must be 0 or more, and 0 under accelerate launch, not {ray_workers}")
    rows = job.load_rows()
    check_folder(job, rows)
    parts = range(-(-len(rows) // job.rows_per_part))
    if ray_workers and (left := missing(job, parts)):
        _transcribe_on_ray(job, left, workers=ray_workers)
    else:
        # A share does not depend on what is there: the processes do not start at the same time.
        share = parts[launched.rank :: launched.world_size]
        _transcribe_share(job, rows, share, local_rank=launched.local_rank, show_progress=launched.rank == 0)
    if launched.rank > 0:
        return None
    if left := missing(job, parts):
        print(f"waiting for the other processes: {len(left)} of {len(parts)} parts are left", file=sys.stderr)
    while missing(job, parts):
        time.sleep(POLL_SECONDS)
    return count_rows(job, parts)


def missing(job: DatasetJob, parts: range) -> list[int]:
    """Return those parts that have no file."""
    return [part for part in parts if not job.path(part).exists()]


def check_folder(job: DatasetJob, rows: datasets.Dataset) -> None:
    """Write what the parts of the folder belong to, or compare it with what is written there.

    Raises:
        ValueError: The folder belongs to something else; the message has the first difference.
    """
    path, settings = job.folder / TRANSCRIPTION, json.loads(json.dumps(settings_of(job, rows)))
    # Looked for first: another process of this run writes parts once the settings are there.
    has_parts = next(job.folder.glob("part-*.parquet"), None) is not None
    if not path.exists():
        if has_parts:
            raise ValueError(f"{job.folder} has parts, but no {TRANSCRIPTION}: give another output_dir")
        job.folder.mkdir(parents=True, exist_ok=True)
        with written_beside(path, is_shared=True) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    saved = json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{job.folder} has transcripts of other settings: {name} was {saved.get(name)!r} and is {value!r}; "
                "give another output_dir"
            )


def settings_of(job: DatasetJob, rows: datasets.Dataset) -> dict[str, Any]:
    """Return all that the content of the parts depends on."""
    arguments = job.arguments.resolved(read_tuned(job.model_name_or_path))
    model, language_model = Path(job.model_name_or_path), arguments.language_model
    return {
        "dataset_name": job.source.name,
        "dataset_config_name": job.source.config_name,
        "audio_column_name": job.source.audio_column_name,
        "split": job.split,
        "rows": len(rows),
        "utterance_ids_sha256": hashlib.sha256("\n".join(rows["utterance_id"]).encode()).hexdigest(),
        "rows_per_part": job.rows_per_part,
        "model_name_or_path": job.model_name_or_path,
        "model_sha256": file_sha256(model) if model.is_file() else weights_sha256(model),
        **asdict(arguments),
        "language_model_sha256": language_model and file_sha256(Path(language_model)),
        "lexicon": arguments.lexicon and named_lexicon(arguments.lexicon),
        "hotwords": [asdict(each) for each in named_hotwords(arguments.hotwords or "", arguments.hotword_boost)],
    }


def _transcribe_share(
    job: DatasetJob, rows: datasets.Dataset, share: range, *, local_rank: int, show_progress: bool
) -> None:
    """Write those of these parts that are missing, on the GPU with the number of the process if there are GPUs."""
    counts = {part: len(job.places(part, num_rows=len(rows))) for part in share}
    left, total = missing(job, share), sum(counts.values())
    if not left:
        return
    device = f"cuda:{local_rank}" if torch.cuda.is_available() else None
    recognizer = load(job.model_name_or_path, arguments=job.arguments, device=device)
    options = {"total": total, "initial": total - sum(counts[part] for part in left), "disable": not show_progress}
    # Recordings finish in groups, so that the speed of the last ones would say little.
    with tqdm(desc="Recognising this process's share", unit="file", smoothing=0, **options) as progress:
        for part in left:
            write_part(job, part, rows=rows, recognizer=recognizer, progress=progress)


def write_part(
    job: DatasetJob,
    part: int,
    *,
    rows: datasets.Dataset,
    recognizer: Recognizer,
    progress: tqdm | None = None,
) -> None:
    """Transcribe the rows of a part and write its file.

    Args:
        progress: Updated after each row.
    """
    records = []
    for record in transcribe_rows(recognizer, rows, job.places(part, num_rows=len(rows))):
        records.append(record)
        if progress is not None:
            progress.update()
    # A process of an interrupted run may still be at work on this part.
    with written_beside(job.path(part), is_shared=True) as path:
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), path)


def transcribe_rows(recognizer: Recognizer, rows: datasets.Dataset, places: range) -> Iterator[dict[str, Any]]:
    """Yield a record with the columns of `SCHEMA` for each of these rows."""
    rate = recognizer.sampling_rate
    names: dict[int, dict[str, str | None]] = {}

    def read(place: int, max_seconds: float) -> Recording | LongRecording:
        row = rows[place]
        names[place] = {"utterance_id": row["utterance_id"], "file": (row["audio"] or {}).get("path")}
        return row_recording(row, sampling_rate=rate, max_seconds=max_seconds, opens_longer=True)

    for place, result in zip(places, recognize_all(recognizer, places, read), strict=True):
        record = {**names.pop(place), "notes": "; ".join(result.damage + result.remarks) or None}
        if result.transcript is None:
            record["error"] = result.error
        else:
            words = [asdict(word) for word in result.transcript.words]
            record |= {"text": result.transcript.text, "duration": round(result.duration, 3), "words": words}
        yield escaped(record)


class RayWorker:
    """Write parts of a job: Ray Data makes an instance in each worker, which loads the recogniser once."""

    def __init__(self, job: DatasetJob):
        self.job, self.rows = job, job.load_rows()
        self.recognizer = load(job.model_name_or_path, arguments=job.arguments)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for part in batch["part"].tolist():
            write_part(self.job, part, rows=self.rows, recognizer=self.recognizer)
        return batch


def _transcribe_on_ray(job: DatasetJob, parts: list[int], *, workers: int) -> None:
    """Write these parts by workers of Ray Data, each with a CPU core and its share of the cluster's GPUs, at most one.

    Raises:
        ImportError: Ray is not installed.
        ValueError: The workers have written the parts elsewhere.
    """
    import ray

    numbers = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)
    options = {"batch_size": 1, "num_cpus": 1, "num_gpus": gpus, "compute": ray.data.ActorPoolStrategy(size=workers)}
    numbers.map_batches(RayWorker, fn_constructor_args=(job,), **options).materialize()
    if not all(job.path(part).exists() for part in parts):
        raise ValueError(f"the workers' parts are not in {job.folder}: all machines must see it at this path")


def count_rows(job: DatasetJob, parts: range) -> dict[str, Any]:
    """Return the numbers of rows, of unreadable recordings, of seconds of audio and of parts in the folder.

    Raises:
        ValueError: A part is damaged.
    """
    counts = {"rows": 0, "unreadable": 0, "audio_seconds": 0.0, "parts": len(parts)}
    for part in parts:
        try:
            table = pq.read_table(job.path(part), columns=["duration", "error"])
        except pa.ArrowException as error:
            raise ValueError(f"{job.path(part)} is damaged ({error}): delete it, and run the command again") from error
        counts["rows"] += len(table)
        counts["unreadable"] += len(table) - table["error"].null_count
        counts["audio_seconds"] += pc.sum(table["duration"]).as_py() or 0.0
    return counts | {"audio_seconds": round(counts["audio_seconds"], 2), "output_dir": str(job.folder)}
