"""Find the splits of a local folder, file or pattern, and a function that reads each."""

import glob
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePath

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import TRAINING, find_files
from .audio import AUDIO_SUFFIXES
from .layouts import has_pairs, is_ljspeech, read_data_list, read_kaldi, read_ljspeech, read_pairs
from .manifests import AUDIO_COLUMNS, MANIFESTS, first_known, read_manifest
from .rows import PART, SourceError, escaped, is_encodable, rows_to_dataset
from .shards import read_tar

logger = logging.getLogger("hf_asr")

Rows = datasets.Dataset | datasets.IterableDataset
# `reader(streaming) -> (rows, root)`; relative audio paths start from `root`.
Reader = Callable[[bool], tuple[Rows, str | None]]

SHARDS = (".parquet", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SPLIT_WORDS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test", "testing")
COMMON_VOICE_SPLITS = ("validated", "other", "invalidated")
UNKNOWN_SPLIT = "train"  # for a row whose `split` is null


def local_splits(dataset_name: str) -> dict[str, Reader] | None:
    """Return a reader for each split of a local path or pattern; None if the name can only be a Hub id.

    Raises:
        SourceError: The path does not exist, has no known layout, or is not UTF-8.
    """
    if not is_encodable(dataset_name):
        raise SourceError(f"{escaped(dataset_name)} is not UTF-8: rename the file or folder")
    path = Path(dataset_name).expanduser()
    if path.is_dir():
        return splits_of_folder(path)
    if path.is_file():
        return _splits_of_file(path)
    if any(character in dataset_name for character in "*?["):
        # Brackets are tried as part of the name first, because this is more frequent than a pattern.
        names = glob.glob(str(path).replace("[", "[[]")) or glob.glob(str(path))
        files = [Path(name) for name in sorted(names)]
        if not files:
            raise SourceError(f"{dataset_name}: no file matches this pattern")
        return _splits_of_shards(files, Path(re.split(r"[*?]", str(path))[0]).parent)
    known = (*MANIFESTS, *SHARDS, ".list")
    if path.suffix.lower() in known or dataset_name[0] in "./~" or dataset_name.count("/") > 1:
        raise SourceError(f"{dataset_name} does not exist")
    return None


def splits_of_folder(path: Path, *, root: str | None = None) -> dict[str, Reader]:
    """Return a reader for each split of a folder.

    Args:
        root: Folder or address of the recordings that manifests name; None if it is the folder of the manifest.

    Raises:
        SourceError: The folder has no known layout.
    """
    if (path / "dataset_info.json").is_file():
        return {"train": partial(_read_saved, path, None)}
    if (path / "dataset_dict.json").is_file():
        return {name: partial(_read_saved, path, name) for name in _load_saved(path)}
    if readers := _readers_of_folder(path, root):
        return readers
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {folder: _readers_of_folder(folder, f"{root}/{folder.name}" if root else None) for folder in folders}
    if not any(_is_shard(file) for file in path.iterdir()):
        for folder in folders:
            if not found[folder] and _is_split(folder.name):
                found[folder] = _readers_of_unnamed(folder)
    data = path / "data"  # a folder of splits, not a split
    if any(readers for folder, readers in found.items() if folder != data):
        found.pop(data, None)
        _warn_of_others(path, [folder for folder in folders if not found.get(folder)])
        return {
            folder.name if len(readers) == 1 else f"{folder.name}/{name}": reader
            for folder, readers in found.items()
            for name, reader in readers.items()
        }
    if readers := found.get(data):
        return readers
    if readers := _readers_of_unnamed(path):
        return readers
    if data.is_dir():
        return splits_of_folder(data, root=f"{root}/data" if root else None)
    raise SourceError(
        f"{path} has no known layout, nor does a folder in it that is named like a split. Known are: metadata.jsonl or "
        "metadata.csv, train.tsv or another manifest named like a split, wav.scp and text, data.list, .parquet or .tar "
        "shards, and recordings with a .txt of the same name beside them"
    )


def _readers_of_folder(folder: Path, root: str | None) -> dict[str, Reader]:
    """Return a reader for each split that a file in the folder describes."""
    if is_ljspeech(folder):
        return {"train": partial(_read_rows, read_ljspeech, folder)}
    for end in MANIFESTS:
        if (path := folder / f"metadata{end}").is_file():
            rows = read_manifest(path)
            if root is None:
                _warn_of_unlisted(path, rows)
            return _splits_of_manifest(path, rows, root or str(folder))
    if (folder / "data.list").is_file():
        return {"train": partial(_read_rows, read_data_list, folder / "data.list")}
    if (folder / "wav.scp").is_file() and (folder / "text").is_file():
        return {"train": partial(_read_rows, read_kaldi, folder)}
    # train.tsv, dev_manifest.json, and Common Voice, whose recordings are in clips/
    named = {}
    for path in sorted(folder.iterdir()):
        stem = path.stem.lower().removesuffix("_manifest").removeprefix("manifest_")
        is_named = path.suffix.lower() in MANIFESTS and stem in (*SPLIT_WORDS, *COMMON_VOICE_SPLITS) and path.is_file()
        if is_named and not _is_training_record(path):
            if stem in named:
                raise SourceError(f"{folder} has two manifests for the split {stem!r}: give the path of one of them")
            clips = folder / "clips" if path.suffix == ".tsv" and (folder / "clips").is_dir() else folder
            below = f"{root}/clips" if root and clips != folder else root
            named[stem] = partial(_read_rows, partial(_rows_of_split, stem), path, root=below or str(clips))
    return named


def _is_training_record(path: Path) -> bool:
    """Return whether a file is the record of a training, whose name is that of a manifest of the split `training`."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return path.name == TRAINING and re.match(r'\{\s*"command":', file.read(100)) is not None


def _rows_of_split(split: str, path: Path) -> list[dict]:
    """Return the rows of a manifest that is named like a split."""
    rows = read_manifest(path)
    if others := {_split_of(row) for row in rows if "split" in row} - {split, UNKNOWN_SPLIT}:
        raise SourceError(
            f"{path}: its name means the split {split}, but its column split contains {', '.join(sorted(others))}: "
            "rename one"
        )
    return rows


def _readers_of_unnamed(path: Path) -> dict[str, Reader]:
    """Return a reader for each split of shards at any depth, or of recordings beside their transcripts."""
    files = find_files(path)
    compressed = [file for file in files if file.name.lower().endswith(COMPRESSED)]
    if shards := [file for file in files if _is_shard(file)]:
        if compressed:
            names = ", ".join(file.name for file in compressed[:3])
            logger.warning(f"{path}: compressed shards are left out, decompress them: {names}")
        return _splits_of_shards(shards, path)
    return _splits_of_pairs(path) if has_pairs(path) else {}


def _splits_of_pairs(path: Path) -> dict[str, Reader]:
    """Return a reader for each split of pairs; only folders named like a split are splits, others may be speakers."""
    splits: dict[str | None, list[dict]] = {}
    for row in read_pairs(path):
        folders = PurePath(row["utterance_id"]).parts[:-1]
        splits.setdefault(next(filter(_is_split, folders), None), []).append(row)
    rest = splits.pop(None, [])
    if not splits:
        return {"train": partial(_read_rows, lambda _: rest, path)}
    if rest:
        logger.warning(
            f"{path} has folders of splits; {len(rest)} files outside them are left out: {rest[0]['utterance_id']} …"
        )
    return {name: partial(_read_rows, lambda _, chosen=splits[name]: chosen, path) for name in sorted(splits)}


def _is_shard(file: Path) -> bool:
    return file.suffix.lower() in SHARDS and not file.name.startswith("._")


def _is_split(name: str) -> bool:
    """Return whether a name contains the word of a split: "train", "Dev", "test-clean"."""
    return any(word in SPLIT_WORDS for word in re.split("[^a-z]+", name.lower()))


def _warn_of_unlisted(metadata: Path, rows: list[dict]) -> None:
    """Log a warning if the folder of `metadata` contains recordings that it does not name."""
    named = (row.get(first_known(row, AUDIO_COLUMNS)) for row in rows)
    listed = {os.path.normpath(metadata.parent / str(name)) for name in named if name}
    found = (path for path in find_files(metadata.parent) if path.suffix.lower() in AUDIO_SUFFIXES)
    if unlisted := sorted(path for path in found if str(path) not in listed):
        logger.warning(
            f"{metadata} does not name {len(unlisted)} recordings in its folder, which are left out: "
            f"{escaped(str(unlisted[0]))} …"
        )


def _warn_of_others(path: Path, folders: Sequence[Path]) -> None:
    """Log a warning about the other folders and recordings beside the folders of splits."""
    left_out = [folder.name for folder in folders if has_pairs(folder)]
    names = sorted(file.name for file in path.iterdir() if file.suffix.lower() in (*SHARDS, *AUDIO_SUFFIXES))
    left_out += [name for name in names if not name.startswith("._")]
    if left_out:
        more = " …" if len(left_out) > 5 else ""
        logger.warning(f"{path} has folders of splits; these are left out: {', '.join(left_out[:5])}{more}")


def _splits_of_file(path: Path) -> dict[str, Reader]:
    suffix = path.suffix.lower()
    if suffix in SHARDS:
        return _splits_of_shards([path], path.parent)
    if suffix == ".list":
        return {"train": partial(_read_rows, read_data_list, path)}
    if suffix not in MANIFESTS:
        raise SourceError(
            f"{path} is not a manifest: its suffix must be one of {', '.join((*MANIFESTS, '.list', *SHARDS))}"
        )
    return _splits_of_manifest(path, read_manifest(path), str(path.parent))


def _splits_of_manifest(path: Path, rows: list[dict], root: str) -> dict[str, Reader]:
    """Return a reader for each split of a manifest.

    The splits are the values of its column `split`, or else the folders of the recordings if all are in folders named
    like splits, or else one split of all rows.
    """
    has_column = any("split" in row for row in rows)
    # An unreadable line is reported in every split that it may belong to.
    is_row = [not (row.get(PART) or {}).get("problem") for row in rows]
    names = [
        (_split_of(row) if has_column else _split_of_path(row)) if is_known else None
        for row, is_known in zip(rows, is_row, strict=True)
    ]
    if not has_column and any(is_known and name is None for name, is_known in zip(names, is_row, strict=True)):
        if folders := sorted(set(names) - {None}):
            logger.warning(
                f"{path} has no column split: recordings in the folders {', '.join(folders)} are used for training, too"
            )
        names = [None] * len(rows)
    readers = {}
    for split in sorted(set(names) - {None}) or ["train"]:
        chosen = [row for row, name in zip(rows, names, strict=True) if name in (None, split)]
        readers[split] = partial(_read_rows, lambda _, chosen=chosen: chosen, path, root=root)
    return readers


def _split_of(row: dict) -> str:
    value = row.get("split")
    return UNKNOWN_SPLIT if value is None or not str(value).strip() else str(value).strip()


def _split_of_path(row: dict) -> str | None:
    path = row.get(first_known(row, AUDIO_COLUMNS))
    return next(filter(_is_split, PurePath(str(path)).parts[:-1]), None) if not os.path.isabs(str(path)) else None


def _splits_of_shards(files: Sequence[Path], root: Path) -> dict[str, Reader]:
    return {name: partial(_read_shards, shards) for name, shards in shards_by_split(files, root).items()}


def shards_by_split(files: Sequence[PurePath], root: PurePath) -> dict[str, list[str]]:
    """Return the shards by split: a word of their name or of the nearest folder below `root`, otherwise train."""
    splits: dict[str, list[str]] = {}
    for file in files:
        names = [file.stem, *reversed(file.relative_to(root).parts[:-1])]
        words = [word for name in names for word in re.split("[^a-z]+", name.lower())]
        splits.setdefault(next((word for word in words if word in SPLIT_WORDS), "train"), []).append(str(file))
    return splits


def _load_saved(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    try:
        return datasets.load_from_disk(str(path))
    except IndexError as error:  # save_to_disk writes no file if there are no rows
        raise SourceError(f"{path} contains no rows") from error


def _read_saved(path: Path, split: str | None, streaming: bool) -> tuple[Rows, None]:
    saved = _load_saved(path)
    return _as_stream(saved if split is None else saved[split], streaming), None


def _read_rows(
    read: Callable[[Path], list[dict]], path: Path, streaming: bool, *, root: str | None = None
) -> tuple[Rows, str | None]:
    rows = read(path)
    if not rows:
        raise SourceError(f"{path[0] if isinstance(path, list) else path} contains no rows")
    return _as_stream(rows_to_dataset(rows), streaming), root


def _read_shards(files: list[str], streaming: bool) -> tuple[Rows, str | None]:
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) > 1:
        raise SourceError(f"both .parquet and .tar shards in one split: {files[0]} …")
    if suffixes == {".parquet"}:
        return _read_parquet(files, streaming)
    if streaming:
        return datasets.IterableDataset.from_generator(_tar_rows, gen_kwargs={"files": files}), None
    return _read_rows(_tar_rows, files, False)


def _read_parquet(files: list[str], streaming: bool) -> tuple[Rows, str | None]:
    if unreadable := [file for file in files if not is_encodable(file)]:
        raise SourceError(f"{escaped(unreadable[0])}: the path of a parquet file must be UTF-8: rename it")
    try:
        filled = [file for file in files if pq.read_metadata(file).num_rows]
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{files[0]} … cannot be read as parquet: {error}") from error
    if not filled:
        raise SourceError(f"{files[0]} … contains no rows")
    # `datasets` treats brackets as a pattern, and refuses files without rows.
    patterns = [glob.escape(file) for file in filled]
    try:
        rows = datasets.load_dataset("parquet", data_files=patterns, split="train", streaming=streaming)
    except datasets.exceptions.DatasetGenerationError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise SourceError(f"{files[0]} … cannot be read as parquet: {reason}") from error
    folders = {str(Path(file).parent) for file in filled}
    return rows, folders.pop() if len(
        folders
    ) == 1 else None  # of several folders, the one that a path starts from is unknown


def _tar_rows(files: Sequence[str]) -> list[dict]:
    return [row for file in files for row in read_tar(Path(file))]


def _as_stream(rows: datasets.Dataset, streaming: bool) -> Rows:
    return rows.to_iterable_dataset() if streaming else rows
