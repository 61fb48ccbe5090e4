"""Load any source of recordings and transcripts: a Hub id, a folder, a manifest, shards or a saved dataset.

Every source becomes a `datasets` dataset with the same columns: `audio` ({"bytes", "path"}, not decoded), `text`,
`utterance_id` (unique), `audio_part` where a row is less than its file, and the source's other columns; `read_row`
returns the waveform of a row. Loading a source decodes and copies no audio and does not need FFmpeg
(`load_dataset("audiofolder", …)` would).
"""

import difflib
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from .audio import AudioError, LongRecording, Recording, audio_duration, read_array, read_or_open, read_recording
from .columns import standardize_stream, standardize_table
from .folders import Reader, Rows, local_splits
from .hub_files import ADDRESS, read_address, splits_on_hub
from .manifests import AUDIO_COLUMNS, TEXT_COLUMNS, first_known
from .rows import ARRAY, PART, SourceError

logger = logging.getLogger("hf_asr")


@dataclass(frozen=True)
class Source:
    """Name a dataset, and the splits and columns of it that are used.

    An instance lists its folder or repository once: create a new instance to see later changes.

    Args:
        name: Hub id, folder, manifest, shards or saved dataset.
        config_name: Configuration of a Hub dataset.
        train_split_name: Split to train on.
        eval_split_name: Split to score.
        audio_column_name: Column with the audio or its path. If the default is not there, the names that other toolkits
            use are tried (see `manifests`).
        text_column_name: Column with the transcript. The default has alternatives, too.
        weight: How often each row is used per epoch.
    """

    name: str
    config_name: str | None = None
    train_split_name: str = "train"
    eval_split_name: str = "validation"
    audio_column_name: str = "audio"
    text_column_name: str = "text"
    weight: int = 1

    def split_names(self, *, streaming: bool = False) -> list[str]:
        """Return the names of the splits; with `streaming`, without downloading audio.

        Raises:
            SourceError: The dataset does not exist.
        """
        return list(self._readers(streaming))

    def load(self, split: str, *, streaming: bool = False, needs_text: bool = True) -> Rows:
        """Return a split with the columns that every source has; with `streaming`, as an `IterableDataset`.

        Relative paths in a manifest or in a folder's metadata start from the file that contains them.

        Args:
            needs_text: False leaves the transcripts empty, whether the dataset has any or not.

        Raises:
            SourceError: The dataset, the split or a column does not exist, or contains no audio or no text.
        """
        readers = self._readers(streaming)
        if split not in readers:
            raise SourceError(
                f"{self.name} has no split {split!r}, it has: {', '.join(readers)}; "
                "choose another with train_split_name or eval_split_name"
            )
        rows, root = readers[split](streaming)
        # A stream may not know its columns before its first row.
        columns = rows.column_names or list(next(iter(rows), {}))
        options = {
            "root": root,
            "audio_column": self._column(columns, "audio_column_name", known=AUDIO_COLUMNS),
            "text_column": self._column(columns, "text_column_name", known=TEXT_COLUMNS) if needs_text else None,
        }
        if isinstance(rows, datasets.IterableDataset):
            return standardize_stream(rows, **options)
        return standardize_table(rows, dataset_name=self.name, **options)

    def _readers(self, streaming: bool) -> dict[str, Reader]:
        if streaming not in self._listed:
            local = local_splits(self.name)
            self._listed[streaming] = (
                splits_on_hub(self.name, self.config_name, streaming=streaming) if local is None else local
            )
        return self._listed[streaming]

    @functools.cached_property
    def _listed(self) -> dict[bool, dict[str, Reader]]:
        """Hold a reader for each split, by `streaming`: listing a large folder or a repository takes long."""
        return {}

    @functools.cached_property
    def _logged(self) -> set[str]:
        """Hold the logged messages, which loading a second split does not repeat."""
        return set()

    def _column(self, columns: Sequence[str], argument: str, *, known: Sequence[str]) -> str:
        """Return the column that `argument` names; if it is the default and not there, an alternative to it."""
        name = getattr(self, argument)
        if name in columns:
            return name
        if name == known[0] and (found := first_known(columns, known)) is not None:
            message = f"{self.name}: column {found!r} is used as {name!r}; choose another with {argument}"
            if message not in self._logged:
                logger.info(message)
                self._logged.add(message)
            return found
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise SourceError(
            f"{self.name} has no column {name!r}{hint}, it has: {', '.join(columns)}; choose one with {argument}"
        )


def read_row(row: dict, *, sampling_rate: int, max_seconds: float = float("inf")) -> np.ndarray:
    """Return the waveform of a row, float32 (samples,), mono at `sampling_rate` Hz.

    Raises:
        AudioError: The recording cannot be read or is longer than `max_seconds`; the message gives the reason.
    """
    return row_recording(row, sampling_rate=sampling_rate, max_seconds=max_seconds).waveform


def row_recording(
    row: dict, *, sampling_rate: int, max_seconds: float = float("inf"), opens_longer: bool = False
) -> Recording | LongRecording:
    """Return the waveform of a row together with the damage found in its recording.

    Args:
        opens_longer: Return a `LongRecording` for a file that is longer than `max_seconds`, instead of refusing it.

    Raises:
        AudioError: The recording cannot be read or is longer than `max_seconds`; the message gives the reason.
    """
    part = row.get(PART) or {}
    if part.get("problem"):
        raise AudioError(part["problem"])
    options = {name: part.get(name) for name in ("start", "end", "channel")}
    options |= {"sampling_rate": sampling_rate, "max_seconds": max_seconds}
    decoded = row.get(ARRAY)
    if decoded is not None and decoded["array"] is not None:
        if opens_longer:
            options["max_seconds"] = float("inf")  # its samples are in memory already
        rate = np.asarray(decoded["sampling_rate"])[()]  # in NumPy format, a row contains an array without dimensions
        return read_array(np.asarray(decoded["array"], dtype=np.float32), rate, **options)
    return (read_or_open if opens_longer else read_recording)(_stored(row), **options)


def row_duration(row: dict) -> float:
    """Return the seconds of a row without decoding: from its part, its `duration` column or the file's header.

    Raises:
        AudioError: The duration is not known, or the row has no recording.
    """
    part, duration = row.get(PART) or {}, row.get("duration")
    if part.get("problem"):
        raise AudioError(part["problem"])
    if part.get("start") is not None and part.get("end") is not None:
        return part["end"] - part["start"]
    if is_duration(duration) and not part.get("start"):
        return float(duration)
    decoded = row.get(ARRAY)
    if decoded is not None and decoded["array"] is not None:
        return len(decoded["array"]) / decoded["sampling_rate"]
    return audio_duration(_stored(row)) - (part.get("start") or 0.0)


def is_duration(value: Any) -> bool:
    """Return whether a value of a column `duration` is a usable number of seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) and value > 0


def _stored(row: dict) -> str | bytes:
    """Return what `read_recording` reads: the bytes of the row or of its file inside a tar shard, or else the path."""
    audio, part = row["audio"] or {"bytes": None, "path": None}, row.get(PART) or {}
    if audio["bytes"] is not None:
        return audio["bytes"]
    if not audio["path"]:
        raise AudioError("the row has no recording: neither a path nor audio")
    try:
        if audio["path"].startswith(ADDRESS):
            return read_address(audio["path"])
        if part.get("size") is None:
            return audio["path"]
        with open(audio["path"], "rb") as shard:
            shard.seek(part["offset"])
            return shard.read(part["size"])
    except OSError as error:
        raise AudioError(str(error)) from error
