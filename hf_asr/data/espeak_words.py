"""Find in the events of espeak-ng when it speaks the words of a text."""

import bisect
import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..model.spelling_conformer import HAN

# Names of events that are no phonemes begin with these: pauses, changes of the language, and the end of a phoneme that
# is palatalised, or linked to the vowel of the next word.
NO_PHONEME = ("_", "(", ";")
_WORD = re.compile(rf"{HAN.pattern}|[^\s{HAN.pattern[1:-1]}]+")


class Event(NamedTuple):
    """An event of espeak-ng: its sample, the place of its word in the text, and the name of a phoneme or ""."""

    sample: int
    place: int
    phoneme: str


def spoken_words(
    text: str, events: Sequence[Event], *, count_phonemes: Callable[[str], int]
) -> list[tuple[str, int, int]]:
    """Return the words of a text, or Han characters, each with its first sample and the sample after its last one.

    espeak-ng's own event of a word is where the previous word ends; the closure of a stop such as "t", which is silent,
    follows it. So a word starts here with its first phoneme, and ends where another event follows its last phoneme.

    espeak-ng speaks some words as one, such as "on the" and 关上. They are divided by the numbers of phonemes that the
    words have alone, and left out if the sum differs. Words that are not spoken, such as "-", are left out, too. There
    are no words if a place is wrong, as after "one. two".

    Args:
        events: All events, in the order of their samples.
        count_phonemes: Function of a word that returns its number of phonemes.
    """
    found = list(_WORD.finditer(text))
    phonemes = _phonemes(found, events)
    spans = []
    for first, after in itertools.pairwise([*sorted(phonemes), len(found)]):
        together, spoken = [match.group() for match in found[first:after]], phonemes[first]
        counts = [len(spoken)] if len(together) == 1 else list(map(count_phonemes, together))
        if sum(counts) != len(spoken):
            continue
        for word, end, count in zip(together, itertools.accumulate(counts), counts, strict=True):
            if count:
                spans.append((word, spoken[end - count][0], spoken[end - 1][1]))
    return spans


def _phonemes(words: Sequence[re.Match[str]], events: Sequence[Event]) -> dict[int, list[tuple[int, int]]]:
    """Return the first and last samples of the phonemes by the number of their word; nothing if a place is wrong."""
    phonemes: dict[int, list[tuple[int, int]]] = {}
    for event, following in itertools.pairwise(events):
        number = bisect.bisect_right(words, event.place, key=re.Match.start) - 1
        if event.phoneme == ";" and number in phonemes:
            phonemes[number][-1] = (phonemes[number][-1][0], following.sample)
        elif event.phoneme and not event.phoneme.startswith(NO_PHONEME):
            before = words[number].group()[: event.place - words[number].start()] if number >= 0 else ""
            is_between = number < 0 or event.place >= words[number].end()
            if is_between or (number not in phonemes and any(map(str.isalnum, before))):
                return {}
            phonemes.setdefault(number, []).append((event.sample, following.sample))
    return phonemes
