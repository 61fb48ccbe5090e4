"""Read datasets on the Hub, including repositories of plain audio files, for which `datasets` would need FFmpeg.

A repository of parquet files is read with `load_dataset`. A repository of recordings with metadata, or of tar shards,
is downloaded once and read as a folder; streaming downloads the metadata first, and a recording when it is read.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import datasets
from huggingface_hub import HfApi, HfFileSystem, snapshot_download

from .audio import AUDIO_SUFFIXES
from .folders import Reader, Rows, shards_by_split, splits_of_folder
from .manifests import MANIFESTS
from .rows import SourceError
from .shards import stream_tar

logger = logging.getLogger("hf_asr")

ADDRESS = "hf://"


def splits_on_hub(dataset_name: str, config_name: str | None, *, streaming: bool) -> dict[str, Reader]:
    """Return a reader for each split of a dataset on the Hub.

    Raises:
        SourceError: The dataset does not exist, or has no known layout.
    """
    found = _recordings_on_hub(dataset_name)
    if found is None:
        try:
            names = datasets.get_dataset_split_names(dataset_name, config_name)
        except Exception as error:  # the client of the Hub raises many different classes
            raise SourceError(f"{dataset_name} is neither a local path nor a dataset on the Hub: {error}") from error
        return {name: partial(_load, dataset_name, config_name, name) for name in names}
    commit, files = found
    repository = {"repo_id": dataset_name, "repo_type": "dataset", "revision": commit}
    below = f"{config_name}/" if config_name else ""
    if config_name == "default" and not any(str(file).startswith(below) for file in files):
        below = ""  # the name on the Hub of the only configuration
    files = [file for file in files if str(file).startswith(below)]
    if not files:
        raise SourceError(f"{dataset_name} has no folder for the configuration {config_name!r}")
    root = f"{ADDRESS}datasets/{dataset_name}@{commit}"
    if streaming:
        shards = [file for file in files if file.suffix.lower() == ".tar"]
        if shards:
            splits = shards_by_split(shards, PurePosixPath(below))
            return {name: partial(_stream_shards, [f"{root}/{file}" for file in of]) for name, of in splits.items()}
        if any(file.suffix.lower() in MANIFESTS for file in files):
            tables = snapshot_download(**repository, allow_patterns=[f"{below}*{suffix}" for suffix in MANIFESTS])
            return splits_of_folder(Path(tables) / below, root=f"{root}/{below}".rstrip("/"))
        logger.info(f"{dataset_name} has no table of its recordings to stream from: downloading the whole dataset")
    return splits_of_folder(Path(snapshot_download(**repository)) / below)


def read_address(address: str) -> bytes:
    """Return the bytes of a file on the Hub.

    Raises:
        OSError: The file cannot be downloaded.
    """
    try:
        return HfFileSystem().cat_file(address)
    except Exception as error:
        raise OSError(f"{address} cannot be downloaded: {error}") from error


def _recordings_on_hub(dataset_name: str) -> tuple[str, list[PurePosixPath]] | None:
    """Return commit and files of a repository of recordings or tar shards; None if it is another kind or not found."""
    try:
        info = HfApi().dataset_info(dataset_name)
        commit, files = info.sha, [PurePosixPath(file.rfilename) for file in info.siblings or []]
    except Exception:  # without a connection, use an earlier download
        try:
            folder = Path(snapshot_download(dataset_name, repo_type="dataset", local_files_only=True))
        except Exception:  # the caller asks `datasets`, whose error explains the problem
            return None
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        commit, files = folder.name, [PurePosixPath(path.as_posix()) for path in paths]
    suffixes = {file.suffix.lower() for file in files}
    return (commit, files) if ".parquet" not in suffixes and suffixes & {*AUDIO_SUFFIXES, ".tar"} else None


def _load(dataset_name: str, config_name: str | None, split: str, streaming: bool) -> tuple[Rows, None]:
    return datasets.load_dataset(dataset_name, config_name, split=split, streaming=streaming), None


def _stream_shards(addresses: list[str], streaming: bool) -> tuple[Rows, None]:
    return datasets.IterableDataset.from_generator(_shard_rows, gen_kwargs={"addresses": addresses}), None


def _shard_rows(addresses: Sequence[str]) -> Iterator[dict]:
    for address in addresses:
        with HfFileSystem().open(address, "rb") as file:
            yield from stream_tar(file, name=address)
