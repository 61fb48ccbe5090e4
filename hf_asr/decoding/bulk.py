"""Many recordings through a recogniser: read ahead by a bounded number of seconds, answered in their order."""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ..data.audio import AudioError, AudioTooLongError, Recording
from .recognizer import Recognizer
from .transcript import Transcript

GROUP_SECONDS = 600.0  # of audio that is recognised together, sorted by length
READ_AHEAD = 8  # recordings
READ_AHEAD_SECONDS = 120.0  # of each of them; a longer one is read when it is its turn

Item = TypeVar("Item")


@dataclass
class Result:
    """What became of one recording: a transcript, or the reason why there is none.

    `computing_seconds` is its share of the time that features, model and decoding took; reading is not in it.
    """

    transcript: Transcript | None
    duration: float
    computing_seconds: float
    damage: list[str]
    remarks: list[str]
    error: str | None = None


def recognize_all(
    recognizer: Recognizer, items: Iterable[Item], read: Callable[[Item, float], Recording]
) -> Iterator[Result]:
    """Yield a result for each item, in their order.

    At most `GROUP_SECONDS` and `READ_AHEAD` times `READ_AHEAD_SECONDS` of audio are in memory, however many items there
    are and however long each is; a recording longer than `READ_AHEAD_SECONDS` is recognised by itself.

    Args:
        read: Reads an item, in several threads at once. Its second argument is the greatest length in seconds: it
            raises `AudioTooLongError` for what is longer, and `AudioError` for what cannot be read.
    """
    rate = recognizer.sampling_rate
    items = iter(items)
    group: list[Recording | AudioError] = []
    seconds = 0.0

    def finished() -> Iterator[Result]:
        results = _recognized(recognizer, group)
        group.clear()  # before anybody does something with the results
        yield from results

    with ThreadPoolExecutor(min(READ_AHEAD, os.cpu_count() or 1)) as pool:
        ahead: deque[tuple[Item, Future[Recording]]] = deque()
        while True:
            for item in itertools.islice(items, READ_AHEAD - len(ahead)):
                ahead.append((item, pool.submit(read, item, READ_AHEAD_SECONDS)))
            if not ahead:
                break
            item, future = ahead.popleft()
            recording = _outcome(future.result)
            del future  # it holds the recording as well
            if isinstance(recording, AudioTooLongError):
                yield from finished()
                recording, seconds = _outcome(lambda item=item: read(item, float("inf"))), GROUP_SECONDS
            elif isinstance(recording, Recording):
                seconds += len(recording.waveform) / rate
            group.append(recording)
            del recording
            if seconds >= GROUP_SECONDS:
                yield from finished()
                seconds = 0.0
    yield from finished()


def _outcome(read: Callable[[], Recording]) -> Recording | AudioError:
    try:
        return read()
    except AudioError as error:
        return error


def _recognized(recognizer: Recognizer, group: list[Recording | AudioError]) -> list[Result]:
    rate = recognizer.sampling_rate
    waveforms = [recording.waveform for recording in group if isinstance(recording, Recording)]
    started = time.perf_counter()
    transcripts = iter(recognizer.transcribe(waveforms))
    elapsed, samples = time.perf_counter() - started, sum(map(len, waveforms))
    results = []
    for recording in group:
        if isinstance(recording, AudioError):
            results.append(Result(None, 0.0, 0.0, [], [], error=str(recording)))
            continue
        length = len(recording.waveform)
        share = elapsed * length / samples
        results.append(Result(next(transcripts), length / rate, share, recording.damage, recording.remarks))
    return results
