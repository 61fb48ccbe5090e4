import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hf_asr.decoding.greedy import BestTokens
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.serving import engine as engine_module
from hf_asr.serving.engine import ClosedError, Engine, EngineOptions, QueueFullError, TooSlowError
from hf_asr.serving.options import ServerOptions


@pytest.fixture
def start(parts):
    """Return an engine with these options, which is closed after the test."""
    engines = []

    def make(**options) -> Engine:
        engines.append(Engine(Recognizer(*parts), EngineOptions(**options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(timeout=60)


@pytest.fixture
def gate(monkeypatch):
    """Return an event that every batch waits for; its `sizes` are the number of windows of each batch."""
    event, sizes = threading.Event(), []
    original = Recognizer.keep

    def held(recognizer, windows):
        sizes.append(len(windows))
        event.wait(60)
        return original(recognizer, windows)

    monkeypatch.setattr(Recognizer, "keep", held)
    event.sizes = sizes
    return event


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def test_batched_transcripts_equal_single_transcripts(parts, start):
    engine = start()
    waveforms = [noise(0.3 + 0.37 * (i % 7), seed=i) for i in range(30)]
    futures = [engine.submit(waveform) for waveform in waveforms]
    together = [future.result(60) for future in futures]
    alone = [Recognizer(*parts).transcribe([waveform])[0] for waveform in waveforms]
    assert [item.text for item in together] == [item.text for item in alone]
    assert engine.queued_seconds == pytest.approx(0.0)


def test_long_recording_is_joined_from_its_windows(parts, start):
    waveform = noise(70)
    assert start().submit(waveform).result(60).text == Recognizer(*parts).transcribe([waveform])[0].text


def test_waiting_recordings_are_batched(start, gate):
    engine = start(max_batch_seconds=10)
    first = engine.submit(noise(1))
    while not gate.sizes:
        time.sleep(0.01)
    futures = [engine.submit(noise(2, seed=i)) for i in range(8)]
    gate.set()
    for future in [first, *futures]:
        future.result(60)
    assert gate.sizes == [1, 5, 3]  # ten seconds hold five of two seconds


def test_zero_batch_seconds_computes_each_window_alone(start, gate):
    gate.set()
    engine = start(max_batch_seconds=0)
    for future in [engine.submit(noise(1, seed=i)) for i in range(4)]:
        future.result(60)
    assert set(gate.sizes) == {1}


def test_short_request_overtakes_a_long_one(start, gate):
    engine = start(max_batch_seconds=0)
    order = []
    long = engine.submit(noise(200))
    long.add_done_callback(lambda _: order.append("long"))
    short = engine.submit(noise(1))
    short.add_done_callback(lambda _: order.append("short"))
    gate.set()
    long.result(120)
    assert order == ["short", "long"]


def test_full_queue_is_an_error_with_retry_after(start, gate):
    engine = start(max_queue_seconds=5)
    accepted = [engine.submit(noise(2)), engine.submit(noise(2))]
    with pytest.raises(QueueFullError) as caught:
        engine.submit(noise(2))
    assert caught.value.retry_after >= 1
    gate.set()
    for future in accepted:
        future.result(60)
    assert engine.submit(noise(60)).result(60) is not None  # longer than the queue, which is empty


def test_cancelled_request_is_not_computed(start, gate):
    engine = start(max_batch_seconds=0)
    first, second = engine.submit(noise(1)), engine.submit(noise(1))
    assert second.cancel()
    gate.set()
    first.result(60)
    engine.close(timeout=60)
    assert len(gate.sizes) == 1 and engine.queued_seconds == pytest.approx(0.0)


def test_failing_recording_does_not_fail_its_batch(start, monkeypatch):
    original = Recognizer.keep

    def fails_on_silence(recognizer, windows):
        if any(not window.waveform.any() for window in windows):
            raise RuntimeError("silence")
        return original(recognizer, windows)

    monkeypatch.setattr(Recognizer, "keep", fails_on_silence)
    engine = start(max_wait_ms=200)
    futures = [engine.submit(noise(1)), engine.submit(np.zeros(16000, np.float32)), engine.submit(noise(1, seed=1))]
    assert futures[0].result(60) is not None and futures[2].result(60) is not None
    with pytest.raises(RuntimeError, match="silence"):
        futures[1].result(60)


def test_engine_survives_a_failing_decoder(start, monkeypatch):
    engine = start(max_wait_ms=0)
    with monkeypatch.context() as patch:
        patch.setattr(Recognizer, "decode", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.submit(noise(1)).result(60)
    assert engine.submit(noise(1)).result(60) is not None and engine.is_alive


def test_queue_shrinks_window_by_window(start, gate):
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
    assert engine.queued_seconds == 0  # exactly: a remainder would refuse recordings longer than the queue


def test_close_finishes_accepted_requests_and_refuses_new_ones(start, gate):
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


def test_exception_in_the_metrics_is_logged_and_the_request_is_answered(start, caplog):
    engine = start(max_wait_ms=0)
    engine.on_batch = lambda windows, seconds: 1 / 0
    assert engine.submit(noise(1)).result(60) is not None
    assert engine.submit(noise(1)).result(60) is not None and engine.is_alive
    assert "could not be counted" in caplog.text


@pytest.mark.parametrize("place", ["_measure", "_compute"])
def test_failure_outside_the_model_fails_only_its_batch(start, monkeypatch, place):
    engine = start(max_wait_ms=0)
    with monkeypatch.context() as patch:
        patch.setattr(engine, place, lambda *args: 1 / 0)
        with pytest.raises(RuntimeError, match="the engine failed: ZeroDivisionError"):
            engine.submit(noise(1)).result(60)
    assert engine.submit(noise(1)).result(60) is not None and engine.queued_seconds == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_thread_answers_waiting_requests_and_refuses_new_ones(start, gate, monkeypatch):
    def exits(*args):
        gate.wait(60)
        raise SystemExit

    monkeypatch.setattr(Recognizer, "keep", exits)
    engine = start(max_batch_seconds=0)
    futures = [engine.submit(noise(1, seed=i)) for i in range(3)]
    gate.set()
    with pytest.raises(RuntimeError, match="the engine failed: SystemExit"):
        futures[0].result(60)
    for future in futures[1:]:
        with pytest.raises(ClosedError):
            future.result(60)
    with pytest.raises(ClosedError, match="takes no more requests"):
        engine.submit(noise(1))
    assert not engine.is_alive and engine.queued_seconds == 0


def test_one_client_can_use_half_of_the_queue(start, gate):
    engine = start(max_batch_seconds=0, max_queue_seconds=12)
    accepted = [engine.submit(noise(2), client="greedy") for _ in range(3)]
    with pytest.raises(QueueFullError):
        engine.submit(noise(2), client="greedy")
    accepted += [engine.submit(noise(2), client=name) for name in ("a", "b", "c")]
    with pytest.raises(QueueFullError):
        engine.submit(noise(2), client="d")
    gate.set()
    for future in accepted:
        future.result(60)
    assert engine.submit(noise(2), client="greedy").result(60) is not None


def test_clients_and_their_recordings_take_turns(start, gate):
    engine, order = start(max_batch_seconds=0), []

    def submit(name: str, seconds: float, client: str) -> None:
        engine.submit(noise(seconds), client=client).add_done_callback(lambda _: order.append(name))

    submit("first", 1, "other")  # is computed while the others are submitted
    while not gate.sizes:
        time.sleep(0.01)
    submit("long", 300, "greedy")
    for i in range(5):
        submit(f"greedy {i}", 20, "greedy")
    submit("greedy short", 1, "greedy")
    submit("newcomer", 20, "new")
    gate.set()
    engine.close(timeout=120)
    assert order.index("newcomer") < order.index("greedy 1") and order.index("greedy short") < order.index("greedy 1")
    assert order[0] == "first" and order[-1] == "long"


@pytest.fixture
def slow_machine(parts, monkeypatch):
    """Return an engine with a simulated clock and a model that computes `speed` seconds of audio per second.

    `hook` is called after each batch. `finished` lists the seconds from submission to answer of each request.
    """
    clock = SimpleNamespace(now=1000.0, speed=1.0, finished=[], hook=lambda: None, gate=threading.Event())
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    blank = BestTokens(np.zeros(1, np.int64), np.zeros(1, np.float32))
    engines = []

    def make(*, speed: float) -> SimpleNamespace:
        def compute(recognizer, windows):
            clock.gate.wait(60)
            clock.now += sum(len(window.waveform) for window in windows) / 16000 / clock.speed
            clock.hook()
            return [blank for _ in windows]

        monkeypatch.setattr(Recognizer, "keep", compute)
        engine = Engine(Recognizer(*parts), EngineOptions(max_wait_ms=0))
        engines.append(engine)
        clock.speed = speed
        clock.gate.set()
        for _ in range(2):
            engine.submit(np.zeros(16000 * 10, np.float32)).result(60)
        clock.gate.clear()
        assert engine.speed == pytest.approx(speed)

        def submit(seconds: float, client: str, time_limit: float) -> None:
            started = clock.now
            waveform = np.zeros(int(16000 * seconds), np.float32)
            future = engine.submit(waveform, client=client, time_limit=time_limit)
            future.add_done_callback(lambda _: clock.finished.append(clock.now - started))

        clock.engine, clock.submit = engine, submit
        return clock

    yield make
    clock.gate.set()
    for engine in engines:
        engine.close(timeout=60)


def test_longest_recording_is_in_time_at_six_times_real_time(slow_machine):
    machine, options = slow_machine(speed=6), ServerOptions()
    machine.submit(options.max_audio_seconds, "a", options.transcription_timeout_s)
    machine.gate.set()
    machine.engine.close(timeout=60)
    assert len(machine.finished) == 1 and machine.finished[0] < options.transcription_timeout_s


def test_slower_machine_reports_the_longest_accepted_recording(slow_machine):
    machine, limit = slow_machine(speed=2), ServerOptions().transcription_timeout_s
    with pytest.raises(TooSlowError) as refused:
        machine.submit(1200, "a", limit)
    assert 400 < refused.value.max_seconds < 600
    machine.submit(refused.value.max_seconds - 30, "a", limit)


def test_accepted_requests_are_in_time_under_overload(slow_machine):
    limit, machine = ServerOptions().transcription_timeout_s, slow_machine(speed=6)
    refused, names = [], iter(range(10_000))

    def fill() -> None:
        """Submit recordings of many clients until the queue is full."""
        for seconds in (700, 100, 20):
            for _ in range(20):
                try:
                    machine.submit(seconds, str(next(names) // 2), limit)
                except QueueFullError as error:
                    refused.append(error.retry_after)
                    break

    fill()
    machine.hook = lambda: fill() if machine.now < 6000 else None
    machine.gate.set()
    while machine.now < 6000 or machine.engine.queued_seconds:
        time.sleep(0.01)
    machine.engine.close(timeout=60)
    assert len(machine.finished) > 50 and max(machine.finished) < limit
    assert refused and max(refused) < limit


def test_speed_follows_the_latest_batches(slow_machine):
    machine = slow_machine(speed=6)  # also asserts the measured speed
    machine.speed = 1
    for _ in range(30):
        machine.submit(30, "a", 1e6)
    machine.gate.set()
    machine.engine.close(timeout=60)
    assert machine.engine.speed == pytest.approx(1, rel=0.1)


def test_slow_measurement_expires(slow_machine):
    machine = slow_machine(speed=0.1)
    with pytest.raises(TooSlowError):
        machine.submit(60, "a", 60)
    machine.now += 61
    machine.speed = 100
    machine.submit(60, "a", 60)
    machine.gate.set()
    machine.engine.close(timeout=60)
    assert machine.engine.speed == pytest.approx(100)


@pytest.mark.parametrize("options", [{"max_client_share": 0}, {"max_client_share": 2}, {"max_queue_seconds": -1}])
def test_invalid_option_is_an_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        EngineOptions(**options)
