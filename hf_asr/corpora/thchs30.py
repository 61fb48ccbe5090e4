"""THCHS-30: 34 hours of read Mandarin by 50 speakers.

data_thchs30/data/A11_0.wav, A11_0.wav.trn      a line of words, a line of pinyin, a line of phones
data_thchs30/train/A11_0.wav                    a link to ../data/A11_0.wav
data_thchs30/train/A11_0.wav.trn                a link to, or the text, ../data/A11_0.wav.trn
"""

from collections.abc import Sequence
from pathlib import Path

from .corpus import Archive, Corpus, Items, lines_of, paired, without_spaces


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the utterances, words without spaces. The folders of the parts only name what is in `data`."""
    recordings = {path.stem: path for path in (root / "data").glob("*.wav")}
    transcripts = {path.name.removesuffix(".wav.trn"): path for path in (root / "data").glob("*.wav.trn")}
    for part in parts:
        names = {path.name.partition(".")[0] for path in (root / part).iterdir()}
        texts = {name: _words(transcripts[name]) for name in names & transcripts.keys()}
        of_part = {name: recordings[name] for name in names & recordings.keys()}
        yield from paired(part, texts, of_part, speaker=lambda name: name.partition("_")[0])


def _words(transcript: Path) -> str:
    """Return the words of a transcript; one has a typing error of the publisher, "判处 l = 六年"."""
    return without_spaces((lines_of(transcript) or [""])[0].replace(" l =", ""))


CORPUS = Corpus(
    title="THCHS-30",
    page="https://www.openslr.org/18/",
    splits={part: part for part in ("train", "dev", "test")},
    part_path="{part}",
    landmark="data/*.wav.trn",
    read=read,
    # openslr publishes no checksum; this one is PaddleSpeech's.
    archives=(Archive("https://www.openslr.org/resources/18/data_thchs30.tgz", "2d2252bde5c8429929e1841d4cb95e90"),),
)
