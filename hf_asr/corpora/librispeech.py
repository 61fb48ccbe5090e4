"""LibriSpeech: 960 hours of English audiobooks.

LibriSpeech/train-clean-100/103/1240/103-1240.trans.txt     103-1240-0000 CHAPTER ONE MISSUS RACHEL LYNDE IS SURPRISED
LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac
"""

from collections.abc import Sequence
from pathlib import Path

from .corpus import Archive, Corpus, Items, lines_of, paired

# https://www.openslr.org/resources/12/md5sum.txt
CHECKSUMS = {
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
}


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the utterances with their transcripts as published, in capital letters."""
    for part in parts:
        texts = {}
        for path in (root / part).glob("*/*/*.trans.txt"):
            rows = [line.split(maxsplit=1) for line in lines_of(path)]
            texts |= {row[0]: row[1] if len(row) > 1 else "" for row in rows}
        recordings = {path.stem: path for path in (root / part).glob("*/*/*.flac")}
        yield from paired(part, texts, recordings, speaker=lambda name: name.partition("-")[0])


CORPUS = Corpus(
    title="LibriSpeech",
    page="https://www.openslr.org/12/",
    splits={part: "train" if part.startswith("train") else part for part in CHECKSUMS},
    part_path="{part}",
    read=read,
    archives=tuple(
        Archive(f"https://www.openslr.org/resources/12/{part}.tar.gz", md5, part=part)
        for part, md5 in CHECKSUMS.items()
    ),
)
