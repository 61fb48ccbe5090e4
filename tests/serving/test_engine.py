import threading
import time

import numpy as np
import pytest

from hf_asr.decoding.recognizer import recognize
from hf_asr.serving import engine as engine_module
from hf_asr.serving.engine import ClosedError, Engine, EngineOptions, QueueFullError


@pytest.fixture
def start(parts):
    """Makes an engine, closed at the end."""
    engines = []

    def make(**options) -> Engine:
        engines.append(Engine(*parts, EngineOptions(**options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(timeout=60)


@pytest.fixture
def gate(monkeypatch):
    """Holds every batch until it is set; lists the numbers of their windows."""
    event, sizes = threading.Event(), []
    original = engine_module.best_paths

    def held(model, processor, windows):
        sizes.append(len(windows))
        event.wait(60)
        return original(model, processor, windows)

    monkeypatch.setattr(engine_module, "best_paths", held)
    event.sizes = sizes
    return event


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def test_many_clients_get_what_each_would_alone(parts, start):
    engine = start()
    waveforms = [noise(0.3 + 0.37 * (i % 7), seed=i) for i in range(30)]
    futures = [engine.submit(waveform) for waveform in waveforms]
    together = [future.result(60) for future in futures]
    alone = [recognize(*parts, [waveform])[0] for waveform in waveforms]
    assert [item.text for item in together] == [item.text for item in alone]
    assert engine.queued_seconds == pytest.approx(0.0)


def test_a_long_recording_is_put_together_from_its_windows(parts, start):
    waveform = noise(70)
    assert start().submit(waveform).result(60).text == recognize(*parts, [waveform])[0].text


def test_what_waits_is_computed_together(start, gate):
    engine = start(max_batch_seconds=10)
    first = engine.submit(noise(1))
    while not gate.sizes:
        time.sleep(0.01)
    futures = [engine.submit(noise(2, seed=i)) for i in range(8)]
    gate.set()
    for future in [first, *futures]:
        future.result(60)
    assert gate.sizes == [1, 5, 3]  # ten seconds of two each


def test_without_batching_each_is_computed_alone(start, gate):
    gate.set()
    engine = start(max_batch_seconds=0)
    for future in [engine.submit(noise(1, seed=i)) for i in range(4)]:
        future.result(60)
    assert set(gate.sizes) == {1}


def test_a_short_request_passes_a_long_one(start, gate):
    engine = start(max_batch_seconds=0)
    order = []
    long = engine.submit(noise(200))
    long.add_done_callback(lambda _: order.append("long"))
    short = engine.submit(noise(1))
    short.add_done_callback(lambda _: order.append("short"))
    gate.set()
    long.result(120)
    assert order == ["short", "long"]


def test_a_full_queue_refuses_and_says_when_to_come_again(start, gate):
    engine = start(max_queue_seconds=5)
    accepted = [engine.submit(noise(2)), engine.submit(noise(2))]
    with pytest.raises(QueueFullError) as caught:
        engine.submit(noise(2))
    assert caught.value.retry_after >= 1
    gate.set()
    for future in accepted:
        future.result(60)
    assert engine.submit(noise(60)).result(60) is not None  # longer than the whole queue, but nobody else waits


def test_a_cancelled_request_is_not_computed(start, gate):
    engine = start(max_batch_seconds=0)
    first, second = engine.submit(noise(1)), engine.submit(noise(1))
    assert second.cancel()
    gate.set()
    first.result(60)
    engine.close(timeout=60)
    assert len(gate.sizes) == 1 and engine.queued_seconds == pytest.approx(0.0)


def test_one_that_fails_does_not_fail_the_others(start, monkeypatch):
    original = engine_module.best_paths

    def fails_on_silence(model, processor, windows):
        if any(not window.waveform.any() for window in windows):
            raise RuntimeError("silence")
        return original(model, processor, windows)

    monkeypatch.setattr(engine_module, "best_paths", fails_on_silence)
    engine = start(max_wait_ms=200)
    futures = [engine.submit(noise(1)), engine.submit(np.zeros(16000, np.float32)), engine.submit(noise(1, seed=1))]
    assert futures[0].result(60) is not None and futures[2].result(60) is not None
    with pytest.raises(RuntimeError, match="silence"):
        futures[1].result(60)


def test_the_engine_outlives_any_failure(start, monkeypatch):
    engine = start(max_wait_ms=0)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "join", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.submit(noise(1)).result(60)
    assert engine.submit(noise(1)).result(60) is not None and engine.is_alive


def test_a_recording_leaves_the_queue_window_by_window(start, gate):
    engine = start(max_batch_seconds=0, max_queue_seconds=130)
    long = engine.submit(noise(120))
    with pytest.raises(QueueFullError):
        engine.submit(noise(30))
    gate.set()
    while engine.queued_seconds > 90:
        time.sleep(0.01)
    assert engine.submit(noise(30)).result(60) is not None
    long.result(60)
    for _ in range(100):
        engine.submit(noise(0.333)).result(60)
    engine.close(timeout=60)
    assert engine.queued_seconds == 0  # exactly: a rest would refuse what is longer than the queue


def test_closing_finishes_what_was_accepted_and_takes_no_more(start, gate):
    engine = start(max_batch_seconds=0)
    futures = [engine.submit(noise(40, seed=i)) for i in range(3)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine.is_closed:
        time.sleep(0.01)
    with pytest.raises(ClosedError):
        engine.submit(noise(1))
    gate.set()
    closing.join(60)
    assert all(future.done() and future.result() is not None for future in futures)
