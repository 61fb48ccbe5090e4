"""Datasets on the Hub, those of plain audio files among them: `datasets` itself would need FFmpeg to read these.

A repository of parquet goes through `load_dataset`. Of one that holds recordings with their metadata, or tar shards,
the files are downloaded once and read as a folder. As a stream, only the metadata are, and the audio when it is needed.
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
        SourceError: There is no such dataset, or nothing in it is known.
    """
    found = _recordings_on_hub(dataset_name)
    if found is None:
        try:
            names = datasets.get_dataset_split_names(dataset_name, config_name)
        except Exception as error:  # the Hub's client raises a dozen classes
            raise SourceError(f"{dataset_name} is neither a local path nor a dataset on the Hub: {error}") from error
        return {name: partial(_load, dataset_name, config_name, name) for name in names}
    commit, files = found
    repository = {"repo_id": dataset_name, "repo_type": "dataset", "revision": commit}
    below = f"{config_name}/" if config_name else ""
    if config_name == "default" and not any(str(file).startswith(below) for file in files):
        below = ""  # what the Hub calls a dataset without configurations
    files = [file for file in files if str(file).startswith(below)]
    if not files:
        raise SourceError(f"{dataset_name} has no folder {config_name!r}, which --dataset_config_name asks for")
    root = f"{ADDRESS}datasets/{dataset_name}@{commit}"
    if streaming:
        shards = [file for file in files if file.suffix.lower() == ".tar"]
        if shards:
            splits = shards_by_split(shards, PurePosixPath(below))
            return {name: partial(_stream_shards, [f"{root}/{file}" for file in of]) for name, of in splits.items()}
        if any(file.suffix.lower() in MANIFESTS for file in files):
            tables = snapshot_download(**repository, allow_patterns=[f"{below}*{suffix}" for suffix in MANIFESTS])
            return splits_of_folder(Path(tables) / below, root=f"{root}/{below}".rstrip("/"))
        logger.info(f"{dataset_name} has no table of its recordings, which could be streamed: all of it is downloaded")
    return splits_of_folder(Path(snapshot_download(**repository)) / below)


def read_address(address: str) -> bytes:
    """Return the bytes of a file on the Hub.

    Raises:
        OSError: It cannot be fetched.
    """
    try:
        return HfFileSystem().cat_file(address)
    except Exception as error:
        raise OSError(f"{address} cannot be fetched: {error}") from error


def _recordings_on_hub(dataset_name: str) -> tuple[str, list[PurePosixPath]] | None:
    """Commit and files of a repository of recordings or tar shards; None of any other, or where there is none."""
    try:
        info = HfApi().dataset_info(dataset_name)
        commit, files = info.sha, [PurePosixPath(file.rfilename) for file in info.siblings or []]
    except (
        Exception
    ):  # without the Hub, what was downloaded before; of other repositories, `datasets` says what is wrong
        try:
            folder = Path(snapshot_download(dataset_name, repo_type="dataset", local_files_only=True))
        except Exception:  # `datasets` says what is wrong
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
