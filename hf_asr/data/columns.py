"""Give the rows of every source the same columns: `audio`, `text`, `utterance_id`, and `audio_part` where needed."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .manifests import as_text
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


def standardize_table(
    rows: datasets.Dataset, *, root: str | None, audio_column: str, text_column: str | None, dataset_name: str
) -> datasets.Dataset:
    """Return a table with the columns of every source.

    Columns of text are created in memory; columns that contain audio are not copied.

    Args:
        root: Folder that relative audio paths start from.
        text_column: None leaves the transcripts empty.
        dataset_name: Name for messages.

    Raises:
        SourceError: A column does not contain what its name promises.
    """
    for name, feature in rows.features.items():
        if isinstance(feature, MEDIA):
            rows = rows.cast_column(name, type(feature)(decode=False))  # also of a second column
        elif _holds_media(feature) or (name in (PART, ARRAY) and not _is_own(name, feature)):
            logger.info(f"{dataset_name}: column {name!r} is left out: its type cannot be read")
            rows = rows.remove_columns(name)
    ids = next((rows[name][:] for name in ("utterance_id", "id") if name in rows.column_names), [None] * len(rows))
    texts = [""] * len(rows) if text_column is None else _texts(dataset_name, rows, text_column)
    if text_column not in (None, "text", audio_column):
        rows = rows.remove_columns(text_column)
    rows = _with_standard_audio(dataset_name, rows, root, audio_column)
    ids = [
        str(path or place if utterance_id is None else utterance_id)
        for place, (utterance_id, path) in enumerate(zip(ids, _paths(rows), strict=True))
    ]
    rows = with_column(rows, "text", texts)
    return with_column(rows, "utterance_id", without_repeats(ids))


def standardize_stream(
    rows: datasets.IterableDataset, *, root: str | None, audio_column: str, text_column: str | None
) -> datasets.IterableDataset:
    """Return a stream with the columns of every source; see `standardize_table`.

    A row whose transcript is not text gets a problem, because a stream cannot be checked before it is read.
    """
    if any(map(_holds_media, (rows.features or {}).values())):
        rows = rows.cast(datasets.Features(_not_decoded(dict(rows.features))))
    features = rows.features or {}
    standardize = _StandardizeBatch(
        root,
        audio_column,
        text_column,
        label=features.get(text_column),
        has_parts=PART not in features or _is_own(PART, features[PART]),
    )
    removed = [name for name in dict.fromkeys((audio_column, text_column)) if name not in ("audio", "text", None)]
    return rows.map(standardize, batched=True, batch_size=16, with_indices=True, remove_columns=removed)


@dataclass
class _StandardizeBatch:
    """Make the columns of every source out of a batch of a stream.

    A class and not a closure, because workers on macOS and Windows receive a pickle.
    """

    root: str | None
    audio_column: str
    text_column: str | None
    label: Any
    has_parts: bool
    seen: Counter[str] = field(default_factory=Counter)

    def __call__(self, batch: dict, places: list[int]) -> dict:
        if places[0] == 0:
            self.seen.clear()  # a new pass or a new shard: ids that repeat in another shard are not detected
        parts = list(batch[PART]) if self.has_parts and PART in batch else [None] * len(places)
        transcripts = [""] * len(places) if self.text_column is None else batch[self.text_column]
        texts = [_stream_text(text, self.label) for text in transcripts]
        for number, text in enumerate(texts):
            if text is None:
                parts[number] = part(problem=f"its transcript is not text (column {self.text_column!r})")[PART]
        audio = [_stored_audio(value, self.root) for value in batch[self.audio_column]]
        stored, arrays = [value for value, _ in audio], [array for _, array in audio]
        given = batch.get("utterance_id") or batch.get("id") or [None] * len(places)
        ids = [
            str(name if name is not None else value["path"] or _digest(value, array) or place)
            for name, (value, array), place in zip(given, audio, places, strict=True)
        ]
        columns = {"audio": stored, "text": [text or "" for text in texts], PART: parts}
        if ARRAY in batch or any(array is not None for array in arrays):
            columns[ARRAY] = arrays
        return columns | {"utterance_id": without_repeats(ids, self.seen)}


def _texts(dataset_name: str, rows: datasets.Dataset, text_column: str) -> list[str]:
    """Return the transcripts of a table; labels by their names."""
    feature = rows.features[text_column]
    is_label = isinstance(feature, datasets.ClassLabel)
    texts = list(map(as_text, names_in(rows, text_column) if is_label else rows[text_column]))
    if None in texts:
        raise SourceError(f"{dataset_name}: column {text_column!r} contains {feature}: text is expected")
    return texts


def _stream_text(text: Any, feature: Any) -> str | None:
    """Return the transcript of a row, a label by its name; None if it is not text."""
    if isinstance(feature, datasets.ClassLabel) and text is not None:
        text = feature.int2str(text) if text >= 0 else None
    return as_text(text)


def _holds_media(feature: Any) -> bool:
    """Return whether a column contains an Audio, Image or Video at any depth, which would be decoded."""
    if isinstance(feature, dict):
        return any(map(_holds_media, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_holds_media, feature))
    return isinstance(feature, MEDIA) or ("feature" in vars(feature) and _holds_media(feature.feature))


def _not_decoded(feature: Any) -> Any:
    """Return the same feature in which no Audio, Image or Video is decoded."""
    if isinstance(feature, dict):
        return {name: _not_decoded(inner) for name, inner in feature.items()}
    if isinstance(feature, MEDIA):
        return type(feature)(decode=False)
    return type(feature)(_not_decoded(feature.feature)) if _holds_media(feature) else feature


def _is_own(name: str, feature: Any) -> bool:
    """Return whether a column has the fields that this package writes under that name."""
    return isinstance(feature, dict) and set(feature) == (set(PART_FEATURES) if name == PART else ARRAY_FIELDS)


def _with_standard_audio(
    dataset_name: str, rows: datasets.Dataset, root: str | None, audio_column: str
) -> datasets.Dataset:
    """Return `rows` with `audio` as {"bytes", "path"}; audio that is already decoded becomes the column `ARRAY`.

    Bytes are not copied: a new struct refers to them, chunk by chunk.
    """
    kind = rows.features[audio_column]
    fields = set(kind) if isinstance(kind, dict) else {"bytes", "path"} if isinstance(kind, datasets.Audio) else set()
    dtype = kind.dtype if isinstance(kind, datasets.Value) else ""
    if not (fields & {"bytes", "path"} or fields >= ARRAY_FIELDS or dtype.endswith(("string", "binary"))):
        raise SourceError(
            f"{dataset_name}: column {audio_column!r} contains {kind}: expected a path, an Audio feature, bytes and "
            "path, or array and sampling_rate"
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
    """Return `rows` with an `audio` column of these bytes (null if `stored` is None) and paths."""
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
    """Return a field of `audio` of all rows, without copying it."""
    return pc.struct_field(rows.data.column("audio"), name)


def _paths(rows: datasets.Dataset) -> list[str | None]:
    return _field(rows, "path").to_pylist()


def _digest(stored: dict, array: dict | None) -> str | None:
    """Return a name for a recording without one: its number in the stream would start again in each shard."""
    audio = stored["bytes"] if array is None else np.asarray(array["array"], dtype=np.float32).tobytes()
    return None if audio is None else hashlib.blake2b(audio, digest_size=8).hexdigest()


def _stored_audio(audio: Any, root: str | None) -> tuple[dict, dict | None]:
    """Return {"bytes", "path"} and {"array", "sampling_rate"} of a row, one of which is empty."""
    if isinstance(audio, bytes):
        return {"bytes": audio, "path": None}, None
    if isinstance(audio, dict) and audio.get("array") is not None:
        return {"bytes": None, "path": ""}, {name: audio[name] for name in ("array", "sampling_rate")}
    if isinstance(audio, dict):
        stored, path = audio.get("bytes"), audio.get("path")
        return {"bytes": stored, "path": join_path(root, path) if path and stored is None else path}, None
    return {"bytes": None, "path": join_path(root, str(audio or ""))}, None
