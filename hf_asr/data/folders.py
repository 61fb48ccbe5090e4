"""What is on this machine under a name: which splits a folder, a file or a pattern has, and who reads each."""

import glob
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePath

import datasets

from .audio import AUDIO_SUFFIXES
from .layouts import has_pairs, is_ljspeech, read_data_list, read_kaldi, read_ljspeech, read_pairs
from .manifests import AUDIO_COLUMNS, MANIFESTS, first_known, read_manifest
from .rows import SourceError, rows_to_dataset
from .shards import read_tar

logger = logging.getLogger("hf_asr")

Rows = datasets.Dataset | datasets.IterableDataset
# Reads a split, as a stream or not; returns the folder that its paths are relative to, if they are.
Reader = Callable[[bool], tuple[Rows, str | None]]

SHARDS = (".parquet", ".tar")
SPLIT_WORDS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test", "testing")
COMMON_VOICE_SPLITS = ("validated", "other", "invalidated")
UNKNOWN_SPLIT = "train"  # of a row whose `split` is null


def local_splits(dataset_name: str) -> dict[str, Reader] | None:
    """Return a reader for each split of something on this machine; None for what can only be a Hub id.

    Raises:
        SourceError: It is a path and nothing is there, or nothing that is known.
    """
    path = Path(dataset_name).expanduser()
    if path.is_dir():
        return splits_of_folder(path)
    if path.is_file():
        return _splits_of_file(path)
    if any(character in dataset_name for character in "*?["):
        # A bracket is more often part of a name than of a pattern.
        names = glob.glob(str(path).replace("[", "[[]")) or glob.glob(str(path))
        files = [Path(name) for name in sorted(names)]
        if not files:
            raise SourceError(f"{dataset_name}: no file matches")
        return _splits_of_shards(files)
    known = (*MANIFESTS, *SHARDS, ".list")
    if path.suffix.lower() in known or dataset_name[0] in "./~" or dataset_name.count("/") > 1:
        raise SourceError(f"{dataset_name} does not exist")
    return None


def splits_of_folder(path: Path, *, root: str | None = None) -> dict[str, Reader]:
    """Return a reader for each split of a folder.

    Args:
        root: Where the recordings are that manifests name, if not beside them.

    Raises:
        SourceError: Nothing there is known.
    """
    if (path / "dataset_info.json").is_file():
        return {"train": partial(_read_saved, path, None)}
    if (path / "dataset_dict.json").is_file():
        return {name: partial(_read_saved, path, name) for name in datasets.load_from_disk(str(path))}
    if readers := _readers_of_folder(path, root):
        return readers
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    folders = [folder for folder in folders if folder.name != "data"]  # it holds the splits, it is none
    found = {folder: _readers_of_folder(folder, f"{root}/{folder.name}" if root else None) for folder in folders}
    if any(found.values()):
        for folder in folders:
            if not found[folder] and _is_split(folder):
                found[folder] = _readers_of_unnamed(folder)
        _warn_of_others(path, [folder for folder in folders if not found[folder]])
        return {
            folder.name if len(readers) == 1 else f"{folder.name}/{name}": reader
            for folder, readers in found.items()
            for name, reader in readers.items()
        }
    if (path / "data").is_dir():
        return splits_of_folder(path / "data", root=f"{root}/data" if root else None)
    if readers := _readers_of_unnamed(path):
        return readers
    raise SourceError(
        f"{path} holds nothing that is known, neither itself nor in a folder a split: metadata.jsonl or metadata.csv, "
        "train.tsv or another manifest that is called as a split, wav.scp and text, data.list, .parquet or .tar "
        "shards, or recordings with a .txt of the same name beside them"
    )


def _readers_of_folder(folder: Path, root: str | None) -> dict[str, Reader]:
    """What a file in the folder describes."""
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
    # train.tsv, dev_manifest.json; Common Voice, whose recordings are in clips/
    named = {}
    for path in sorted(folder.iterdir()):
        stem = path.stem.removesuffix("_manifest").removeprefix("manifest_")
        if path.suffix.lower() in MANIFESTS and stem in (*SPLIT_WORDS, *COMMON_VOICE_SPLITS) and path.is_file():
            if stem in named:
                raise SourceError(f"{folder} has two manifests of the split {stem!r}: name the file that is meant")
            clips = folder / "clips" if path.suffix == ".tsv" and (folder / "clips").is_dir() else folder
            below = f"{root}/clips" if root and clips != folder else root
            named[stem] = partial(_read_rows, read_manifest, path, root=below or str(clips))
    return named


def _readers_of_unnamed(path: Path) -> dict[str, Reader]:
    """Shards at any depth, or recordings beside their transcripts."""
    shards = sorted(file for file in path.rglob("*") if file.suffix in SHARDS)
    if shards:
        return _splits_of_shards(shards)
    # Folders of folders mean splits only if they are called so; else they are speakers or days.
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    named = [folder for folder in folders if _is_split(folder) and has_pairs(folder)]
    if named:
        _warn_of_others(path, [folder for folder in folders if folder not in named])
        return {folder.name: partial(_read_rows, read_pairs, folder) for folder in named}
    return {"train": partial(_read_rows, read_pairs, path)} if has_pairs(path) else {}


def _is_split(folder: Path) -> bool:
    """Whether a word of a folder's name is a split: "train", "Dev", "test-clean"."""
    return any(word in SPLIT_WORDS for word in re.split("[^a-z]+", folder.name.lower()))


def _warn_of_unlisted(metadata: Path, rows: list[dict]) -> None:
    """Recordings beside a folder's metadata that it does not name may be meant to be left out, or be forgotten."""
    named = (row.get(first_known(row, AUDIO_COLUMNS)) for row in rows)
    listed = {os.path.normpath(metadata.parent / str(name)) for name in named if name}
    found = (path for path in metadata.parent.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if unlisted := sorted(path for path in found if str(path) not in listed):
        logger.warning(
            f"{metadata} does not name {len(unlisted)} recordings beside it, which are left out: {unlisted[0]} …"
        )


def _warn_of_others(path: Path, folders: Sequence[Path]) -> None:
    """What stands beside the folders that are splits."""
    left_out = [folder.name for folder in folders if has_pairs(folder)]
    left_out += sorted(file.name for file in path.iterdir() if file.suffix in (*SHARDS, *AUDIO_SUFFIXES))
    if left_out:
        more = " …" if len(left_out) > 5 else ""
        logger.warning(
            f"{path} has folders of splits; what is beside them is left out: {', '.join(left_out[:5])}{more}"
        )


def _splits_of_file(path: Path) -> dict[str, Reader]:
    suffix = path.suffix.lower()
    if suffix in SHARDS:
        return _splits_of_shards([path])
    if suffix == ".list":
        return {"train": partial(_read_rows, read_data_list, path)}
    if suffix not in MANIFESTS:
        raise SourceError(f"{path} is no manifest: {', '.join((*MANIFESTS, '.list', *SHARDS))} are read")
    return _splits_of_manifest(path, read_manifest(path), str(path.parent))


def _splits_of_manifest(path: Path, rows: list[dict], root: str) -> dict[str, Reader]:
    """The values of a column `split`, or all in one."""
    if not any("split" in row for row in rows):
        return {"train": partial(_read_rows, lambda _: rows, path, root=root)}
    splits: dict[str, list[dict]] = {}
    for row in rows:
        splits.setdefault(str(row.get("split") or UNKNOWN_SPLIT), []).append(row)
    return {
        name: partial(_read_rows, lambda _, chosen=splits[name]: chosen, path, root=root) for name in sorted(splits)
    }


def _splits_of_shards(files: Sequence[Path]) -> dict[str, Reader]:
    return {name: partial(_read_shards, shards) for name, shards in shards_by_split(files).items()}


def shards_by_split(files: Sequence[PurePath]) -> dict[str, list[str]]:
    """Return the shards of each split: the one that is a word of their name, or their folder; else train."""
    splits: dict[str, list[str]] = {}
    for file in files:
        words = [*re.split("[^a-z]+", file.stem.lower()), file.parent.name]
        name = next((word for word in words if word in SPLIT_WORDS), "train")
        splits.setdefault(name, []).append(str(file))
    return splits


def _read_saved(path: Path, split: str | None, streaming: bool) -> tuple[Rows, None]:
    saved = datasets.load_from_disk(str(path))
    return _as_stream(saved if split is None else saved[split], streaming), None


def _read_rows(
    read: Callable[[Path], list[dict]], path: Path, streaming: bool, *, root: str | None = None
) -> tuple[Rows, str | None]:
    rows = read(path)
    if not rows:
        raise SourceError(f"{path} names no recording")
    return _as_stream(rows_to_dataset(rows), streaming), root


def _read_shards(files: list[str], streaming: bool) -> tuple[Rows, str | None]:
    suffixes = {Path(file).suffix for file in files}
    if len(suffixes) > 1:
        raise SourceError(f"both .parquet and .tar shards in one split: {files[0]} …")
    if suffixes == {".parquet"}:
        # `datasets` takes brackets for a pattern.
        patterns = [glob.escape(file) for file in files]
        try:
            rows = datasets.load_dataset("parquet", data_files=patterns, split="train", streaming=streaming)
        except datasets.exceptions.DatasetGenerationError as error:
            raise SourceError(f"{files[0]} … cannot be read as parquet: {error.__cause__ or error}") from error
        return rows, str(Path(files[0]).parent)
    if streaming:
        return datasets.IterableDataset.from_generator(_tar_rows, gen_kwargs={"files": files}), None
    return _read_rows(_tar_rows, files, False)


def _tar_rows(files: Sequence[str]) -> list[dict]:
    return [row for file in files for row in read_tar(Path(file))]


def _as_stream(rows: datasets.Dataset, streaming: bool) -> Rows:
    return rows.to_iterable_dataset() if streaming else rows
