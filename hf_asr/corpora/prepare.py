"""Turn a public corpus into a manifest that training reads: find or fetch it, extract it, write a row an utterance."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..console import on_one_line
from ..data.audio import AudioError, audio_duration
from ..data.manifests import NEMO_AUDIO
from ..files import write_text, written_beside
from .archives import download, extract
from .corpus import Corpus, Skipped, Utterance

logger = logging.getLogger("hf_asr")

METADATA = "metadata.jsonl"
SKIPPED = "skipped.jsonl"
SUMMARY = "corpus.json"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")


def prepare(
    corpus: Corpus,
    output_dir: Path,
    *,
    source: Path | None = None,
    download_dir: Path | None = None,
    parts: Sequence[str] | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Write a folder that `dataset_name` takes, and return its summary.

    Args:
        source: Folder in the published layout, extracted or with the archives, which are extracted there.
        download_dir: Without `source`, the folder for the archives and what they contain.
        parts: Published parts to use. By default all but the optional ones; of `source`, those that are there.
        language: Language of a corpus that has several.

    Raises:
        OSError: A file cannot be read, written or downloaded.
        ValueError: A part or a language is unknown or missing, or an archive is damaged.
    """
    if unknown := [part for part in parts or () if part not in corpus.splits]:
        raise ValueError(f"{corpus.title} has no part {unknown[0]!r}; its parts are: {', '.join(corpus.splits)}")
    if language is not None and not corpus.has_languages:
        raise ValueError(f"{corpus.title} has one language: leave out --language")
    if source is not None and not source.is_dir():
        raise ValueError(f"--source {source} is not a folder")
    wanted = list(dict.fromkeys(parts or [part for part in corpus.splits if part not in corpus.optional_parts]))
    folder = source or download_dir or output_dir.with_name(f"{output_dir.name}-source")
    root = _find(corpus, folder, wanted, language=language, is_downloaded=source is None)
    found = corpus.parts_in(root)
    if root is None or not found:
        raise ValueError(f"{folder} does not have the published layout of {corpus.title} (see docs/corpora.md)")
    if missing := [part for part in wanted if part not in found]:
        if parts is not None or source is None:
            raise ValueError(f"{root} has no {', '.join(missing)}")
        logger.warning(f"{root} has no {', '.join(missing)}: left out")
    chosen = [part for part in wanted if part in found]
    return _write(corpus, chosen, root.absolute(), output_dir)


def _find(
    corpus: Corpus, folder: Path, wanted: Sequence[str], *, language: str | None, is_downloaded: bool
) -> Path | None:
    """Return the root of the extracted layout, after downloading and extracting the archives of missing parts."""
    root = _unpacked(corpus, folder, language)
    missing = set(wanted) - set(corpus.parts_in(root))
    if not missing:
        return root
    if is_downloaded:
        paths = _download_all(corpus, folder, missing, language)
    elif corpus.archives and not (corpus.has_languages and language is None):
        paths = [folder / archive.name for archive in corpus.archives_of(missing, language)]
    else:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(ARCHIVE_SUFFIXES))
    for path in paths:
        if path.is_file():
            extract(path, folder)
    return _unpacked(corpus, folder, language)


def _unpacked(corpus: Corpus, folder: Path, language: str | None) -> Path | None:
    """Return the root of the layout after extracting the archives inside it; None if it is not there."""
    root = corpus.find_root(folder, language)
    if root is not None and corpus.unpack is not None:
        corpus.unpack(root)
    return root


def _download_all(corpus: Corpus, folder: Path, parts: set[str], language: str | None) -> list[Path]:
    """Return the archives of some parts after downloading those that are not there.

    Raises:
        OSError: One cannot be downloaded; the message has the addresses of all.
        ValueError: The corpus cannot be downloaded without a registration, or an archive is not the published one.
    """
    if not corpus.archives:
        raise ValueError(
            f"{corpus.title} can only be downloaded by people who accept its terms: fetch it from {corpus.page}, and "
            "give its folder with --source"
        )
    archives = corpus.archives_of(parts, language)
    try:
        return [download(archive, folder) for archive in archives]
    except OSError as error:
        urls = ", ".join(archive.url for archive in archives)
        raise OSError(f"{error}; run again to continue, or fetch into a folder for --source: {urls}") from error


def _write(corpus: Corpus, parts: Sequence[str], root: Path, output_dir: Path) -> dict[str, Any]:
    """Write the rows of each split, the skipped ones and the summary, which is returned.

    The tables get their names at the end only, so that an interrupted run leaves none.

    Raises:
        ValueError: A part has no usable utterance.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Counter] = {part: Counter() for part in parts}
    speakers: dict[str, set[str]] = {corpus.splits[part]: set() for part in parts}
    skipped: list[Skipped] = []
    with contextlib.ExitStack() as stack:
        files = {}
        for split in speakers:
            (output_dir / split).mkdir(exist_ok=True)
            partial = stack.enter_context(written_beside(output_dir / split / METADATA))
            files[split] = stack.enter_context(open(partial, "w", encoding="utf-8", newline="\n"))
        for item in tqdm(corpus.read(root, parts), desc=f"Reading {corpus.title}", unit=" utterances"):
            row = item if isinstance(item, Skipped) else _row(item, corpus.splits[item.part])
            if isinstance(row, Skipped):
                skipped.append(row)
                continue
            files[row["split"]].write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[item.part].update(utterances=1, seconds=row["duration"])
            speakers[row["split"]].update(filter(None, [row["speaker"]]))
        if empty := [part for part, count in counts.items() if not count]:
            reason = f": {skipped[0].utterance_id}: {skipped[0].reason}" if skipped else ""
            raise ValueError(f"{corpus.title}: no utterance of {', '.join(empty)} can be used{reason}")
    summary = {
        "corpus": corpus.title,
        "source": str(root),
        "parts": {part: _summary(counts[part]) | {"split": corpus.splits[part]} for part in parts},
        "speakers": {split: len(names) for split, names in speakers.items()},
        "skipped": len(skipped),
    }
    (output_dir / SKIPPED).unlink(missing_ok=True)
    if skipped:
        lines = (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in skipped)
        write_text(output_dir / SKIPPED, "".join(lines))
        first = f"{skipped[0].utterance_id}: {skipped[0].reason}"
        logger.warning(f"{len(skipped)} are skipped, see {output_dir / SKIPPED}; the first is {on_one_line(first)}")
    write_text(output_dir / SUMMARY, json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    return summary


def _summary(count: Counter) -> dict[str, Any]:
    return {"utterances": count["utterances"], "hours": round(count["seconds"] / 3600, 2)}


def _row(item: Utterance, split: str) -> dict[str, Any] | Skipped:
    """Return the row of an utterance in the manifest; a part of a longer recording is written as NeMo does it."""
    if not item.text.strip():
        return Skipped(item.utterance_id, "its transcript is empty")
    row = {"text": item.text, "speaker": item.speaker, "utterance_id": item.utterance_id, "split": split}
    if item.part != split:
        row["subset"] = item.part
    if item.begin is not None:
        return {NEMO_AUDIO: str(item.audio), "offset": item.begin, "duration": item.end - item.begin} | row
    try:
        return {"audio": str(item.audio), "duration": round(audio_duration(item.audio), 3)} | row
    except AudioError as error:
        return Skipped(item.utterance_id, f"{item.audio}: {error}")
