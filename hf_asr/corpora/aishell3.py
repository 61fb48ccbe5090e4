"""AISHELL-3: 85 hours of read Mandarin by 218 speakers at 44.1 kHz, made for speech synthesis.

train/content.txt                       SSB00050001.wav	广 guang3 州 zhou1 女 nv3 大 da4
train/wav/SSB0005/SSB00050001.wav
"""

import re
from collections.abc import Sequence
from pathlib import Path

from .corpus import Archive, Corpus, Items, Skipped, lines_of, paired

PINYIN = re.compile("[a-z]+[0-9]")


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the utterances; the pinyin between the characters is removed."""
    for part in parts:
        recordings, texts = {path.stem: path for path in (root / part / "wav").glob("*/*.wav")}, {}
        for line in lines_of(root / part / "content.txt"):
            name, *words = line.split()
            name, characters = name.removesuffix(".wav"), words[::2]
            if len(words) % 2 or any(map(PINYIN.fullmatch, characters)):
                yield Skipped(name, f"its line in {part}/content.txt does not alternate between characters and pinyin")
                recordings.pop(name, None)
            else:
                texts[name] = "".join(characters)
        yield from paired(part, texts, recordings, speaker=lambda name: name[:7])


CORPUS = Corpus(
    title="AISHELL-3",
    page="https://www.openslr.org/93/",
    splits={"train": "train", "test": "test"},
    part_path="{part}/content.txt",
    read=read,
    archives=(Archive("https://www.openslr.org/resources/93/data_aishell3.tgz"),),  # no checksum is published
)
