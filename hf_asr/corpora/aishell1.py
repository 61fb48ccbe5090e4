"""AISHELL-1: 178 hours of read Mandarin by 400 speakers.

The published archive contains an archive for each speaker:

    data_aishell/transcript/aishell_transcript_v0.8.txt     BAC009S0002W0122 而 对 楼市 成交 抑制 作用 最 大 的 限 购
    data_aishell/wav/S0002.tar.gz                           train/S0002/BAC009S0002W0122.wav
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from .archives import extract
from .corpus import Archive, Corpus, Items, Skipped, lines_of, paired, without_spaces

PARTS = ("train", "dev", "test")
TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the utterances; the spaces between words are removed."""
    rows = [line.split(maxsplit=1) for line in lines_of(root / TRANSCRIPT)]
    texts = {row[0]: without_spaces(row[1] if len(row) > 1 else "") for row in rows}
    seen: set[str] = set()
    for part in parts:
        recordings = {path.stem: path for path in (root / "wav" / part).glob("*/*.wav")}
        speakers = {path.name for path in (root / "wav" / part).iterdir()}
        # One file has the transcripts of all parts.
        of_part = {name: text for name, text in texts.items() if _speaker(name) in speakers}
        yield from paired(part, of_part, recordings, speaker=_speaker)
        seen |= speakers
    if set(parts) == set(PARTS):
        for name in texts:
            if _speaker(name) not in seen:
                yield Skipped(name, f"it is in {TRANSCRIPT}, but its speaker has no folder")


def _speaker(utterance_id: str) -> str:
    """Return S0002 of BAC009S0002W0122."""
    return utterance_id[6:11]


def unpack(root: Path) -> None:
    """Extract the archives of the speakers that have no folder yet."""
    wav = root / "wav"
    done = {path.name for path in wav.glob("*/*")}
    left = [path for path in sorted(wav.glob("*.tar.gz")) if path.name.removesuffix(".tar.gz") not in done]
    for path in tqdm(left, desc="Extracting speakers", unit="speaker", disable=not left):
        extract(path, wav, show_progress=False)


CORPUS = Corpus(
    title="AISHELL-1",
    page="https://www.openslr.org/33/",
    splits={part: part for part in PARTS},
    part_path="wav/{part}",
    landmark=TRANSCRIPT,
    read=read,
    unpack=unpack,
    # openslr publishes no checksum; this one is PaddleSpeech's.
    archives=(Archive("https://www.openslr.org/resources/33/data_aishell.tgz", "2f494334227864a8a8fec932999db9d8"),),
)
