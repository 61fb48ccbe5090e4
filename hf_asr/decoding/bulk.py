"""Recognise many recordings: read ahead by a bounded number of seconds, and return results in their order."""

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

GROUP_SECONDS = 600.0  # of audio whose windows are put into batches together
READ_AHEAD = 8  # recordings
READ_AHEAD_SECONDS = 120.0  # of each of these recordings; a longer one is read when all earlier ones are done

Item = TypeVar("Item")


@dataclass
class Result:
    """The transcript of a recording, or the reason why it has none.

    Attributes:
        duration: Length of the recording in seconds.
        computing_seconds: The recording's share of the time for features, model and decoding, without reading.
        damage, remarks: See `data.audio.Recording`.
        error: Why the recording cannot be read.
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

    The memory is bounded for any number of items: by `GROUP_SECONDS` plus `READ_AHEAD` times `READ_AHEAD_SECONDS` of
    audio. A recording longer than `READ_AHEAD_SECONDS` ends its group and is read alone.

    Args:
        read: Function of an item and a greatest length in seconds that reads the item; several threads call it. It
            raises `AudioTooLongError` for a longer recording, and `AudioError` for one that cannot be read.
    """
    rate = recognizer.sampling_rate
    items = iter(items)
    group: list[Recording | AudioError] = []
    seconds = 0.0

    def finished() -> Iterator[Result]:
        results = _recognized(recognizer, group)
        group.clear()  # the caller may keep each result for long
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
            del future  # it refers to the recording, too
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
