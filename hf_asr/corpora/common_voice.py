"""Common Voice: sentences read by volunteers in more than a hundred languages.

cv-corpus-21.0-2025-03-14/zh-CN/train.tsv, dev.tsv, test.tsv, validated.tsv     client_id, path, sentence, …
cv-corpus-21.0-2025-03-14/zh-CN/clips/common_voice_zh-CN_18531536.mp3
"""

from collections.abc import Sequence
from pathlib import Path

from ..data.manifests import read_manifest
from ..data.rows import PART
from .corpus import Corpus, Items, Skipped, Utterance

NEEDED = ("client_id", "path", "sentence")


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the utterances; a speaker is a `client_id`. Clips that are in no table of a part are not used."""
    for part in parts:
        for row in read_manifest(root / f"{part}.tsv"):
            if PART in row:
                yield Skipped(f"{part}.tsv, {row['utterance_id']}", row[PART]["problem"])
            elif missing := [name for name in NEEDED if not row.get(name)]:
                yield Skipped(str(row.get("path") or f"a line of {part}.tsv"), f"it has no {', '.join(missing)}")
            else:
                path = root / "clips" / Path(row["path"]).name
                yield Utterance(part, path.stem, path, row["sentence"], row["client_id"])


CORPUS = Corpus(
    title="Common Voice",
    page="https://datacollective.mozillafoundation.org/",
    splits={part: part for part in ("train", "dev", "test", "validated")},
    optional_parts=("validated",),  # it contains the clips of the other three
    part_path="{part}.tsv",
    read=read,
    has_languages=True,
)
