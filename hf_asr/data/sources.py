"""One way in for every source: a Hub id, an audiofolder, a manifest or a saved dataset becomes a `datasets.Dataset`.

Whatever the source, the columns are `audio` ({"bytes", "path"}, not decoded), `text`, `utterance_id`, and the source's
own others. Nothing here decodes audio or needs FFmpeg (`load_dataset("audiofolder", …)` would).
"""

import difflib
from pathlib import Path

import datasets

MANIFESTS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}


class SourceError(ValueError):
    """A dataset, split or column that is not there; the message lists what is."""


def split_names(dataset_name: str, *, config_name: str | None = None) -> list[str]:
    """The splits that `dataset_name` has.

    Raises:
        SourceError: There is no such dataset.
    """
    path = Path(dataset_name)
    if path.is_dir():
        if _is_saved(path):
            saved = datasets.load_from_disk(str(path))
            return list(saved) if isinstance(saved, datasets.DatasetDict) else ["train"]
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and _metadata_file(entry))
        if names:
            return names
        if _metadata_file(path):
            return ["train"]
        raise SourceError(f"{path} holds no metadata.jsonl or metadata.csv, neither itself nor in a folder a split")
    if path.is_file():
        rows = _read_manifest(path)
        return sorted(set(rows["split"])) if "split" in rows.column_names else ["train"]
    if path.suffix in MANIFESTS or dataset_name.startswith((".", "/", "~")) or dataset_name.count("/") > 1:
        raise SourceError(f"{dataset_name} does not exist")
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
) -> datasets.Dataset:
    """A split of a dataset, with the columns this module promises.

    Paths in a folder's metadata (column `file_name`) or in a manifest are relative to the file that names them.

    Raises:
        SourceError: The dataset, the split or a column does not exist.
    """
    names = split_names(dataset_name, config_name=config_name)
    if split not in names:
        raise SourceError(
            f"{dataset_name} has no split {split!r}, it has: {', '.join(names)}; "
            "choose with --train_split_name and --eval_split_name"
        )
    path = Path(dataset_name)
    root = None
    if path.is_dir() and _is_saved(path):
        rows = datasets.load_from_disk(str(path))
        rows = rows[split] if isinstance(rows, datasets.DatasetDict) else rows
    elif path.is_dir():
        root = path / split if _metadata_file(path / split) else path
        rows = _read_manifest(_metadata_file(root))
        if "file_name" in rows.column_names and audio_column == "audio":
            audio_column = "file_name"
    elif path.is_file():
        root = path.parent
        rows = _read_manifest(path)
        if "split" in rows.column_names:
            rows = rows.filter(lambda name: name == split, input_columns="split")
    else:
        rows = datasets.load_dataset(dataset_name, config_name, split=split)
    for argument, column in (("audio_column_name", audio_column), ("text_column_name", text_column)):
        if column not in rows.column_names:
            close = difflib.get_close_matches(column, rows.column_names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise SourceError(
                f"{dataset_name} has no column {column!r}{hint}, it has: {', '.join(rows.column_names)}; "
                f"choose with --{argument}"
            )
    if isinstance(rows.features[audio_column], datasets.Audio):
        rows = rows.cast_column(audio_column, datasets.Audio(decode=False))
    return _with_promised_columns(rows, root, audio_column, text_column)


def _is_saved(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _metadata_file(folder: Path) -> Path | None:
    return next((folder / f"metadata{end}" for end in MANIFESTS if (folder / f"metadata{end}").is_file()), None)


def _read_manifest(path: Path) -> datasets.Dataset:
    kind = MANIFESTS.get(path.suffix)
    if kind is None:
        raise SourceError(f"{path} is no manifest: {', '.join(MANIFESTS)} are read")
    # A transcript "null" is a word, not a missing value.
    options = {"sep": "\t" if path.suffix == ".tsv" else ",", "keep_default_na": False} if kind == "csv" else {}
    try:
        return datasets.load_dataset(kind, data_files=str(path), split="train", **options)
    except datasets.exceptions.DatasetGenerationError as error:
        raise SourceError(f"{path} cannot be read as {path.suffix[1:]}: {error.__cause__ or error}") from error


def _with_promised_columns(
    rows: datasets.Dataset, root: Path | None, audio_column: str, text_column: str
) -> datasets.Dataset:
    def promise(batch: dict, places: list[int]) -> dict:
        audio = [
            value if isinstance(value, dict) else {"bytes": None, "path": str(value)} for value in batch[audio_column]
        ]
        ids = batch.get("id") or [entry["path"] or str(place) for entry, place in zip(audio, places, strict=True)]
        if root is not None:
            audio = [{"bytes": None, "path": str(root / entry["path"])} for entry in audio]
        texts = ["" if text is None else str(text) for text in batch[text_column]]
        return {"audio": audio, "text": texts, "utterance_id": [str(name) for name in ids]}

    features = datasets.Features(
        {
            **{name: feature for name, feature in rows.features.items() if name not in (audio_column, text_column)},
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "text": datasets.Value("string"),
            "utterance_id": datasets.Value("string"),
        }
    )
    removed = [name for name in {audio_column, text_column} if name in rows.column_names]
    return rows.map(
        promise,
        batched=True,
        with_indices=True,
        remove_columns=removed,
        features=features,
        load_from_cache_file=False,
        keep_in_memory=root is not None,  # paths only
        desc="Reading rows",
    )
