"""The engine of every server: one model, one thread that runs it, and a bounded queue that batches across clients."""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..decoding.recognizer import Recognizer
from ..decoding.transcript import Transcript
from ..decoding.windows import Window, batches

logger = logging.getLogger("hf_asr")

# A recording is accepted if it needs half of its time limit by the average speed: others may pass it, or slow it down.
MARGIN = 0.5
FIRST_SPEED = 10.0  # seconds of audio a second, until it was measured
SPEED_HALF_LIFE = 120.0  # seconds of audio after which a batch counts half in the average speed
SPEED_HOLDS_S = 60.0  # for an engine that does nothing: a machine that was slow for a while is tried again


@dataclass
class EngineOptions:
    """How requests wait and are put together; each is an argument of `scripts/serve.py`."""

    max_queue_seconds: float = field(default=3600.0, metadata={"help": "Audio that may wait; bounds the memory."})
    max_client_share: float = field(
        default=0.5, metadata={"help": "What one client (an IP address) may have of the queue and of the connections."}
    )
    max_batch_seconds: float = field(
        default=60.0, metadata={"help": "Audio that is computed at once, padding included; 0: each window alone."}
    )
    max_wait_ms: float = field(default=5.0, metadata={"help": "How long the first of a batch waits for others."})

    def __post_init__(self):
        if not 0 < self.max_client_share <= 1:
            raise ValueError(f"max_client_share must be above 0 and at most 1, not {self.max_client_share:g}")
        for name in ("max_queue_seconds", "max_batch_seconds", "max_wait_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name):g}")


class QueueFullError(RuntimeError):
    """Too much audio waits already; in about `retry_after` seconds there is room."""

    def __init__(self, retry_after: float):
        super().__init__(f"too many requests wait: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class TooSlowError(RuntimeError):
    """The recording would not be transcribed in time if it were alone; recordings of `max_seconds` would."""

    def __init__(self, max_seconds: float):
        super().__init__(f"is too long for the speed of this machine: at most {max_seconds:.0f} s can be transcribed")
        self.max_seconds = max_seconds


class ClosedError(RuntimeError):
    """The engine takes no more requests."""


@dataclass
class _Request:
    """A recording that is transcribed window by window, whoever's windows come between."""

    future: Future
    client: Hashable
    states: list[Any]
    duration: float
    windows_left: int
    error: Exception | None = None


@dataclass(order=True)
class _Job:
    due: float
    number: int  # tells equal ones apart
    request: _Request | None = field(compare=False, default=None)
    place: int = field(compare=False, default=0)
    window: Window | None = field(compare=False, default=None)


LAST = float("inf")  # when the job that ends the thread is due


class Engine:
    """Feeds windows of all clients' recordings to the model in batches.

    A session that is fed piece by piece would put its pieces into the same queue as jobs of its own.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        options: EngineOptions | None = None,
    ):
        self.recognizer, self.options = recognizer, options or EngineOptions()
        self.rate = recognizer.sampling_rate
        self.speed = FIRST_SPEED  # seconds of audio a second, an average over the latest batches
        self._measured_audio = self._measured_seconds = 0.0
        self._measured_at = time.monotonic()
        self._is_warm = False
        # called with the windows of a batch and the seconds it took
        self.on_batch: Callable[[int, float], None] = lambda windows, seconds: None
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        # Samples that wait, of all and of each client, and the requests of each that have windows left
        self._queued = 0
        self._queued_of: Counter[Hashable] = Counter()
        self._open_of: Counter[Hashable] = Counter()
        self._batch_started: float | None = None
        self.is_closed = False
        self._thread = threading.Thread(target=self._run, name="hf_asr engine", daemon=True)
        self._thread.start()

    def submit(
        self, waveform: np.ndarray, *, client: str | None = None, within: float | None = None
    ) -> Future[Transcript]:
        """Queues a mono float32 recording (samples,) at `rate`. Cancelling the future takes it out again.

        Args:
            client: Whose recording it is: clients take turns, and each has its share of the queue. None is a client
                that has no other recording.
            within: Seconds in which the answer must be there; what the engine cannot promise by its speed, it refuses.

        Raises:
            QueueFullError: Too much waits. A recording that is longer than the whole queue is taken if nothing does.
            TooSlowError: The recording alone would take longer than `within` allows.
            ClosedError: `close` was called, or the engine's thread has ended.
        """
        windows = self.recognizer.split(waveform)
        key = next(self._numbers) if client is None else client
        request = _Request(Future(), key, [None] * len(windows), len(waveform) / self.rate, len(windows))
        with self._lock:
            if not self.is_alive:
                raise ClosedError("the server is stopping: it takes no more requests")
            queued_before, cost = self._queued_of[key], sum(map(self._cost, windows))
            self._admit(cost, queued_before, length=len(waveform), within=within)
            self._queued += cost
            self._queued_of[key] += cost
            self._open_of[key] += 1
            now, done = time.monotonic(), 0
            for place, window in enumerate(windows):
                done += self._cost(window)
                # When this window would be ready if its client had the engine alone, whose recordings take turns; so
                # whoever comes later passes what others have too much of, but nothing for longer than that.
                ahead = min(self._open_of[key] * done, queued_before + done)
                due = now + ahead / self.rate / self.speed
                self._jobs.put(_Job(due, next(self._numbers), request, place, window))
        return request.future

    def _admit(self, cost: int, queued_of_client: int, *, length: int, within: float | None) -> None:
        """Raises QueueFullError or TooSlowError for a recording that cannot be promised.

        `cost` are the samples of its windows, which overlap; `length` those of the recording itself.
        """
        if not self._queued and time.monotonic() - self._measured_at > SPEED_HOLDS_S:
            self._measured_audio = self._measured_seconds = 0.0
            self.speed = max(self.speed, FIRST_SPEED)
        share = self.options.max_client_share
        in_time = LAST if within is None else MARGIN * within * self.speed * self.rate
        if cost > share * in_time:
            raise TooSlowError(share * in_time / self.rate * length / cost)
        room = min(in_time, self.options.max_queue_seconds * self.rate)
        excess = [
            queued + cost - limit
            for queued, limit in ((self._queued, room), (queued_of_client, share * room))
            if queued and queued + cost > limit
        ]
        if excess:
            raise QueueFullError(max(1.0, max(excess) / self.rate / self.speed))

    def _cost(self, window: Window) -> int:
        """Samples that a window counts as; one that is shorter than a second takes as long as a second."""
        return max(len(window.waveform), self.rate)

    @property
    def queued_seconds(self) -> float:
        """Audio that was accepted and not yet computed."""
        return self._queued / self.rate

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._thread.is_alive() and not self.is_closed

    @property
    def batch_seconds(self) -> float:
        """How long the batch that is being computed has taken so far."""
        started = self._batch_started
        return 0.0 if started is None else time.monotonic() - started

    def close(self, *, timeout: float | None = None) -> None:
        """Takes no more, finishes what was accepted, ends the thread; `timeout` in seconds."""
        with self._lock:
            if not self.is_closed:
                self.is_closed = True
                self._jobs.put(_Job(LAST, next(self._numbers)))
        self._thread.join(timeout)

    def _leave(self, job: _Job) -> None:
        request = job.request
        with self._lock:
            self._queued -= self._cost(job.window)
            self._queued_of[request.client] -= self._cost(job.window)
            request.windows_left -= 1
            if not request.windows_left:
                self._open_of[request.client] -= 1
            if not self._open_of[request.client]:
                del self._open_of[request.client], self._queued_of[request.client]

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._run_batch(batch)
        finally:  # what still waits after a failure is answered too
            with self._lock:
                self.is_closed = True
            while not self._jobs.empty():
                if (job := self._jobs.get()).request is not None:
                    self._leave(job)
                    job.request.error = ClosedError("the server is stopping")
                    self._answer(job.request)

    def _run_batch(self, batch: list[_Job]) -> None:
        """Computes a batch and answers its requests, whatever happens."""
        self._batch_started = time.monotonic()
        try:
            self._compute(batch)
        except BaseException as error:
            logger.exception("a batch failed")
            for job in batch:
                job.request.error = RuntimeError(f"the engine failed: {error!r}")
            if not isinstance(error, Exception):
                raise
        finally:
            self._batch_started = None
            for job in batch:  # first, so that who has its answer has its share of the queue again
                self._leave(job)
            for request in {id(job.request): job.request for job in batch}.values():
                if request.error is not None or all(state is not None for state in request.states):
                    self._answer(request)

    def _next_batch(self) -> list[_Job] | None:
        """Jobs to run together; None at the end."""
        jobs: list[_Job] = []
        samples, until = 0, None
        while True:
            try:
                job = self._jobs.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return jobs
            if job.due == LAST:
                if jobs:
                    self._jobs.put(job)
                return jobs or None
            if job.request.future.done():  # cancelled, or failed at an earlier window
                self._leave(job)
                continue
            samples += len(job.window.waveform)
            if jobs and samples > self.options.max_batch_seconds * self.rate:
                self._jobs.put(job)
                return jobs
            jobs.append(job)
            if until is None:
                wait = self.options.max_wait_ms / 1000 if self.options.max_batch_seconds else 0.0
                until = time.monotonic() + wait

    def _compute(self, jobs: list[_Job]) -> None:
        windows = [job.window for job in jobs]
        started = time.monotonic()
        try:
            # a short window among long ones would be padded to their length
            for group in batches(windows, batch_seconds=self.options.max_batch_seconds, sampling_rate=self.rate):
                states = self.recognizer.keep([windows[i] for i in group])
                for i, state in zip(group, states, strict=True):
                    jobs[i].request.states[jobs[i].place] = state
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].request.error = error
            else:
                for job in jobs:  # the fault is one's own, the others shall not suffer from it
                    self._compute([job])
            return
        elapsed = time.monotonic() - started
        self._measure(sum(map(self._cost, windows)) / self.rate, elapsed)
        try:
            self.on_batch(len(jobs), elapsed)
        except Exception:
            logger.exception("a batch was computed, but could not be counted")

    def _measure(self, audio: float, seconds: float) -> None:
        if not self._is_warm:  # the first batch pays for what is compiled and allocated
            self._is_warm = True
            return
        self._measured_at = time.monotonic()
        kept = 0.5 ** (audio / SPEED_HALF_LIFE)
        self._measured_audio = kept * self._measured_audio + audio
        self._measured_seconds = kept * self._measured_seconds + max(seconds, 1e-6)
        self.speed = self._measured_audio / self._measured_seconds

    def _answer(self, request: _Request) -> None:
        """Gives the client the transcript, or the error."""
        try:
            transcript = None
            if request.error is None:
                transcript = self.recognizer.finish(request.states, duration=request.duration)
        except Exception as error:  # the thread must outlive it
            request.error = error
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            if request.error is not None:
                request.future.set_exception(request.error)
            else:
                request.future.set_result(transcript)
