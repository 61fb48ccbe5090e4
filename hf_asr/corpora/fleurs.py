"""FLEURS: about 12 hours of read sentences in each of 102 languages.

cmn_hans_cn/train.tsv                   sentence number, file, raw transcript, transcript, characters, samples, gender
cmn_hans_cn/audio/train/10023…84.wav
"""

from collections.abc import Sequence
from pathlib import Path

from .corpus import Archive, Corpus, Items, Skipped, lines_of, paired

COLUMNS = 7


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the utterances with their normalised transcripts; speakers are not published."""
    for part in parts:
        texts = {}
        for number, line in enumerate(lines_of(root / f"{part}.tsv"), start=1):
            fields = line.split("\t")
            if len(fields) != COLUMNS:
                yield Skipped(f"{part}.tsv, line {number}", f"it has {len(fields)} columns instead of {COLUMNS}")
                continue
            texts[Path(fields[1]).stem] = fields[3]
        recordings = {path.stem: path for path in (root / "audio" / part).glob("*.wav")}
        yield from paired(part, texts, recordings)


CORPUS = Corpus(
    title="FLEURS",
    page="https://huggingface.co/datasets/google/fleurs",
    splits={part: part for part in ("train", "dev", "test")},
    part_path="{part}.tsv",
    read=read,
    has_languages=True,
    archives=(  # no checksums are published
        Archive("https://storage.googleapis.com/xtreme_translations/FLEURS102/{language}.tar.gz"),
    ),
)
