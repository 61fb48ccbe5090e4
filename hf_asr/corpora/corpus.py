"""What a public corpus is: its archives, its parts, and a function that reads its published layout."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.encodings import EncodingError, read_lines
from ..data.rows import SourceError


@dataclass(frozen=True)
class Archive:
    """Name a published archive, a compressed tar file.

    Args:
        url: Its address, in which `{language}` stands for the language of a corpus that has several.
        md5: Its published checksum; None if there is none.
        part: The part of the corpus that it contains; None if it contains all parts.
    """

    url: str
    md5: str | None = None
    part: str | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Utterance:
    """Hold a transcribed recording.

    Args:
        part: The published part that contains it.
        begin: Where it begins, in seconds, if it is a part of a longer recording; `end` accordingly.
    """

    part: str
    utterance_id: str
    audio: Path
    text: str
    speaker: str | None = None
    begin: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Skipped:
    """Name a recording or a transcript that cannot be used, with the reason."""

    utterance_id: str
    reason: str


Items = Iterator[Utterance | Skipped]


@dataclass(frozen=True)
class Corpus:
    """Describe a public corpus.

    Args:
        title: Its name in messages.
        page: Address of the page that publishes it.
        splits: The split of the manifest for each published part. Several parts can be one split.
        part_path: File or folder of a part below the root of the layout, with `{part}` in the place of its name.
        read: Function of the root and the wanted parts that returns the utterances.
        archives: The published archives; none if its publisher asks for a registration.
        optional_parts: Parts that are used only if they are named, because others contain them.
        landmark: Pattern of a file by which the root of the layout is recognised; None if `part_path` does it.
        has_languages: The corpus is published in several languages, a folder each.
        unpack: Function of the root that extracts archives inside the published archive.
    """

    title: str
    page: str
    splits: Mapping[str, str]
    part_path: str
    read: Callable[[Path, Sequence[str]], Items]
    archives: tuple[Archive, ...] = ()
    optional_parts: tuple[str, ...] = ()
    landmark: str | None = None
    has_languages: bool = False
    unpack: Callable[[Path], None] | None = None

    def parts_in(self, root: Path | None) -> list[str]:
        """Return the parts that a folder in the published layout contains; none if it is None."""
        return [part for part in self.splits if root and (root / self.part_path.format(part=part)).exists()]

    def archives_of(self, parts: Collection[str], language: str | None) -> list[Archive]:
        """Return the published archives of some parts.

        Raises:
            ValueError: The corpus has several languages, and none is given.
        """
        if self.has_languages and language is None:
            raise ValueError(
                f"{self.title} has an archive for each language: choose one with --language, see {self.page}"
            )
        chosen = [archive for archive in self.archives if archive.part is None or archive.part in parts]
        return [replace(archive, url=archive.url.format(language=language)) for archive in chosen]

    def find_root(self, folder: Path, language: str | None = None) -> Path | None:
        """Return the root of the published layout: `folder`, or a folder at most two levels below; None without one.

        Raises:
            ValueError: There are several, as with several languages.
        """
        marks = [self.landmark] if self.landmark else [self.part_path.format(part=part) for part in self.splits]
        for below in ("", "*/", "*/*/"):
            roots = {path.parents[mark.count("/")] for mark in marks for path in folder.glob(below + mark)}
            # A folder that begins with a dot is an archive whose extraction was interrupted.
            roots = {root for root in roots if not any(name.startswith(".") for name in root.relative_to(folder).parts)}
            if language is not None:
                roots = {root for root in roots if root.resolve().name == language}
            if len(roots) > 1:
                choice = "choose one with --language" if self.has_languages else "name one of them with --source"
                names = ", ".join(sorted(map(str, roots)))
                raise ValueError(f"{folder} contains {self.title} several times: {choice}: {names}")
            if roots:
                return roots.pop()
        return None


def paired(
    part: str,
    texts: Mapping[str, str],
    recordings: Mapping[str, Path],
    *,
    speaker: Callable[[str], str | None] = lambda utterance_id: None,
) -> Items:
    """Yield the utterances of a part, and what is left of texts and recordings.

    Args:
        texts: The transcript of each utterance.
        recordings: The recording of each utterance.
        speaker: Function of the id of an utterance.
    """
    for name in sorted(texts.keys() | recordings.keys()):
        if name not in recordings:
            yield Skipped(name, f"its transcript is in {part}, but its recording is missing")
        elif name not in texts:
            yield Skipped(name, f"it has no transcript: {recordings[name]}")
        else:
            yield Utterance(part, name, recordings[name], texts[name], speaker(name))


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        SourceError: It is not UTF-8.
    """
    try:
        return [line for line in read_lines(path) if line.strip()]
    except EncodingError as error:
        raise SourceError(f"{path} {error}") from error


def without_spaces(text: str) -> str:
    """Return a Mandarin transcript without the spaces that its publisher put between words."""
    return "".join(text.split())
