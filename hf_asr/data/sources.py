"""One way in for every source: a Hub id, a folder, a manifest, shards or a saved dataset becomes a `datasets` dataset.

Whatever the source, the columns are `audio` ({"bytes", "path"}, not decoded), `text`, `utterance_id` (each a different
one), `audio_part` where a row is less than its file, and the source's own others; `read_row` gives a row's waveform.
Nothing here decodes audio, copies it, or needs FFmpeg (`load_dataset("audiofolder", …)` would).
"""

import difflib
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .audio import AudioError, Recording, audio_duration, read_array, read_recording
from .folders import Reader, Rows, local_splits
from .hub_files import ADDRESS, read_address, splits_on_hub
from .manifests import AUDIO_COLUMNS, TEXT_COLUMNS, as_text, first_known
from .rows import (
    ARRAY,
    PART,
    PART_FEATURES,
    SourceError,
    join_path,
    names_in,
    part,
    with_column,
    without_repeats,
)

logger = logging.getLogger("hf_asr")

MEDIA = datasets.Audio | datasets.Image | datasets.Video
AUDIO = datasets.Audio(decode=False)
ARRAY_FIELDS = {"array", "sampling_rate"}


def split_names(dataset_name: str, *, config_name: str | None = None, streaming: bool = False) -> list[str]:
    """Return the splits that `dataset_name` has; when `streaming`, without downloading its audio.

    Raises:
        SourceError: There is no such dataset.
    """
    return list(_splits(dataset_name, config_name, streaming=streaming))


def load_source(
    dataset_name: str,
    *,
    split: str,
    config_name: str | None = None,
    audio_column: str = "audio",
    text_column: str = "text",
    streaming: bool = False,
) -> Rows:
    """Return a split of a dataset, with the columns this module promises; an `IterableDataset` when `streaming`.

    Paths in a folder's metadata or in a manifest are relative to the file that names them. Where there is no column of
    the default name, the names of other toolkits are tried (see `manifests`).

    Raises:
        SourceError: The dataset, the split or a column does not exist, or holds no audio or no text.
    """
    splits = _splits(dataset_name, config_name, streaming=streaming)
    if split not in splits:
        raise SourceError(
            f"{dataset_name} has no split {split!r}, it has: {', '.join(splits)}; "
            "choose with --train_split_name and --eval_split_name"
        )
    rows, root = splits[split](streaming)
    # A stream may not know its columns before its first row.
    columns = rows.column_names or list(next(iter(rows), {}))
    audio_column = _column(dataset_name, columns, audio_column, known=AUDIO_COLUMNS, argument="audio_column_name")
    text_column = _column(dataset_name, columns, text_column, known=TEXT_COLUMNS, argument="text_column_name")
    if isinstance(rows, datasets.IterableDataset):
        if any(map(_holds_media, (rows.features or {}).values())):
            rows = rows.cast(datasets.Features(_not_decoded(dict(rows.features))))
        return _promised_stream(rows, root, audio_column, text_column)
    for name, feature in rows.features.items():
        if isinstance(feature, MEDIA):
            rows = rows.cast_column(name, type(feature)(decode=False))  # of a second column, too
        elif _holds_media(feature) or (name in (PART, ARRAY) and not _is_own(name, feature)):
            logger.info(f"{dataset_name}: column {name!r} is left out: it cannot be read here")
            rows = rows.remove_columns(name)
    return _promised_table(dataset_name, rows, root, audio_column, text_column)


def read_row(row: dict, *, sampling_rate: int, max_seconds: float = float("inf")) -> np.ndarray:
    """Return a row's waveform, float32 (samples,), mono at `sampling_rate` Hz.

    Raises:
        AudioError: It cannot be read, or is longer than `max_seconds`; the message says why.
    """
    return row_recording(row, sampling_rate=sampling_rate, max_seconds=max_seconds).waveform


def row_recording(row: dict, *, sampling_rate: int, max_seconds: float = float("inf")) -> Recording:
    """Return a row's waveform with what is wrong with its recording.

    Raises:
        AudioError: It cannot be read, or is longer than `max_seconds`; the message says why.
    """
    meant = row.get(PART) or {}
    options = {name: meant.get(name) for name in ("start", "end", "channel")}
    options |= {"sampling_rate": sampling_rate, "max_seconds": max_seconds}
    decoded = row.get(ARRAY)
    if decoded is not None and decoded["array"] is not None:
        return read_array(np.asarray(decoded["array"], dtype=np.float32), decoded["sampling_rate"], **options)
    return read_recording(_stored(row), **options)


def row_duration(row: dict) -> float:
    """Return seconds, without decoding: of the part, of the `duration` column, or by the file's header.

    Raises:
        AudioError: Nothing says it.
    """
    meant, duration = row.get(PART) or {}, row.get("duration")
    if meant.get("problem"):
        raise AudioError(meant["problem"])
    if meant.get("start") is not None and meant.get("end") is not None:
        return meant["end"] - meant["start"]
    if is_duration(duration) and not meant.get("start"):
        return float(duration)
    decoded = row.get(ARRAY)
    if decoded is not None and decoded["array"] is not None:
        return len(decoded["array"]) / decoded["sampling_rate"]
    return audio_duration(_stored(row)) - (meant.get("start") or 0.0)


def is_duration(value: Any) -> bool:
    """Return whether a value of a column `duration` says how long a recording is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) and value > 0


def _stored(row: dict) -> str | bytes:
    """What `read_recording` takes: the bytes, those of a file inside a tar shard among them, or else the path."""
    audio, meant = row["audio"] or {"bytes": None, "path": None}, row.get(PART) or {}
    if meant.get("problem"):
        raise AudioError(meant["problem"])
    if audio["bytes"] is not None:
        return audio["bytes"]
    if not audio["path"]:
        raise AudioError("the row names no recording: it has neither a path nor audio")
    try:
        if audio["path"].startswith(ADDRESS):
            return read_address(audio["path"])
        if meant.get("size") is None:
            return audio["path"]
        with open(audio["path"], "rb") as shard:
            shard.seek(meant["offset"])
            return shard.read(meant["size"])
    except OSError as error:
        raise AudioError(str(error)) from error


def _splits(dataset_name: str, config_name: str | None, *, streaming: bool) -> dict[str, Reader]:
    local = local_splits(dataset_name)
    return splits_on_hub(dataset_name, config_name, streaming=streaming) if local is None else local


def _column(dataset_name: str, columns: Sequence[str], name: str, *, known: Sequence[str], argument: str) -> str:
    """The column that is asked for, or where that is the default, one that other toolkits call otherwise."""
    if name in columns:
        return name
    if name == known[0] and (found := first_known(columns, known)) is not None:
        logger.info(f"{dataset_name}: column {found!r} is taken as {name!r}; another one: --{argument}")
        return found
    close = difflib.get_close_matches(name, columns, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise SourceError(
        f"{dataset_name} has no column {name!r}{hint}, it has: {', '.join(columns)}; choose with --{argument}"
    )


def _promised_table(
    dataset_name: str, rows: datasets.Dataset, root: str | None, audio_column: str, text_column: str
) -> datasets.Dataset:
    """Columns of text are made anew in memory; those that hold audio stay where they are."""
    names = rows["utterance_id"][:] if "utterance_id" in rows.column_names else None
    names = rows["id"][:] if names is None and "id" in rows.column_names else names
    feature = rows.features[text_column]
    is_label = isinstance(feature, datasets.ClassLabel)
    texts = list(map(as_text, names_in(rows, text_column) if is_label else rows[text_column]))
    if None in texts:
        raise SourceError(f"{dataset_name}: column {text_column!r} holds {feature}: text is expected")
    if text_column not in ("text", audio_column):
        rows = rows.remove_columns(text_column)
    rows = _audio_first(dataset_name, rows, root, audio_column)
    paths = _paths(rows)
    names = [None] * len(rows) if names is None else names
    names = [
        str(path or place if name is None else name)
        for place, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    rows = with_column(rows, "text", texts)
    return with_column(rows, "utterance_id", without_repeats(names))


def _holds_media(feature: Any) -> bool:
    """Whether an Audio, Image or Video is somewhere inside a column, which would be decoded."""
    if isinstance(feature, dict):
        return any(map(_holds_media, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_holds_media, feature))
    return isinstance(feature, MEDIA) or ("feature" in vars(feature) and _holds_media(feature.feature))


def _not_decoded(feature: Any) -> Any:
    """The same feature with every Audio, Image and Video inside it left as it is stored."""
    if isinstance(feature, dict):
        return {name: _not_decoded(inner) for name, inner in feature.items()}
    if isinstance(feature, MEDIA):
        return type(feature)(decode=False)
    return type(feature)(_not_decoded(feature.feature)) if _holds_media(feature) else feature


def _is_own(name: str, feature: Any) -> bool:
    """Whether a column is what this package writes under that name."""
    return isinstance(feature, dict) and set(feature) == (set(PART_FEATURES) if name == PART else ARRAY_FIELDS)


def _audio_first(dataset_name: str, rows: datasets.Dataset, root: str | None, audio_column: str) -> datasets.Dataset:
    """With `audio` as {"bytes", "path"}; what is decoded already becomes the column `ARRAY` as it is.

    Bytes are not copied: a new struct is made around them, chunk by chunk.
    """
    kind = rows.features[audio_column]
    fields = set(kind) if isinstance(kind, dict) else {"bytes", "path"} if isinstance(kind, datasets.Audio) else set()
    dtype = kind.dtype if isinstance(kind, datasets.Value) else ""
    if not (fields & {"bytes", "path"} or fields >= ARRAY_FIELDS or dtype.endswith(("string", "binary"))):
        raise SourceError(
            f"{dataset_name}: column {audio_column!r} holds {kind}: a path, an Audio feature, bytes and "
            "path, or array and sampling_rate are expected"
        )
    if audio_column != "audio":
        rows = rows.remove_columns("audio") if "audio" in rows.column_names else rows
        rows = rows.rename_column(audio_column, "audio")
    if fields >= ARRAY_FIELDS:
        rows = rows.remove_columns(ARRAY) if ARRAY in rows.column_names else rows
        return _with_audio(rows.rename_column("audio", ARRAY), None, [""] * len(rows))
    if dtype.endswith("binary"):
        return _with_audio(rows, rows.data.column("audio"), [None] * len(rows))
    paths = rows["audio"][:] if dtype else _paths(rows) if "path" in fields else [None] * len(rows)
    stored = _field(rows, "bytes") if "bytes" in fields else None
    is_stored = [False] * len(rows) if stored is None else pc.is_valid(stored).to_pylist()
    joined = [path if here else join_path(root, path or "") for path, here in zip(paths, is_stored, strict=True)]
    if fields == {"bytes", "path"} and joined == paths:
        return rows.cast_column("audio", AUDIO)
    return _with_audio(rows, stored, joined)


def _with_audio(rows: datasets.Dataset, stored: pa.ChunkedArray | None, paths: list[str | None]) -> datasets.Dataset:
    """With `audio` made of bytes, none if not given, and paths."""
    if stored is None:
        stored = pa.chunked_array([pa.nulls(len(paths), pa.binary())])
    chunks, start = [], 0
    for chunk in stored.chunks:
        of_chunk = pa.array(paths[start : start + len(chunk)], pa.string())
        chunks.append(pa.StructArray.from_arrays([chunk.cast(pa.binary()), of_chunk], names=["bytes", "path"]))
        start += len(chunk)
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    audio = pa.chunked_array(chunks, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return with_column(rows, "audio", audio, feature=struct).cast_column("audio", AUDIO)


def _field(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A field of all rows' `audio`, without a copy of it."""
    return pc.struct_field(rows.data.column("audio"), name)


def _paths(rows: datasets.Dataset) -> list[str | None]:
    return _field(rows, "path").to_pylist()


def _promised_stream(
    rows: datasets.IterableDataset, root: str | None, audio_column: str, text_column: str
) -> datasets.IterableDataset:
    features = rows.features or {}
    feature = features.get(text_column)
    has_parts = PART not in features or _is_own(PART, features[PART])
    seen: Counter[str] = Counter()

    def promise(batch: dict, places: list[int]) -> dict:
        if places[0] == 0:
            seen.clear()  # a new pass, or a shard: ids that repeat in another one are not known of
        promised: dict[str, list] = {"audio": [], "text": [], PART: [None] * len(places)}
        if has_parts and PART in batch:
            promised[PART] = list(batch[PART])
        decoded, names = [], batch.get("utterance_id") or batch.get("id") or [None] * len(places)
        ids = []
        for number, (audio, text, name) in enumerate(zip(batch[audio_column], batch[text_column], names, strict=True)):
            stored, array = _stored_audio(audio, root)
            if isinstance(feature, datasets.ClassLabel) and text is not None:
                text = feature.int2str(text) if text >= 0 else None
            text = as_text(text)
            if text is None:
                promised[PART][number] = part(problem=f"its transcript is no text (column {text_column!r})")[PART]
            promised["audio"].append(stored)
            promised["text"].append(text or "")
            decoded.append(array)
            ids.append(str(name if name is not None else stored["path"] or _digest(stored, array) or places[number]))
        if ARRAY in batch or any(array is not None for array in decoded):
            promised[ARRAY] = decoded
        return promised | {"utterance_id": without_repeats(ids, seen)}

    removed = [name for name in dict.fromkeys((audio_column, text_column)) if name not in ("audio", "text")]
    return rows.map(promise, batched=True, batch_size=16, with_indices=True, remove_columns=removed)


def _digest(stored: dict, array: dict | None) -> str | None:
    """A name for a recording that has none: its number counts anew in each shard of a stream."""
    audio = stored["bytes"] if array is None else np.asarray(array["array"], dtype=np.float32).tobytes()
    return None if audio is None else hashlib.blake2b(audio, digest_size=8).hexdigest()


def _stored_audio(audio: Any, root: str | None) -> tuple[dict, dict | None]:
    """{"bytes", "path"} and {"array", "sampling_rate"}, of which a row has one."""
    if isinstance(audio, bytes):
        return {"bytes": audio, "path": None}, None
    if isinstance(audio, dict) and audio.get("array") is not None:
        return {"bytes": None, "path": ""}, {name: audio[name] for name in ("array", "sampling_rate")}
    if isinstance(audio, dict):
        stored, path = audio.get("bytes"), audio.get("path")
        return {"bytes": stored, "path": join_path(root, path) if path and stored is None else path}, None
    return {"bytes": None, "path": join_path(root, str(audio or ""))}, None
