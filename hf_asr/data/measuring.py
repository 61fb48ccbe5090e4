"""Measure the duration and the defects of each recording: decoded once, divided over the processes, and cached.

The results are cached in Hugging Face's cache folder (`HF_HOME`), under a hash of everything that they depend on: the
files with their sizes and modification times, the parts of them, the sampling rate, and the code that reads them.
"""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
import datasets
import pyarrow.compute as pc
import soundfile
import soxr
from huggingface_hub.constants import HF_HOME
from torch import distributed
from tqdm.auto import tqdm

from ..files import write_text
from . import audio, columns, containers, media, mixing, sources, timeline
from .audio import AudioError
from .rows import ARRAY, PART
from .sources import is_duration, row_duration, row_recording

logger = logging.getLogger("hf_asr")

Rows = datasets.Dataset | list[dict]


@dataclass
class Measurement:
    """Hold the seconds of a recording, why it cannot be trained on, and remarks about how it was read."""

    seconds: float = 0.0
    problem: str | None = None
    remarks: list[str] = field(default_factory=list)


def measure(
    rows: Rows, *, sampling_rate: int, decode: bool = True, show_progress: bool = True, label: str = "Inspecting"
) -> list[Measurement]:
    """Return a measurement for each row.

    Args:
        decode: Decode every recording. False uses a `duration` column or the header of each file.
        label: Description of the progress bar.
    """
    key = identity(rows, sampling_rate=sampling_rate) if decode else None
    if (remembered := _recall(key)) is not None:
        return remembered
    measured = _measure(rows, range(len(rows)), sampling_rate, decode, show_progress, label)
    _remember(key, measured)
    return measured


def measure_together(
    rows: Rows, *, sampling_rate: int, decode: bool = True, show_progress: bool = True, label: str = "Inspecting"
) -> list[Measurement]:
    """Return the same measurements in all processes that train together; each process decodes a share of the rows.

    Raises:
        ValueError: The processes have different rows, for example because a folder differs between two machines.
    """
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return measure(rows, sampling_rate=sampling_rate, decode=decode, show_progress=show_progress, label=label)
    count, rank = distributed.get_world_size(), distributed.get_rank()
    key = identity(rows, sampling_rate=sampling_rate) if decode else None
    remembered = _recall(key)
    found: list = [None] * count
    distributed.all_gather_object(found, (len(rows), _digest_of_texts(rows), remembered is not None))
    for other, (length, digest, _) in enumerate(found):
        if (length, digest) != found[0][:2]:
            raise ValueError(
                f"the processes read different data: process 0 has {found[0][0]} rows, process {other} {length}, with "
                "other names or transcripts: is the dataset the same on every machine?"
            )
    if all(is_remembered for _, _, is_remembered in found):
        return remembered
    mine = _measure(rows, range(rank, len(rows), count), sampling_rate, decode, show_progress and rank == 0, label)
    distributed.all_gather_object(found, mine)
    measured: list[Measurement] = [Measurement()] * len(rows)
    for other, share in enumerate(found):
        measured[other::count] = share
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        _remember(key, measured)
    return measured


def _measure(
    rows: Rows, places: range, sampling_rate: int, decode: bool, show_progress: bool, label: str
) -> list[Measurement]:
    if not decode and _has_column(rows, "duration") and not _has_column(rows, PART):
        durations = rows["duration"][:]
        if all(is_duration(durations[place]) for place in places):  # reading whole rows would load their audio
            return [Measurement(float(durations[place])) for place in places]

    def one(place: int) -> Measurement:
        try:
            if not decode:
                return Measurement(row_duration(rows[place]))
            recording = row_recording(rows[place], sampling_rate=sampling_rate)
        except AudioError as error:
            return Measurement(problem=str(error))
        problem = "; ".join(recording.damage) or None
        return Measurement(len(recording.waveform) / sampling_rate, problem, list(recording.remarks))

    # By number, not by row: the pool takes all items at once, and rows may contain audio.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        working = pool.map(one, places)
        return list(tqdm(working, total=len(places), desc=label, unit="file", disable=not show_progress))


def identity(rows: Rows, *, sampling_rate: int) -> str | None:
    """Return a hash of everything that decoding `rows` depends on; None if unknown, as for audio only in memory."""
    if not isinstance(rows, datasets.Dataset):
        return None
    digest = hashlib.blake2b(digest_size=16)

    def add(*values: object) -> None:
        digest.update(repr(values).encode() + b"\n")

    add(sampling_rate, av.__version__, soundfile.__version__, soxr.__version__)
    for module in (audio, columns, containers, media, mixing, timeline, sources):  # changed code, changed results
        digest.update(Path(module.__file__).read_bytes())
    stored = rows.data.column("audio")
    has_bytes, paths = pc.is_valid(pc.struct_field(stored, "bytes")), pc.struct_field(stored, "path")
    if ARRAY in rows.column_names or pc.any(has_bytes).as_py():
        blocks = getattr(rows.data, "blocks", [[rows.data]])
        if any(_holds_audio(block) for line in blocks for block in line):
            return None
        for name in sorted({file["filename"] for file in rows.cache_files}):
            add(name, _stamp(name))
    values = [has_bytes, paths] + ([rows.data.column(PART)] if PART in rows.column_names else [])
    if rows._indices is not None:  # rows selected from a larger dataset
        indices = rows._indices.column(0)
        values = [column.take(indices) for column in values]
        values.append(indices)
    for column in values:
        add(column.to_pylist())
    for name in sorted(set(values[1].filter(pc.invert(values[0])).drop_null().to_pylist())):
        add(os.path.abspath(name), _stamp(name))
    return digest.hexdigest()


def _holds_audio(block: datasets.table.Table) -> bool:
    """Return whether a block of a table exists only in memory and contains recordings."""
    if not isinstance(block, datasets.table.InMemoryTable):
        return False
    in_audio = "audio" in block.column_names and pc.any(pc.is_valid(pc.struct_field(block.column("audio"), "bytes")))
    return bool(ARRAY in block.column_names or (in_audio and in_audio.as_py()))


def _stamp(name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _digest_of_texts(rows: Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("utterance_id", "text"):
        digest.update(repr(rows[name][:] if _has_column(rows, name) else [row[name] for row in rows]).encode())
    return digest.hexdigest()


def _has_column(rows: Rows, name: str) -> bool:
    return isinstance(rows, datasets.Dataset) and name in rows.column_names


def _path(key: str) -> Path:
    return Path(HF_HOME) / "hf_asr" / "measured" / f"{key}.json"


def _recall(key: str | None) -> list[Measurement] | None:
    if key is None:
        return None
    try:
        stored = json.loads(_path(key).read_text(encoding="utf-8"))
        problems, remarks = stored["problems"], stored["remarks"]
        return [
            Measurement(seconds, problems.get(str(place)), remarks.get(str(place), []))
            for place, seconds in enumerate(stored["seconds"])
        ]
    except (OSError, ValueError, KeyError):
        return None


def _remember(key: str | None, measured: list[Measurement]) -> None:
    if key is None:
        return
    stored = {
        "seconds": [item.seconds for item in measured],
        "problems": {place: item.problem for place, item in enumerate(measured) if item.problem is not None},
        "remarks": {place: item.remarks for place, item in enumerate(measured) if item.remarks},
    }
    try:
        _path(key).parent.mkdir(parents=True, exist_ok=True)
        write_text(_path(key), json.dumps(stored))
    except OSError as error:
        logger.info(f"the durations of the recordings are not cached: {error}")
