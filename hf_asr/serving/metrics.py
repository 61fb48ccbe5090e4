"""Figures of a server for Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .engine import Engine

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
WINDOWS = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Timed:
    status: int = 500  # of a request that ended in an exception


class Metrics:
    """Counters of one application, which it tells by itself: several may live in a process."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("hf_asr_requests", "requests by path and status", ["path", "status"], **own)
        self.seconds = Histogram("hf_asr_request_seconds", "time of a request", ["path"], buckets=SECONDS, **own)
        self.audio_seconds = Counter("hf_asr_audio_seconds", "seconds of audio transcribed", **own)
        self.batch_windows = Histogram("hf_asr_batch_windows", "windows of a batch", buckets=WINDOWS, **own)
        self.batch_seconds = Counter("hf_asr_batch_seconds", "seconds that the model computed", **own)
        queued = Gauge("hf_asr_queued_audio_seconds", "seconds of audio accepted and not yet transcribed", **own)
        queued.set_function(lambda: engine.queued_seconds)
        engine.on_batch = self._count_batch

    def _count_batch(self, windows: int, seconds: float) -> None:
        self.batch_windows.observe(windows)
        self.batch_seconds.inc(seconds)

    @contextmanager
    def time(self, path: str) -> Iterator[Timed]:
        """Counts a request with the status that the block sets."""
        started, timed = time.perf_counter(), Timed()
        try:
            yield timed
        finally:
            self.requests.labels(path, timed.status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - started)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
