"""Write transcripts as SubRip (srt) and WebVTT (vtt)."""

import html
from collections.abc import Sequence

from ..model.tokenization_conformer import HAN
from .transcript import Word


def cues(
    words: Sequence[Word], *, max_seconds: float = 6.0, max_characters: int = 42, max_gap_seconds: float = 0.6
) -> list[tuple[float, float, str]]:
    """Group words into subtitle lines (start, end, text), times in seconds.

    A line ends before it would last longer than `max_seconds` or have more than `max_characters`, and at a pause longer
    than `max_gap_seconds`. 42 characters is the usual width of a subtitle line.
    """
    groups: list[list[Word]] = []
    for word in words:
        if not word.word.strip():
            continue
        group = groups[-1] if groups else []
        if (
            not group
            or word.start - group[-1].end > max_gap_seconds
            or word.end - group[0].start > max_seconds
            or len(join_words([*group, word])) > max_characters
        ):
            groups.append([])
        groups[-1].append(word)
    return [(group[0].start, group[-1].end, join_words(group)) for group in groups]


def join_words(words: Sequence[Word]) -> str:
    """Return the text of words on one line, with spaces except beside Han characters."""
    text = ""
    for word in words:
        spelled = " ".join(word.word.split())
        needs_space = text and not HAN.match(text[-1]) and not HAN.match(spelled[:1])
        text += (" " if needs_space else "") + spelled
    return text


def format_time(seconds: float, *, decimal: str) -> str:
    """Format seconds as `HH:MM:SS,mmm`, with `decimal` before the milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{decimal}{milliseconds % 1000:03}"


def to_srt(words: Sequence[Word]) -> str:
    """Return a SubRip file; `-->` in a text becomes `→`, because players read it as the sign between two times."""
    blocks = [
        f"{number}\n{format_time(start, decimal=',')} --> {format_time(end, decimal=',')}\n{text.replace('-->', '→')}\n"
        for number, (start, end, text) in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(words: Sequence[Word]) -> str:
    """Return a WebVTT file; <, > and & are escaped, because its texts are markup."""
    blocks = [
        f"{format_time(start, decimal='.')} --> {format_time(end, decimal='.')}\n{html.escape(text, quote=False)}\n"
        for start, end, text in cues(words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])
