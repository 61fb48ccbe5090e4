"""The engine of the servers: one model, one thread that runs it, and a bounded queue that batches across clients."""

import contextlib
import itertools
import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..decoding.arguments import TextArguments
from ..decoding.hotwords import Hotword
from ..decoding.recognizer import Recognizer
from ..decoding.streaming import StreamingRecognizer, StreamingResult, decode_step, encode_chunks
from ..decoding.transcript import Transcript
from ..decoding.windows import Window, batches

logger = logging.getLogger("hf_asr")

# A recording is accepted if the average speed computes it in this share of its time limit, because recordings that come
# later may overtake it.
MARGIN = 0.5
FIRST_SPEED = 10.0  # seconds of audio per second, assumed before the first measurement
SPEED_HALF_LIFE = 120.0  # seconds of audio after which a batch has half its weight in the average speed
# Seconds without requests after which a slow measurement is forgotten: the machine may have been busy for a while.
SPEED_EXPIRES_S = 60.0
# If streams and recordings always wait, streams get this many times as much of the thread's time.
STREAMS_TURN = 4.0
STREAMS_HALF_LIFE_S = 5.0  # seconds after which a step has half its weight in the streams' share of the time


@dataclass
class EngineOptions(TextArguments):
    """How requests wait, are batched and decoded; each field is an argument of the command `serve`."""

    max_queue_seconds: float = field(
        default=3600.0, metadata={"help": "Maximum audio in the queue in seconds; it bounds the memory."}
    )
    max_client_share: float = field(
        default=0.5,
        metadata={
            "help": "Maximum share of the queue and of the connections that one client (an IP address) may use: above "
            "0, at most 1."
        },
    )
    max_batch_seconds: float = field(
        default=60.0,
        metadata={"help": "Maximum audio in a batch in seconds, padding included. 0: compute each window alone."},
    )
    max_wait_ms: float = field(
        default=5.0,
        metadata={"help": "Maximum time that the first window of a batch waits for others, in milliseconds."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.max_client_share <= 1:
            raise ValueError(f"max_client_share must be above 0 and at most 1, not {self.max_client_share:g}")
        for name in ("max_queue_seconds", "max_batch_seconds", "max_wait_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name):g}")


class QueueFullError(RuntimeError):
    """The queue is full; in about `retry_after` seconds it has room."""

    def __init__(self, retry_after: float):
        super().__init__(f"too many requests wait: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class TooSlowError(RuntimeError):
    """The recording is too long for the speed of this machine; recordings of `max_seconds` are accepted."""

    def __init__(self, max_seconds: float):
        super().__init__(f"is too long for the speed of this machine: at most {max_seconds:.0f} s can be transcribed")
        self.max_seconds = max_seconds


class ClosedError(RuntimeError):
    """The engine accepts no more requests."""

    retry_after = 10.0  # seconds, until another process may have taken over


@dataclass
class _Request:
    """A recording whose windows are computed one by one, among the windows of other recordings."""

    future: Future
    client: Hashable
    kept: list[Any]  # of each window, by the decoder
    duration: float
    windows_left: int
    hotwords: Sequence[Hotword] | None = None
    error: Exception | None = None


@dataclass(order=True)
class _Job:
    due: float
    number: int  # the order of jobs with equal `due`
    request: _Request | None = field(compare=False, default=None)
    index: int = field(compare=False, default=0)  # of the window in its recording
    window: Window | None = field(compare=False, default=None)


LAST = math.inf  # `due` of the job that ends the thread
STEP = -math.inf  # `due` of the job that wakes the thread for the steps of streams


class Engine:
    """Computes the windows of all clients' recordings in batches, in a thread.

    Attributes:
        sampling_rate: Sampling rate of the recordings in Hz.
        speed: Seconds of audio computed per second, an average over the latest batches.
        on_batch: Called after each batch with its number of windows and the seconds that it took.
    """

    def __init__(self, recognizer: Recognizer, options: EngineOptions | None = None):
        self.recognizer, self.options = recognizer, options or EngineOptions()
        self.sampling_rate = recognizer.sampling_rate
        self.speed = FIRST_SPEED
        self._measured_audio = self._measured_seconds = 0.0
        self._measured_at = time.monotonic()
        self._is_warm = False
        self.on_batch: Callable[[int, float], None] = lambda windows, seconds: None
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._steps: list[tuple[StreamingRecognizer, Future[list[StreamingResult]]]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        # Samples in the queue, in all and by client; and for each client, the number of requests with windows left
        self._queued = 0
        self._queued_of: Counter[Hashable] = Counter()
        self._open_of: Counter[Hashable] = Counter()
        self._batch_started: float | None = None
        # Seconds of the last batch, of the steps since then, and of all steps, where older ones weigh less
        self._batch_took = self._steps_took = self._steps_weighed = 0.0
        self._steps_at = time.monotonic()
        self.is_closed = False
        self._thread = threading.Thread(target=self._run, name="hf_asr engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        waveform: np.ndarray,
        *,
        client: str | None = None,
        time_limit: float | None = None,
        hotwords: Sequence[Hotword] | None = None,
    ) -> Future[Transcript]:
        """Queue a recording and return the future of its transcript. Cancelling the future removes the recording.

        Args:
            waveform: Mono, float32, (samples,) in [-1, 1] at `sampling_rate`.
            client: Name of the client. Clients take turns, and each may use a share of the queue. None means a client
                without other recordings.
            time_limit: Seconds until the transcript is needed. The recording is refused if the engine is too slow.
            hotwords: Of this recording, compiled by the recogniser; None for those of the recogniser.

        Raises:
            QueueFullError: The queue is full. An empty queue accepts a recording that is longer than the queue.
            TooSlowError: Even alone, the recording would take too long for `time_limit`.
            ClosedError: `close` was called, or the engine's thread has ended.
        """
        windows = self.recognizer.split(waveform)
        key = next(self._numbers) if client is None else client
        duration = len(waveform) / self.sampling_rate
        request = _Request(Future(), key, [None] * len(windows), duration, len(windows), hotwords)
        with self._lock:
            if not self.is_alive:
                raise ClosedError("the server is stopping: it takes no more requests")
            queued_before, cost = self._queued_of[key], sum(map(self._cost, windows))
            self._admit(cost, queued_before, samples=len(waveform), time_limit=time_limit)
            self._queued += cost
            self._queued_of[key] += cost
            self._open_of[key] += 1
            now, done = time.monotonic(), 0
            for index, window in enumerate(windows):
                done += self._cost(window)
                # A window is due when it would be ready if its client had the engine alone and the client's recordings
                # took turns. So a new client overtakes a client with much audio in the queue, and no window waits for
                # ever.
                ahead = min(self._open_of[key] * done, queued_before + done)
                due = now + ahead / self.sampling_rate / self.speed
                self._jobs.put(_Job(due, next(self._numbers), request, index, window))
        return request.future

    def submit_step(self, stream: StreamingRecognizer) -> Future[list[StreamingResult]]:
        """Queue the next step of a stream, and return the future of its results.

        All steps that wait are computed in one forward, before the windows of recordings; but these are not kept
        waiting for longer than `STREAMS_TURN` times the time of a batch.

        Args:
            stream: Of this engine's recogniser, ready for a step and without a step in the queue.

        Raises:
            ClosedError: `close` was called, or the engine's thread has ended.
        """
        future: Future[list[StreamingResult]] = Future()
        with self._lock:
            if not self.is_alive:
                raise ClosedError("the server is stopping: it takes no more streams")
            self._steps.append((stream, future))
        self._wake()
        return future

    def _wake(self) -> None:
        """Let the thread look for steps."""
        self._jobs.put(_Job(STEP, next(self._numbers)))

    def _admit(self, cost: int, queued_of_client: int, *, samples: int, time_limit: float | None) -> None:
        """Raise QueueFullError or TooSlowError for a recording that would not be ready in time.

        Args:
            cost: Samples of the recording's windows, which overlap.
            queued_of_client: Samples of the same client in the queue.
            samples: Samples of the recording itself.
        """
        if not self._queued and time.monotonic() - self._measured_at > SPEED_EXPIRES_S:
            self._measured_audio = self._measured_seconds = 0.0
            self.speed = max(self.speed, FIRST_SPEED)
        share = self.options.max_client_share
        alone = math.inf if time_limit is None else MARGIN * time_limit * self.speed * self.sampling_rate
        if cost > share * alone:
            raise TooSlowError(share * alone / self.sampling_rate * samples / cost)
        in_time = alone * max(1 - self.streams_share, 1 / (1 + STREAMS_TURN))
        if cost > share * in_time:
            raise QueueFullError(STREAMS_HALF_LIFE_S)
        room = min(in_time, self.options.max_queue_seconds * self.sampling_rate)
        excess = [
            queued + cost - limit
            for queued, limit in ((self._queued, room), (queued_of_client, share * room))
            if queued and queued + cost > limit
        ]
        if excess:
            raise QueueFullError(max(1.0, max(excess) / self.sampling_rate / self.speed))

    def _cost(self, window: Window) -> int:
        """Return the samples that a window counts as: a shorter window than a second takes as long as a second."""
        return max(len(window.waveform), self.sampling_rate)

    @property
    def queued_seconds(self) -> float:
        """Seconds of audio that are accepted and not yet computed."""
        return self._queued / self.sampling_rate

    @property
    def streams_share(self) -> float:
        """Share of the thread's time that the steps of streams took in the last seconds, from 0 to 1."""
        return min(1.0, self._weighed_steps() * math.log(2) / STREAMS_HALF_LIFE_S)

    def _weighed_steps(self) -> float:
        return self._steps_weighed * 0.5 ** ((time.monotonic() - self._steps_at) / STREAMS_HALF_LIFE_S)

    @property
    def is_alive(self) -> bool:
        """Whether requests are accepted and answered."""
        return self._thread.is_alive() and not self.is_closed

    @property
    def batch_seconds(self) -> float:
        """Seconds since the current batch started; 0 if none is computed."""
        started = self._batch_started
        return 0.0 if started is None else time.monotonic() - started

    def close(self, *, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones and end the thread; wait at most `timeout` seconds."""
        with self._lock:
            if not self.is_closed:
                self.is_closed = True
                self._jobs.put(_Job(LAST, next(self._numbers)))
        self._thread.join(timeout)

    def _leave(self, job: _Job) -> None:
        """Subtract a job from what its client has in the queue."""
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
        """Compute batches until the engine is closed; the engine's thread runs this."""
        try:
            while (batch := self._next_batch()) is not None:
                self._run_batch(batch)
        finally:  # after a failure, answer the requests that still wait
            with self._lock:
                self.is_closed = True
            self._fail_steps(ClosedError("the server is stopping"))
            while not self._jobs.empty():
                if (job := self._jobs.get()).request is not None:
                    self._leave(job)
                    job.request.error = ClosedError("the server is stopping")
                    self._answer([job.request])

    def _run_batch(self, batch: list[_Job]) -> None:
        """Compute a batch and answer its requests, whatever fails."""
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
            self._batch_took, self._steps_took = time.monotonic() - self._batch_started, 0.0
            self._batch_started = None
            self._wake()
            for job in batch:  # before the answers: a client with its answer has its share of the queue again
                self._leave(job)
            requests = {id(job.request): job.request for job in batch}.values()
            is_done = [each.error is not None or all(part is not None for part in each.kept) for each in requests]
            self._answer(list(itertools.compress(requests, is_done)))

    def _next_batch(self) -> list[_Job] | None:
        """Wait for jobs and return those to compute together; None if the engine is closed and the queue is empty."""
        jobs: list[_Job] = []
        samples, until = 0, None
        while True:
            try:
                job = self._jobs.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return jobs
            if job.due == STEP:
                if not self._is_turn_of_recordings:
                    self._run_steps()
                continue
            if job.due == LAST:
                if jobs:
                    self._jobs.put(job)
                return jobs or None
            if job.request.future.done():  # cancelled, or failed at an earlier window
                self._leave(job)
                self._wake()
                continue
            samples += len(job.window.waveform)
            if jobs and samples > self.options.max_batch_seconds * self.sampling_rate:
                self._jobs.put(job)
                return jobs
            jobs.append(job)
            if until is None:
                wait = self.options.max_wait_ms / 1000 if self.options.max_batch_seconds else 0.0
                until = time.monotonic() + wait

    @property
    def _is_turn_of_recordings(self) -> bool:
        """Whether the steps that wait are left for after the next batch, which wakes the thread for them again."""
        return self._queued > 0 and self._steps_took > STREAMS_TURN * self._batch_took

    def _run_steps(self) -> None:
        """Compute the steps that wait, at most `max_batch_seconds` of audio at a time."""
        with self._lock:
            steps, self._steps = self._steps, []
        if not steps:
            return
        chunk_seconds = self.recognizer.model.config.chunk_size * self.recognizer.seconds_per_frame
        size = int(min(max(1, self.options.max_batch_seconds / chunk_seconds), len(steps)))
        self._batch_started = time.monotonic()
        for start in range(0, len(steps), size):
            self._compute_steps(steps[start : start + size])
        seconds = time.monotonic() - self._batch_started
        self._batch_started = None
        self._steps_took = self._steps_took + seconds if self._queued else 0.0
        self._steps_weighed, self._steps_at = self._weighed_steps() + seconds, time.monotonic()

    def _compute_steps(self, steps: list[tuple[StreamingRecognizer, Future[list[StreamingResult]]]]) -> None:
        """Compute steps in one forward; if it fails, compute them one by one."""
        streams = [stream for stream, _ in steps]
        try:
            encoded = encode_chunks(streams)
        except Exception as error:
            if len(steps) > 1:
                for single in steps:
                    self._compute_steps([single])
                return
            self._fail_step(steps[0][1], error)
            return
        try:
            results = decode_step(streams, encoded)
        except Exception as error:
            for _, future in steps:
                self._fail_step(future, error)
            return
        for (_, future), own in zip(steps, results, strict=True):
            with contextlib.suppress(InvalidStateError):  # the future was cancelled in the meantime
                future.set_result(own)

    def _fail_step(self, future: Future, error: Exception) -> None:
        """Log an error, and give it to the future of a step."""
        logger.error("a step of a stream failed", exc_info=error)
        with contextlib.suppress(InvalidStateError):
            future.set_exception(RuntimeError(f"the engine failed: {error!r}"))

    def _fail_steps(self, error: Exception) -> None:
        """Give the steps that wait this error."""
        with self._lock:
            steps, self._steps = self._steps, []
        for _, future in steps:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)

    def _compute(self, jobs: list[_Job]) -> None:
        """Compute what the decoder keeps of each job's window; if a batch fails, compute its windows one by one."""
        windows = [job.window for job in jobs]
        started = time.monotonic()
        try:
            # Windows of similar length go together: a short one would be padded to the length of the longest.
            for group in batches(
                windows, batch_seconds=self.options.max_batch_seconds, sampling_rate=self.sampling_rate
            ):
                kept = self.recognizer.keep([windows[i] for i in group])
                for i, part in zip(group, kept, strict=True):
                    jobs[i].request.kept[jobs[i].index] = part
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].request.error = error
            else:
                for job in jobs:  # so that only the recording that causes the failure fails
                    self._compute([job])
            return
        elapsed = time.monotonic() - started
        self._measure(sum(map(self._cost, windows)) / self.sampling_rate, elapsed)
        try:
            self.on_batch(len(jobs), elapsed)
        except Exception:
            logger.exception("a batch was computed, but could not be counted")

    def _measure(self, audio: float, seconds: float) -> None:
        """Update the average speed with a batch of `audio` seconds that took `seconds`."""
        if not self._is_warm:  # the first batch includes compilation and allocation
            self._is_warm = True
            return
        self._measured_at = time.monotonic()
        kept = 0.5 ** (audio / SPEED_HALF_LIFE)
        self._measured_audio = kept * self._measured_audio + audio
        self._measured_seconds = kept * self._measured_seconds + max(seconds, 1e-6)
        self.speed = self._measured_audio / self._measured_seconds

    def _answer(self, requests: list[_Request]) -> None:
        """Set transcripts or errors as the results of futures; if decoding fails together, decode one by one."""
        complete = [request for request in requests if request.error is None]
        transcripts = {}
        try:
            found = self.recognizer.decode(
                [request.kept for request in complete],
                durations=[request.duration for request in complete],
                hotwords=[request.hotwords for request in complete],
            )
            transcripts = dict(zip(map(id, complete), found, strict=True))
        except Exception as error:  # must not end the thread
            if len(requests) > 1:
                for request in requests:
                    self._answer([request])
                return
            requests[0].error = error
        for request in requests:
            with contextlib.suppress(InvalidStateError):  # the future was cancelled in the meantime
                if request.error is not None:
                    request.future.set_exception(request.error)
                else:
                    request.future.set_result(transcripts[id(request)])
