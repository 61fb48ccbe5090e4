"""WenetSpeech: 10 000 hours of Mandarin from YouTube and podcasts, long recordings with segments.

WenetSpeech.json                                    {"audios": [{"aid", "path", "segments": [{"sid", …}]}]}
audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .corpus import Corpus, Items, Skipped, Utterance

METADATA = "WenetSpeech.json"
CHUNK = 1 << 24  # characters


def read(root: Path, parts: Sequence[str]) -> Items:
    """Yield the segments of the wanted subsets; speakers are not published. A segment is in one split only."""
    for audio in _audios(root / METADATA):
        path = root / audio["path"]
        chosen = [(segment, [part for part in parts if part in segment["subsets"]]) for segment in audio["segments"]]
        chosen = [(segment, found[0]) for segment, found in chosen if found]
        if chosen and not path.is_file():
            yield Skipped(audio["aid"], f"its {len(chosen)} segments are left out: {audio['path']} is missing")
            continue
        for segment, part in chosen:
            times = {"begin": segment["begin_time"], "end": segment["end_time"]}
            yield Utterance(part, segment["sid"], path, segment["text"], **times)


def _audios(path: Path) -> Iterator[dict]:
    """Yield the entries of the list `audios` one after another: the file is too large to be parsed as a whole.

    Raises:
        ValueError: The file has no such list, or is cut short.
    """
    decoder, text, place = json.JSONDecoder(), "", 0
    with open(path, encoding="utf-8") as file:
        while (start := re.search(r'"audios"\s*:\s*\[', text)) is None:
            if not (more := file.read(CHUNK)):
                raise ValueError(f"{path} has no list of audios: it is not the metadata of WenetSpeech")
            text += more
        place = start.end()
        while True:
            place = re.compile(r"[\s,]*").match(text, place).end()
            if text.startswith("]", place):
                return
            try:
                entry, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                if not (more := file.read(CHUNK)):
                    raise ValueError(f"{path} is damaged or cut short: {error.msg}") from error
                text, place = text[place:] + more, 0
                continue
            yield entry


CORPUS = Corpus(
    title="WenetSpeech",
    page="https://github.com/wenet-e2e/WenetSpeech",
    splits={
        "L": "train",
        "M": "train",
        "S": "train",
        "DEV": "dev",
        "TEST_NET": "test_net",
        "TEST_MEETING": "test_meeting",
    },
    optional_parts=("M", "S"),  # L contains them
    part_path=METADATA,
    read=read,
)
