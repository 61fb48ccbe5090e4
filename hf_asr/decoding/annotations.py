"""Write words and tokens with times as TextGrid, which Praat and ELAN read, and as CTM (NIST)."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ..data.audio import AUDIO_SUFFIXES
from .transcript import Word

SHORTEST = 0.001  # seconds; Praat refuses an interval without a length
MAX_NAME_BYTES = 150  # of a file name in UTF-8, without its suffix; file systems allow 255


def to_textgrid(tiers: Mapping[str, Sequence[Word]], *, duration: float) -> str:
    """Return a TextGrid with an interval tier for each name; the intervals between the words are empty.

    Args:
        duration: Length of the recording, in seconds.
    """
    filled = {name: _intervals(words, duration) for name, words in tiers.items()}
    end = max([duration, *(intervals[-1][1] for intervals in filled.values() if intervals)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    lines += ["tiers? <exists>", f"size = {len(filled)}", "item []:"]
    for number, (name, intervals) in enumerate(filled.items(), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {end:.3f}", f"        intervals: size = {len(intervals)}"]
        for place, (left, right, text) in enumerate(intervals, start=1):
            right = end if place == len(intervals) else right
            lines += [f"        intervals [{place}]:", f"            xmin = {left:.3f}"]
            lines += [f"            xmax = {right:.3f}", f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _intervals(words: Sequence[Word], duration: float) -> list[tuple[float, float, str]]:
    """Return (start, end, text) from 0 to the end without a gap; a word without a length gets the shortest one."""
    intervals, place = [], 0.0
    for word in words:
        start = max(word.start, place)
        if start - place >= SHORTEST / 2:
            intervals.append((place, start, ""))
        end = max(word.end, start + SHORTEST)
        intervals.append((start, end, word.word))
        place = end
    if duration - place >= SHORTEST / 2:
        intervals.append((place, duration, ""))
    return intervals


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def to_ctm(words: Iterable[Word], *, name: str) -> str:
    """Return a line for each word: recording, channel 1, start and duration in seconds, word, confidence."""
    lines = (f"{name} 1 {w.start:.3f} {w.end - w.start:.3f} {w.word} {w.confidence:.3f}\n" for w in words)
    return "".join(lines)


def file_names(names: Sequence[str]) -> list[str]:
    """Return a file name without suffix for each utterance id, which may be any text or a path.

    It has letters, digits, `-`, `_` and `.` only, does not begin with a dot, and no two are equal when case is ignored.
    """
    chosen, taken = [], set()
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        name = stem if stem and dot + suffix.lower() in AUDIO_SUFFIXES else name
        name = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name)[-1]).lstrip(".-")
        base = name.encode("utf-8", "ignore")[:MAX_NAME_BYTES].decode("utf-8", "ignore") or "utterance"
        candidate, count = base, 1
        while candidate.casefold() in taken:
            count += 1
            candidate = f"{base}-{count}"
        taken.add(candidate.casefold())
        chosen.append(candidate)
    return chosen
