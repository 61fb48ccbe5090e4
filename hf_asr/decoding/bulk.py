"""Recognise many recordings: read ahead by a bounded number of seconds, and return results in their order."""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ..data.audio import AudioError, LongRecording, Recording
from .recognizer import LONG_SECONDS, Audio, Recognizer
from .transcript import Transcript

GROUP_SECONDS = 600.0  # of audio whose windows are put into batches together
READ_AHEAD = 8  # recordings

Item = TypeVar("Item")


@dataclass
class Result:
    """The transcript of a recording, or the reason why it has none.

    Attributes:
        duration: Length of the recording in seconds.
        computing_seconds: The recording's share of the time for features, model and decoding, without reading.
        damage, remarks: See `data.audio.Recording`.
        error: Why the recording cannot be read, or its transcript cannot be aligned.
    """

    transcript: Transcript | None
    duration: float
    computing_seconds: float
    damage: list[str]
    remarks: list[str]
    error: str | None = None


def recognize_all(
    recognizer: Recognizer,
    items: Iterable[Item],
    read: Callable[[Item, float], Recording | LongRecording],
    *,
    transcribe: Callable[..., Sequence[Transcript | ValueError]] | None = None,
    show_progress: bool = False,
) -> Iterator[Result]:
    """Yield a result for each item, in their order.

    The memory is bounded for any number and length of items: by `GROUP_SECONDS` plus `READ_AHEAD` times `LONG_SECONDS`
    of audio.

    Args:
        read: Function of an item and a number of seconds that reads the item, and opens it if it is longer; several
            threads call it. It raises `AudioError` for a recording that cannot be read.
        transcribe: Function of items, their audio and `show_progress` that returns a transcript of each item, or the
            reason why it has none; by default, the recogniser's.
        show_progress: Show the progress in a recording that is longer than `LONG_SECONDS`.
    """
    rate = recognizer.sampling_rate
    items = iter(items)
    group: list[tuple[Item, Recording | LongRecording | AudioError]] = []
    seconds = 0.0

    def recognize(_: list[Item], audio: list[Audio], *, show_progress: bool) -> list[Transcript]:
        return recognizer.transcribe(audio, show_progress=show_progress)

    def finished() -> Iterator[Result]:
        results = _recognized(group, transcribe or recognize, rate, show_progress=show_progress)
        group.clear()  # the caller may keep each result for long
        yield from results

    with ThreadPoolExecutor(min(READ_AHEAD, os.cpu_count() or 1)) as pool:
        ahead: deque[tuple[Item, Future[Recording | LongRecording]]] = deque()
        while True:
            for item in itertools.islice(items, READ_AHEAD - len(ahead)):
                ahead.append((item, pool.submit(read, item, LONG_SECONDS)))
            if not ahead:
                break
            item, future = ahead.popleft()
            recording = _outcome(future)
            if isinstance(recording, LongRecording):
                yield from finished()  # these do not wait for hours
                seconds = GROUP_SECONDS
            elif isinstance(recording, Recording):
                seconds += len(recording.waveform) / rate
            group.append((item, recording))
            del recording, future  # which holds it, too
            if seconds >= GROUP_SECONDS:
                yield from finished()
                seconds = 0.0
    yield from finished()


def _outcome(future: Future[Recording | LongRecording]) -> Recording | LongRecording | AudioError:
    try:
        return future.result()
    except AudioError as error:
        return error


def _recognized(
    group: list[tuple[Item, Recording | LongRecording | AudioError]],
    transcribe: Callable[..., Sequence[Transcript | ValueError]],
    rate: int,
    *,
    show_progress: bool,
) -> list[Result]:
    """Return the results of a group, which is a long recording alone or others."""
    durations = [_duration(recording, rate) for _, recording in group]
    readable = [(item, recording) for item, recording in group if not isinstance(recording, AudioError)]
    audio = [each.waveform if isinstance(each, Recording) else each for _, each in readable]
    is_long = any(isinstance(each, LongRecording) for each in audio)
    results, started = [], time.perf_counter()
    try:
        found = iter(transcribe([item for item, _ in readable], audio, show_progress=show_progress and is_long))
    except AudioError as error:  # a long recording cannot be read any more
        if not is_long:
            raise
        return [Result(None, 0.0, 0.0, [], [], error=str(error))]
    elapsed = time.perf_counter() - started
    for (_, recording), duration in zip(group, durations, strict=True):
        if isinstance(recording, AudioError):
            results.append(Result(None, 0.0, 0.0, [], [], error=str(recording)))
            continue
        transcript, share = next(found), elapsed * duration / sum(durations)
        result = Result(transcript, duration, share, recording.damage, recording.remarks)
        if isinstance(transcript, ValueError):
            result.transcript, result.error = None, str(transcript)
        results.append(result)
    return results


def _duration(recording: Recording | LongRecording | AudioError, sampling_rate: int) -> float:
    """Return the seconds of audio, 0 for an error."""
    if isinstance(recording, AudioError):
        return 0.0
    return recording.duration if isinstance(recording, LongRecording) else len(recording.waveform) / sampling_rate
