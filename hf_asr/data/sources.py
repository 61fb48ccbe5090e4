"""One way in for every source: a Hub id, a folder, a manifest, shards or a saved dataset becomes a `datasets` dataset.

Whatever the source, the columns are `audio` ({"bytes", "path"}, not decoded), `text`, `utterance_id`, and the source's
own others; `read_row` gives a row's waveform. Nothing here decodes audio or needs FFmpeg
(`load_dataset("audiofolder", …)` would).
"""

import difflib
import glob
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np

from .audio import AudioError, audio_duration, read_audio
from .corpora import SourceError, has_pairs, read_data_list, read_kaldi, read_pairs, read_tar

Rows = datasets.Dataset | datasets.IterableDataset
# Reads a split, as a stream or not, and tells the folder that its paths are relative to, if they are.
Reader = Callable[[bool], tuple[Rows, Path | None]]

MANIFESTS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
SHARDS = (".parquet", ".tar")
SPLIT_WORDS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test", "testing")


def split_names(dataset_name: str, *, config_name: str | None = None) -> list[str]:
    """The splits that `dataset_name` has.

    Raises:
        SourceError: There is no such dataset.
    """
    local = _local_splits(dataset_name)
    if local is not None:
        return list(local)
    try:
        return datasets.get_dataset_split_names(dataset_name, config_name)
    except Exception as error:  # the Hub's client raises a dozen classes
        raise SourceError(f"{dataset_name} is neither a local path nor a dataset on the Hub: {error}") from error


def load_source(
    dataset_name: str,
    *,
    split: str,
    config_name: str | None = None,
    audio_column: str = "audio",
    text_column: str = "text",
    streaming: bool = False,
) -> Rows:
    """A split of a dataset, with the columns this module promises; an `IterableDataset` when `streaming`.

    Paths in a folder's metadata (column `file_name`) or in a manifest are relative to the file that names them.

    Raises:
        SourceError: The dataset, the split or a column does not exist.
    """
    local = _local_splits(dataset_name)
    names = list(local) if local is not None else split_names(dataset_name, config_name=config_name)
    if split not in names:
        raise SourceError(
            f"{dataset_name} has no split {split!r}, it has: {', '.join(names)}; "
            "choose with --train_split_name and --eval_split_name"
        )
    if local is None:
        rows, root = datasets.load_dataset(dataset_name, config_name, split=split, streaming=streaming), None
    else:
        rows, root = local[split](streaming)
    # A stream may not know its columns before its first row.
    columns = rows.column_names or list(next(iter(rows), {}))
    if audio_column == "audio" and "audio" not in columns and "file_name" in columns:
        audio_column = "file_name"
    for argument, column in (("audio_column_name", audio_column), ("text_column_name", text_column)):
        if column not in columns:
            close = difflib.get_close_matches(column, columns, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise SourceError(
                f"{dataset_name} has no column {column!r}{hint}, it has: {', '.join(columns)}; choose with --{argument}"
            )
    if rows.features is not None and isinstance(rows.features[audio_column], datasets.Audio):
        rows = rows.cast_column(audio_column, datasets.Audio(decode=False))
    return _with_promised_columns(rows, root, audio_column, text_column)


def read_row(row: dict, *, sampling_rate: int, max_seconds: float = float("inf")) -> np.ndarray:
    """A row's waveform, float32 (samples,), mono at `sampling_rate` Hz.

    Raises:
        AudioError: It cannot be read, or is longer than `max_seconds`; the message says why.
    """
    part = {"start": row.get("start"), "end": row.get("end"), "max_seconds": max_seconds}
    return read_audio(_stored(row), sampling_rate=sampling_rate, **part)


def row_duration(row: dict) -> float:
    """Seconds, without decoding: of the segment, of the `duration` column, or by the file's header.

    Raises:
        AudioError: Nothing tells it.
    """
    if row.get("start") is not None and row.get("end") is not None:
        return row["end"] - row["start"]
    if isinstance(row.get("duration"), int | float):
        return float(row["duration"])
    return audio_duration(_stored(row)) - (row.get("start") or 0.0)


def _stored(row: dict) -> str | bytes:
    """What `read_audio` takes: the bytes, those of a file inside a tar shard among them, or else the path."""
    audio = row["audio"]
    if audio["bytes"] is not None or row.get("size") is None:
        return audio["path"] if audio["bytes"] is None else audio["bytes"]
    try:
        with open(audio["path"], "rb") as shard:
            shard.seek(row["offset"])
            return shard.read(row["size"])
    except OSError as error:
        raise AudioError(str(error)) from error


def _local_splits(dataset_name: str) -> dict[str, Reader] | None:
    """A reader for each split of something on this machine; None for what can only be a Hub id."""
    path = Path(dataset_name).expanduser()
    if path.is_dir():
        return _splits_of_folder(path)
    if any(character in dataset_name for character in "*?["):
        files = [Path(name) for name in sorted(glob.glob(str(path)))]
        if not files:
            raise SourceError(f"{dataset_name}: no file matches")
        return _splits_of_shards(files)
    if path.is_file():
        return _splits_of_file(path)
    if path.suffix in (*MANIFESTS, *SHARDS, ".list") or dataset_name[0] in "./~" or dataset_name.count("/") > 1:
        raise SourceError(f"{dataset_name} does not exist")
    return None


def _splits_of_folder(path: Path) -> dict[str, Reader]:
    if (path / "dataset_info.json").is_file():
        return {"train": partial(_read_saved, path, None)}
    if (path / "dataset_dict.json").is_file():
        return {name: partial(_read_saved, path, name) for name in datasets.load_from_disk(str(path))}
    reader = _reader_of_folder(path)
    if reader is not None:
        return {"train": reader}
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    readers = {folder.name: reader for folder in folders if (reader := _reader_of_folder(folder)) is not None}
    if readers:
        return readers
    shards = sorted(file for file in path.rglob("*") if file.suffix in SHARDS)
    if shards:
        return _splits_of_shards(shards)
    # Folders of folders mean splits only if they are called so; else they are speakers or days.
    named = {folder.name: partial(_read_rows, read_pairs, folder) for folder in folders if folder.name in SPLIT_WORDS}
    if any(has_pairs(path / name) for name in named):
        return named
    if has_pairs(path):
        return {"train": partial(_read_rows, read_pairs, path)}
    raise SourceError(
        f"{path} holds nothing that is known, neither itself nor in a folder a split: metadata.jsonl or metadata.csv, "
        "wav.scp and text, data.list, .parquet or .tar shards, or recordings with a .txt of the same name beside them"
    )


def _reader_of_folder(folder: Path) -> Reader | None:
    for end in MANIFESTS:
        if (folder / f"metadata{end}").is_file():
            return partial(_read_manifest, folder / f"metadata{end}")
    if (folder / "wav.scp").is_file() and (folder / "text").is_file():
        return partial(_read_rows, read_kaldi, folder)
    if (folder / "data.list").is_file():
        return partial(_read_rows, read_data_list, folder / "data.list")
    return None


def _splits_of_file(path: Path) -> dict[str, Reader]:
    if path.suffix in SHARDS:
        return _splits_of_shards([path])
    if path.suffix == ".list":
        return {"train": partial(_read_rows, read_data_list, path)}
    rows, _ = _read_manifest(path, False)
    if "split" not in rows.column_names:
        return {"train": partial(_read_manifest, path)}
    return {name: partial(_read_manifest, path, split=name) for name in sorted(set(rows["split"]))}


def _splits_of_shards(files: Sequence[Path]) -> dict[str, Reader]:
    """Shards belong to the split that the beginning of their name, or their folder, is called; else to train."""
    splits: dict[str, list[str]] = {}
    for file in files:
        stem = re.sub(r"[-_.]?\d+(-of-\d+)?$", "", file.stem)
        name = next((word for word in (stem, file.parent.name) if word in SPLIT_WORDS), "train")
        splits.setdefault(name, []).append(str(file))
    return {name: partial(_read_shards, shards) for name, shards in splits.items()}


def _read_saved(path: Path, split: str | None, streaming: bool) -> tuple[Rows, None]:
    saved = datasets.load_from_disk(str(path))
    return _as_stream(saved if split is None else saved[split], streaming), None


def _read_rows(read: Callable[[Path], list[dict]], path: Path, streaming: bool) -> tuple[Rows, None]:
    rows = read(path)
    if not rows:
        raise SourceError(f"{path} names no recording")
    columns = dict.fromkeys(key for row in rows for key in row)
    table = datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in columns})
    return _as_stream(table, streaming), None


def _read_shards(files: list[str], streaming: bool) -> tuple[Rows, None]:
    suffixes = {Path(file).suffix for file in files}
    if len(suffixes) > 1:
        raise SourceError(f"both .parquet and .tar shards in one split: {files[0]} …")
    if suffixes == {".parquet"}:
        return datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming), None
    if streaming:
        return datasets.IterableDataset.from_generator(_tar_rows, gen_kwargs={"files": files}), None
    return _read_rows(_tar_rows, files, False)


def _tar_rows(files: Sequence[str]) -> list[dict]:
    return [row for file in files for row in read_tar(Path(file))]


def _read_manifest(path: Path, streaming: bool, *, split: str | None = None) -> tuple[Rows, Path]:
    kind = MANIFESTS.get(path.suffix)
    if kind is None:
        raise SourceError(f"{path} is no manifest: {', '.join((*MANIFESTS, '.list', *SHARDS))} are read")
    # A transcript "null" is a word, not a missing value.
    options = {"sep": "\t" if path.suffix == ".tsv" else ",", "keep_default_na": False} if kind == "csv" else {}
    try:
        rows = datasets.load_dataset(kind, data_files=str(path), split="train", **options)
    except datasets.exceptions.DatasetGenerationError as error:
        raise SourceError(f"{path} cannot be read as {path.suffix[1:]}: {error.__cause__ or error}") from error
    if split is not None:
        rows = rows.filter(lambda name: name == split, input_columns="split")
    return _as_stream(rows, streaming), path.parent


def _as_stream(rows: datasets.Dataset, streaming: bool) -> Rows:
    return rows.to_iterable_dataset() if streaming else rows


def _with_promised_columns(rows: Rows, root: Path | None, audio_column: str, text_column: str) -> Rows:
    def promise(batch: dict, places: list[int]) -> dict:
        promised: dict[str, list] = {"audio": [], "text": [], "utterance_id": []}
        names = batch.get("utterance_id") or batch.get("id") or [None] * len(places)
        for audio, text, name, place in zip(batch[audio_column], batch[text_column], names, places, strict=True):
            stored, path = (audio["bytes"], audio["path"]) if isinstance(audio, dict) else (None, str(audio))
            name = path or place if name is None else name
            if root is not None and stored is None:
                path = os.path.join(root, path)
            promised["audio"].append({"bytes": stored, "path": path})
            promised["text"].append("" if text is None else str(text))
            promised["utterance_id"].append(str(name))
        return promised

    removed = [name for name in dict.fromkeys((audio_column, text_column)) if name not in ("audio", "text")]
    if isinstance(rows, datasets.IterableDataset):
        return rows.map(promise, batched=True, batch_size=16, with_indices=True, remove_columns=removed)
    features = {
        **{name: feature for name, feature in rows.features.items() if name not in (audio_column, text_column)},
        "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "text": datasets.Value("string"),
        "utterance_id": datasets.Value("string"),
    }
    return rows.map(
        promise,
        batched=True,
        with_indices=True,
        remove_columns=removed,
        features=datasets.Features(features),
        load_from_cache_file=False,
        keep_in_memory=root is not None,  # paths only
        desc="Reading rows",
    )
