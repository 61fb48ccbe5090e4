"""Figures of the server for Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .engine import Engine

SECONDS_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
WINDOWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class MeasuredRequest:
    """The HTTP status of a request; 500 until it is set, so that a request that ends in an exception counts as 500."""

    status: int = 500


class ServerMetrics:
    """Counters of one application, in a registry of their own: a process may have several applications."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("hf_asr_requests", "requests by path and status", ["path", "status"], **own)
        self.seconds = Histogram(
            "hf_asr_request_seconds", "time of a request", ["path"], buckets=SECONDS_BUCKETS, **own
        )
        self.audio_seconds = Counter("hf_asr_audio_seconds", "seconds of audio transcribed", **own)
        self.batch_windows = Histogram("hf_asr_batch_windows", "windows in a batch", buckets=WINDOWS_BUCKETS, **own)
        self.batch_seconds = Counter("hf_asr_batch_seconds", "seconds of model computation", **own)
        queued = Gauge("hf_asr_queued_audio_seconds", "seconds of audio accepted and not yet transcribed", **own)
        queued.set_function(lambda: engine.queued_seconds)
        engine.on_batch = self._count_batch

    def _count_batch(self, windows: int, seconds: float) -> None:
        self.batch_windows.observe(windows)
        self.batch_seconds.inc(seconds)

    @contextmanager
    def measure(self, path: str) -> Iterator[MeasuredRequest]:
        """Count and time a request; the block sets its status."""
        started, request = time.perf_counter(), MeasuredRequest()
        try:
            yield request
        finally:
            self.requests.labels(path, request.status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - started)

    def render(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)
