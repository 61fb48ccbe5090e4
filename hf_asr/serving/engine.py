"""The engine of every server: one model, one thread that runs it, and a bounded queue that batches across clients."""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from ..decoding.recognizer import BestPath, Transcript, Window, batches, best_paths, cut, join


@dataclass
class EngineOptions:
    """How requests wait and are put together; each is an argument of `scripts/serve.py`."""

    max_queue_seconds: float = field(
        default=3600.0, metadata={"help": "Audio that may wait: bounds the memory as well as the waiting."}
    )
    max_batch_seconds: float = field(
        default=60.0, metadata={"help": "Audio that is computed at once, padding included; 0: each window alone."}
    )
    max_wait_ms: float = field(default=5.0, metadata={"help": "How long the first of a batch waits for others."})


class QueueFullError(RuntimeError):
    """Too much audio waits already; `retry_after` seconds are what it takes about."""

    def __init__(self, retry_after: float):
        super().__init__(f"too many requests wait: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class ClosedError(RuntimeError):
    """The engine takes no more requests."""


@dataclass
class _Request:
    """A recording that is transcribed window by window, whoever's windows come between."""

    future: Future
    paths: list[BestPath | None]
    duration: float = 0.0


@dataclass(order=True)
class _Job:
    due: float
    number: int  # tells equal ones apart
    request: _Request = field(compare=False)
    place: int = field(compare=False)
    window: Window = field(compare=False)


LAST = float("inf")  # when the job that ends the thread is due


class Engine:
    """Feeds windows of all clients' recordings to the model in batches.

    A session that is fed piece by piece would put its pieces into the same queue as jobs of its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        options: EngineOptions | None = None,
    ):
        self.model, self.processor, self.options = model, processor, options or EngineOptions()
        self.rate = processor.feature_extractor.sampling_rate
        self._queued_samples = 0
        self.speed = 10.0  # seconds of audio a second, a moving average
        # called with the windows of a batch and the seconds it took
        self.on_batch: Callable[[int, float], None] = lambda windows, seconds: None
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.is_closed = False
        self._thread = threading.Thread(target=self._run, name="hf_asr engine", daemon=True)
        self._thread.start()

    def submit(self, waveform: np.ndarray) -> Future[Transcript]:
        """Queues a mono float32 recording (samples,) at `rate`. Cancelling the future takes it out again.

        Raises:
            QueueFullError: Too much waits. A recording that is longer than the whole queue is taken if nothing does.
            ClosedError: `close` was called.
        """
        windows = cut(waveform, self.model, self.processor)
        request = _Request(Future(), [None] * len(windows), len(waveform) / self.rate)
        with self._lock:
            if self.is_closed:
                raise ClosedError("the server is shutting down")
            queued = self._queued_samples + len(waveform)
            if self._queued_samples and queued > self.options.max_queue_seconds * self.rate:
                raise QueueFullError(max(1.0, self.queued_seconds / self.speed))
            self._queued_samples += sum(len(window.waveform) for window in windows)
            now = time.monotonic()
            for place, window in enumerate(windows):
                # The windows of a long recording let shorter recordings pass that come up to a second a window later.
                self._jobs.put(_Job(now + place, next(self._numbers), request, place, window))
        return request.future

    @property
    def queued_seconds(self) -> float:
        """Audio that was accepted and not yet computed."""
        return self._queued_samples / self.rate

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._thread.is_alive() and not self.is_closed

    def close(self, *, timeout: float | None = None) -> None:
        """Takes no more, finishes what was accepted, ends the thread; `timeout` in seconds."""
        with self._lock:
            if not self.is_closed:
                self.is_closed = True
                self._jobs.put(_Job(LAST, next(self._numbers), _Request(Future(), []), 0, Window(np.zeros(0))))
        self._thread.join(timeout)

    def _leave(self, job: _Job) -> None:
        with self._lock:
            self._queued_samples -= len(job.window.waveform)

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._compute(batch)
            for job in batch:
                self._leave(job)

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
            for group in batches(windows, batch_seconds=self.options.max_batch_seconds, rate=self.rate):
                paths = best_paths(self.model, self.processor, [windows[i] for i in group])
                for i, path in zip(group, paths, strict=True):
                    jobs[i].request.paths[jobs[i].place] = path
        except Exception as error:
            if len(jobs) == 1:
                self._finish(jobs[0].request, error=error)
            else:
                for job in jobs:  # the fault is one's own, the others shall not suffer from it
                    self._compute([job])
            return
        elapsed = time.monotonic() - started
        audio = sum(len(window.waveform) for window in windows) / self.rate
        self.speed += 0.1 * (audio / max(elapsed, 1e-6) - self.speed)
        self.on_batch(len(jobs), elapsed)
        for request in {id(job.request): job.request for job in jobs}.values():
            if all(path is not None for path in request.paths):
                self._finish(request)

    def _finish(self, request: _Request, *, error: Exception | None = None) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            try:
                transcript = None
                if error is None:
                    transcript = join(request.paths, self.model, self.processor, duration=request.duration)
            except Exception as failure:  # the thread must outlive it
                error = failure
            if error is not None:
                request.future.set_exception(error)
            else:
                request.future.set_result(transcript)
