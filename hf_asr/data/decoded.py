"""Decode the training recordings once, into a file that all epochs, processes and later runs read from.

A compressed recording takes much longer to decode than to augment, and a spliced example decodes several of them. The
file is in Hugging Face's cache folder (`HF_HOME`), under a hash of everything that the samples depend on.
"""

import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from .audio import AudioError
from .measuring import identity
from .rows import ARRAY, PART, PART_FEATURES, part, with_column
from .sources import read_row

logger = logging.getLogger("hf_asr")

BATCH = 100  # recordings that are decoded before they are written
UNUSED_DAYS = 7  # after which a file is deleted, when another one is written
FEATURES = datasets.Features(
    {
        ARRAY: {"array": datasets.List(datasets.Value("float32")), "sampling_rate": datasets.Value("int64")},
        "problem": datasets.Value("string"),  # why a recording has no samples
    }
)


def decoded_once(rows: datasets.Dataset, sampling_rate: int, *, seconds: float) -> datasets.Dataset:
    """Return `rows` with decoded audio from a file that is read through memory mapping, and written if it is missing.

    `read_row` returns the same samples for both, mono at `sampling_rate` Hz. If the recordings are only in memory or
    the disk is too small, a log message says so, and `rows` are returned unchanged.

    Args:
        seconds: Duration of all recordings.
    """
    key = identity(rows, sampling_rate=sampling_rate)
    if key is None:
        logger.info("cache_audio has no effect: the recordings are in memory only")
        return rows
    path = Path(HF_HOME) / "hf_asr" / "decoded" / f"{key}.arrow"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (decoded := _opened(path, len(rows))) is None:
            _delete_unused(path.parent)
            needed, free = 4 * sampling_rate * seconds, shutil.disk_usage(path.parent).free  # float32
            if 2 * needed > free:
                logger.warning(
                    f"cache_audio has no effect: {path.parent} has {free / 1e9:.1f} GB free, twice the "
                    f"{needed / 1e9:.1f} GB of the decoded recordings are required; set HF_HOME to a larger disk"
                )
                return rows
            _write(rows, path, sampling_rate=sampling_rate)
            logger.info(f"the decoded recordings are in {path} ({path.stat().st_size / 1e9:.1f} GB)")
            decoded = datasets.Dataset.from_file(str(path))
        os.utime(path)
    except OSError as error:
        logger.warning(f"cache_audio has no effect: {path} cannot be written or read: {error}")
        return rows
    return _joined(rows, decoded)


def _opened(path: Path, count: int) -> datasets.Dataset | None:
    """Return a file of `count` recordings; None if it is missing or damaged."""
    try:
        found = datasets.Dataset.from_file(str(path))
    except (OSError, pa.ArrowInvalid):
        return None
    return found if len(found) == count else None


def _write(rows: datasets.Dataset, path: Path, *, sampling_rate: int) -> None:
    """Write the samples of all rows; a recording that cannot be read has none, but a reason."""

    def decode(place: int) -> tuple[np.ndarray, str | None]:
        try:
            return read_row(rows[place], sampling_rate=sampling_rate), None
        except AudioError as error:
            return np.zeros(0, np.float32), str(error)

    def decode_batch(batch: dict) -> dict:
        waveforms, problems = zip(*pool.map(decode, batch["place"]), strict=True)
        progress.update(len(waveforms))
        return {
            ARRAY: [{"array": waveform, "sampling_rate": sampling_rate} for waveform in waveforms],
            "problem": list(problems),
        }

    # The commands switch the progress bars of `datasets` off.
    progress = tqdm(total=len(rows), desc="Decoding", unit="file", leave=False)
    with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        places = datasets.Dataset.from_dict({"place": range(len(rows))})
        places.map(
            decode_batch,
            batched=True,
            batch_size=BATCH,
            writer_batch_size=BATCH,
            remove_columns=["place"],
            features=FEATURES,
            cache_file_name=str(path),  # written beside it, then renamed
            load_from_cache_file=False,  # which may be damaged
            new_fingerprint=path.stem,  # the function itself cannot be hashed
        )


def _joined(rows: datasets.Dataset, decoded: datasets.Dataset) -> datasets.Dataset:
    """Return `rows` with decoded audio instead of encoded audio and parts of files.

    For messages, the paths remain, and the reasons why recordings cannot be read.
    """
    paths = pc.struct_field(rows.data.column("audio"), "path")
    if rows._indices is not None:
        paths = paths.take(rows._indices.column(0))
    others = rows.remove_columns([name for name in ("audio", PART, ARRAY) if name in rows.column_names])
    others = datasets.Dataset(datasets.table.InMemoryTable(others.with_format("arrow")[:]))  # only the selected rows
    audio = [{"bytes": None, "path": path} for path in paths.to_pylist()]
    problems = [problem and part(problem=problem)[PART] for problem in decoded["problem"]]
    joined = datasets.concatenate_datasets([others, decoded.remove_columns("problem")], axis=1)
    joined = with_column(joined, "audio", audio, feature=rows.features["audio"])
    joined = with_column(joined, PART, problems, feature=PART_FEATURES)
    return joined.with_format("numpy", columns=[ARRAY], output_all_columns=True)


def _delete_unused(folder: Path) -> None:
    """Delete the files that no run has read for `UNUSED_DAYS`."""
    for path in folder.glob("*.arrow"):
        if time.time() - path.stat().st_mtime > 86400 * UNUSED_DAYS:
            path.unlink(missing_ok=True)
            logger.info(f"deleted {path}: decoded recordings that were not used for {UNUSED_DAYS} days")
