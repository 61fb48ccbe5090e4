"""Live audio over /v1/stream: the text of the stream, its limits, and clients that do not behave."""

import asyncio
import contextlib
import gc
import io
import itertools
import json
import os
import re
import socket as sockets
import threading
import time
import weakref
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect as aconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.export.onnx import export_onnx
from hf_asr.serving import engine as engine_module
from hf_asr.serving import routes_stream, sessions
from hf_asr.serving.app import create_app
from hf_asr.serving.engine import ClosedError, Engine, EngineOptions, QueueFullError, TooSlowError
from hf_asr.serving.options import ServerOptions
from hf_asr.serving.run import MAX_MESSAGE_BYTES, load_engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def serve(streaming_recognizer):
    """Return a client of a server with these options."""
    clients = []

    def make(recognizer: Recognizer = streaming_recognizer, **options) -> TestClient:
        engine = Engine(recognizer, EngineOptions(max_client_share=1.0))
        clients.append(TestClient(create_app(engine, ServerOptions(**options))))
        clients[-1].app.state.engine = engine
        return clients[-1].__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def pcm(seconds: float, seed: int = 0, *, rate: int = 16000) -> bytes:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(rate * seconds))
    return (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def results(socket) -> list[dict]:
    """Return all messages of the server until the stream is done."""
    messages = [socket.receive_json()]
    while messages[-1]["type"] not in ("done", "error"):
        messages.append(socket.receive_json())
    return messages


def stream(client: TestClient, data: bytes, *, size: int = 3201, query: str = "") -> list[dict]:
    with client.websocket_connect(f"/v1/stream{query}") as socket:
        for start in range(0, len(data), size):
            socket.send_bytes(data[start : start + size])
        socket.send_json({"type": "end"})
        return results(socket)


def finals(recognizer: Recognizer, data: bytes) -> list[str]:
    live = StreamingRecognizer(recognizer)
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    return [result.text for result in live.accept(samples) + live.finish() if result.is_final]


@pytest.mark.parametrize("size", [3201, 100000])  # bytes of a message; half a sample waits for the next one
def test_the_text_of_a_stream(serve, streaming_recognizer, size):
    *messages, done = stream(serve(), pcm(3), size=size)
    assert done == {"type": "done"}
    assert [message["text"] for message in messages if message["type"] == "final"] == finals(
        streaming_recognizer, pcm(3)
    )
    word = messages[-1]["words"][-1]
    assert set(word) == {"word", "start", "end", "confidence"} and 0 < word["start"] < word["end"] <= 3
    assert {message["type"] for message in messages} == {"partial", "final"}


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_other_sampling_rates_are_resampled_without_a_trace_of_the_messages(serve, streaming_recognizer, rate):
    data = pcm(2, rate=rate)
    resampled = soxr.resample(np.frombuffer(data, "<i2").astype(np.float32) / 32768, rate, 16000)
    live = StreamingRecognizer(streaming_recognizer)
    expected = [result.text for result in live.accept(resampled) + live.finish() if result.is_final]
    for size in (997, 100000):
        *messages, done = stream(serve(), data, size=size, query=f"?sampling_rate={rate}")
        assert done == {"type": "done"} and messages[-1]["words"][-1]["end"] <= 2
        assert [message["text"] for message in messages if message["type"] == "final"] == expected


def test_single_bytes_and_half_a_sample_at_the_end(serve, streaming_recognizer):
    *messages, done = stream(serve(), pcm(0.4) + b"\x7f", size=1)
    assert done == {"type": "done"} and messages[-1]["text"]
    assert [message["text"] for message in messages if message["type"] == "final"] == finals(
        streaming_recognizer, pcm(0.4)
    )


def test_clipped_audio_gives_the_text_of_the_clipped_recording(serve, streaming_recognizer):
    loud = (np.random.default_rng(0).normal(0, 3, 32000) * 32768).clip(-32768, 32767).astype("<i2")
    assert (np.abs(loud.astype(int)) >= 32767).mean() > 0.5
    *messages, done = stream(serve(), loud.tobytes())
    assert done == {"type": "done"}
    text = streaming_recognizer.transcribe(loud.astype(np.float32) / 32768).text
    assert "".join(message["text"] for message in messages if message["type"] == "final") == text


def test_an_empty_stream_is_done(serve):
    assert stream(serve(), b"") == [{"type": "done"}]


def test_streams_at_the_same_time_get_their_own_texts(serve, streaming_recognizer):
    client, texts = serve(), {}

    def run(seed: int) -> None:
        texts[seed] = [m["text"] for m in stream(client, pcm(2, seed), size=6400) if m["type"] == "final"]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: finals(streaming_recognizer, pcm(2, seed)) for seed in range(4)}


def refusal(client: TestClient, *, query: str = "", send=(), **options) -> tuple[str, int]:
    """Return the message of the error and the code of the closed connection."""
    with client.websocket_connect(f"/v1/stream{query}", **options) as socket:
        for message in send:
            (socket.send_bytes if isinstance(message, bytes) else socket.send_text)(message)
        *_, error = results(socket)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert error["type"] == "error"
    return error["message"], closed.value.code


@pytest.mark.slow
def test_an_exported_graph_serves_streams_and_files(serve, streaming_recognizer, tmp_path):
    model, processor = streaming_recognizer.model, streaming_recognizer.processor
    export_onnx(model, processor.feature_extractor, tmp_path / "model-streaming.onnx", exporter="onnx-streaming")
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    engine = load_engine(str(tmp_path), EngineOptions(chunk_size=4, num_left_chunks=3))
    engine.close()
    client, data, file = serve(engine.recognizer), pcm(3), io.BytesIO()
    *messages, done = stream(client, data)
    assert done == {"type": "done"}
    texts = [message["text"] for message in messages if message["type"] == "final"]
    assert texts == finals(streaming_recognizer, data)
    soundfile.write(file, np.frombuffer(data, "<i2"), 16000, format="WAV")
    answer = client.post("/transcribe", files={"audio": ("a.wav", file.getvalue())}).json()
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    assert answer["text"] == streaming_recognizer.transcribe(samples).text


def test_a_text_message_that_is_not_the_end_is_refused(serve):
    client = serve()
    for message in ("end", "{}", '{"type": "stop"}', "[1]", "[" * 100000):
        assert refusal(client, send=[message]) == (
            'a text message must be {"type": "end"}, or {"type": "hotwords", "hotwords": […]} before all audio; audio '
            "is sent in binary messages",
            1008,
        )


@pytest.mark.parametrize("rate", ["0", "7999", "192001", "x", "1e4", "²", "9" * 5000])
def test_an_impossible_rate_is_refused(serve, rate):
    message, code = refusal(serve(), query=f"?sampling_rate={rate}")
    assert "sampling_rate must be between 8000 and 192000 Hz" in message and code == 1008


def test_a_model_that_cannot_stream_says_why(serve, parts):
    message, code = refusal(serve(Recognizer(*parts)))
    assert "cannot stream" in message and code == 1008


def test_a_silent_client_is_disconnected(serve):
    assert refusal(serve(stream_timeout_s=0.1)) == ("no audio for 0.1 s", 1008)


def test_empty_messages_do_not_keep_a_stream_open(serve):
    with serve(stream_timeout_s=0.3).websocket_connect("/v1/stream") as socket:
        for _ in range(50):
            socket.send_bytes(b"")
            time.sleep(0.01)
        assert results(socket) == [{"type": "error", "message": "no audio for 0.3 s"}]


def test_a_stream_that_is_too_long_is_ended(serve):
    assert refusal(serve(max_stream_seconds=1), send=[pcm(2)]) == ("the stream is longer than 1 s", 1008)


def test_the_number_of_streams_is_bounded(serve):
    client = serve(max_streams=2)
    with client.websocket_connect("/v1/stream"), client.websocket_connect("/v1/stream"):
        message, code = refusal(client)
        assert "too many requests at once" in message and code == 1013
    assert stream(client, b"") == [{"type": "done"}]


def test_the_api_key_is_required(serve):
    client = serve(api_key="secret")
    assert refusal(client)[1] == refusal(client, headers={"Authorization": "Bearer wrong"})[1] == 1008
    with client.websocket_connect("/v1/stream", headers={"Authorization": "Bearer secret"}) as socket:
        socket.send_json({"type": "end"})
        assert results(socket) == [{"type": "done"}]


def test_pages_of_other_origins_are_refused(serve):
    client = serve(cors_origins=["https://good.example"])
    for origin in ("https://evil.example", "http://[", "null"):
        message, code = refusal(client, headers={"Origin": origin})
        assert f"{origin} are not allowed" in message and code == 1008
    for origin in ("https://good.example", "http://testserver"):
        with client.websocket_connect("/v1/stream", headers={"Origin": origin}) as socket:
            socket.send_json({"type": "end"})
            assert results(socket) == [{"type": "done"}]


def test_a_client_that_disconnects_frees_its_place_and_leaves_nothing(serve, monkeypatch):
    client, made = serve(max_streams=1), weakref.WeakSet()

    def make(recognizer: Recognizer) -> StreamingRecognizer:
        live = StreamingRecognizer(recognizer)
        made.add(live)
        return live

    monkeypatch.setattr(sessions, "StreamingRecognizer", make)
    threads = threading.active_count()
    for _ in range(3):
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_bytes(pcm(0.5))
    assert stream(client, b"") == [{"type": "done"}]
    until = time.monotonic() + 60
    while made and time.monotonic() < until:
        gc.collect()
        time.sleep(0.1)  # a collection keeps the threads of the server waiting
    assert not made and not client.app.state.engine._steps
    assert threading.active_count() <= threads + (os.cpu_count() or 1) + 4  # asyncio's own


def test_a_failure_of_one_stream_does_not_end_the_others(serve, streaming_recognizer, monkeypatch):
    client, forward = serve(), streaming_recognizer.model.forward
    quiet = np.frombuffer(pcm(1), "<i2").astype(np.float32) / 32768
    loudest = streaming_recognizer.processor(quiet, sampling_rate=16000)["input_features"].amax()

    def fail(features, *args, **kwargs):
        if features.amax() > loudest:
            raise RuntimeError("broken")
        return forward(features, *args, **kwargs)

    monkeypatch.setattr(streaming_recognizer.model, "forward", fail)
    loud = np.full(16000, 32767, "<i2") * np.where(np.arange(16000) // 20 % 2, 1, -1).astype("<i2")
    assert refusal(client, send=[loud.tobytes()]) == ("the server failed; its log has the reason", 1011)
    assert stream(client, pcm(1))[-1] == {"type": "done"}


def test_steps_of_a_closed_engine_are_refused(streaming_recognizer):
    engine, live = Engine(streaming_recognizer), StreamingRecognizer(streaming_recognizer)
    engine.close()
    live.add(np.zeros(16000, np.float32))
    with pytest.raises(ClosedError):
        engine.submit_step(live)


def test_any_batch_size_computes_steps(streaming_recognizer):
    for seconds in (0.0, 1e-9, float("inf")):
        engine = Engine(streaming_recognizer, EngineOptions(max_batch_seconds=seconds))
        streams = [StreamingRecognizer(streaming_recognizer) for _ in range(3)]
        for live in streams:
            live.add(np.zeros(16000, np.float32))
        for future in [engine.submit_step(live) for live in streams]:
            future.result(10)
        engine.close()


def test_a_server_in_chunks_needs_a_checkpoint_that_streams(checkpoint, streaming_recognizer, tmp_path):
    with pytest.raises(ValueError, match="was not trained in chunks"):
        load_engine(str(checkpoint), EngineOptions(chunk_size=16, num_left_chunks=8))
    streaming_recognizer.model.config.num_left_chunks = -1
    streaming_recognizer.model.save_pretrained(tmp_path)
    streaming_recognizer.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="--num_left_chunks 8"):
        load_engine(str(tmp_path), EngineOptions(chunk_size=16))
    load_engine(str(tmp_path), EngineOptions(chunk_size=16, num_left_chunks=8)).close()


@pytest.fixture
def busy_engine(streaming_recognizer):
    """An engine with a stream that always has a step in the queue, until the event is set; returns both."""
    engine, done = Engine(streaming_recognizer, EngineOptions(max_client_share=1.0)), threading.Event()
    live = StreamingRecognizer(streaming_recognizer)

    def submit(_=None) -> None:
        live.add(np.zeros(16000, np.float32))
        if not done.is_set():
            engine.submit_step(live).add_done_callback(submit)  # which the engine's thread calls

    submit()
    yield engine, done
    done.set()
    engine.close()


def test_recordings_get_their_turn_beside_streams_that_send_as_fast_as_they_can(busy_engine):
    engine, _ = busy_engine
    waits = [engine.submit(np.zeros(seconds * 16000, np.float32)) for seconds in (1, 100)]
    waits[1].cancel()
    waits[0].result(20)
    engine.submit(np.zeros(16000, np.float32)).result(20)


def test_a_recording_that_streams_would_delay_is_refused_at_once(busy_engine, monkeypatch):
    engine, done = busy_engine
    monkeypatch.setattr(engine_module, "STREAMS_HALF_LIFE_S", 0.05)
    time.sleep(0.5)
    assert engine.streams_share > 0.5
    engine.speed = 10.0  # half of 4 s is enough for 20 s of audio, and for 4 s beside the streams
    with pytest.raises(QueueFullError):
        engine.submit(np.zeros(160000, np.float32), time_limit=4)
    with pytest.raises(TooSlowError):
        engine.submit(np.zeros(480000, np.float32), time_limit=4)
    engine.submit(np.zeros(16000, np.float32), time_limit=4).result(20)
    done.set()
    time.sleep(0.5)
    assert engine.streams_share < 0.1
    engine.speed = 10.0
    engine.submit(np.zeros(160000, np.float32), time_limit=4).result(20)


def test_steps_that_wait_share_a_forward(streaming_recognizer, monkeypatch):
    """And come before the windows of recordings, however many these are."""
    engine, order = Engine(streaming_recognizer, EngineOptions(max_batch_seconds=1.0)), []
    started, go = threading.Event(), threading.Event()
    keep, run_steps = streaming_recognizer.keep, engine._compute_steps

    def slow(windows):
        order.append("window")
        started.set()
        go.wait(10)
        return keep(windows)

    monkeypatch.setattr(streaming_recognizer, "keep", slow)
    monkeypatch.setattr(engine, "_compute_steps", lambda steps: (order.append(len(steps)), run_steps(steps)))
    waits = [engine.submit(np.zeros(16000, np.float32)) for _ in range(3)]
    assert started.wait(10)
    streams = [StreamingRecognizer(streaming_recognizer) for _ in range(3)]
    for live in streams:
        live.add(np.zeros(16000, np.float32))
    waits += [engine.submit_step(live) for live in streams]
    go.set()
    for future in waits:
        future.result(30)
    engine.close()
    assert list(itertools.takewhile(lambda kind: kind == "window", order)) == ["window"]
    assert order[1] == 3


def test_the_client_in_the_documents(listen, streaming_recognizer, tmp_path, monkeypatch, capsys):
    (client,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), flags=re.DOTALL)
        if "/v1/stream" in block
    )
    soundfile.write(tmp_path / "recording.wav", np.frombuffer(pcm(1.5), "<i2"), 16000)
    monkeypatch.chdir(tmp_path)
    exec(compile(client.replace("127.0.0.1:5000", f"127.0.0.1:{listen()}"), "serving.md", "exec"), {})
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [m["text"] for m in messages if m["type"] == "final"] == finals(streaming_recognizer, pcm(1.5))
    assert messages[-1] == {"type": "done"}


def test_a_message_that_is_too_large_ends_the_connection(listen):
    with connect(f"ws://127.0.0.1:{listen()}/v1/stream") as server:
        server.send(bytes(MAX_MESSAGE_BYTES + 2))
        with pytest.raises(ConnectionClosed) as closed:
            server.recv(10)
    assert closed.value.rcvd.code == 1009


def test_300_sessions_at_a_limit_of_200(listen, streaming_recognizer):
    port = listen(max_streams=200)
    data, connected, answers = pcm(0.5), 0, []

    async def session(everyone: asyncio.Event) -> int:
        nonlocal connected
        messages = []
        async with aconnect(f"ws://127.0.0.1:{port}/v1/stream", ping_interval=None) as server:
            connected += 1
            if connected == 300:
                everyone.set()
            await everyone.wait()
            with contextlib.suppress(ConnectionClosed):
                await server.send(data)
                await server.send(json.dumps({"type": "end"}))
            with contextlib.suppress(ConnectionClosed):
                async for message in server:
                    messages.append(json.loads(message))
        answers.append(messages)
        return server.close_code

    async def sessions(count: int) -> list[int]:
        everyone = asyncio.Event()
        async with asyncio.timeout(60):
            return await asyncio.gather(*(session(everyone) for _ in range(count)))

    codes = asyncio.run(sessions(300))
    assert (codes.count(1000), codes.count(1013)) == (200, 100)
    expected = finals(streaming_recognizer, data)
    for *messages, last in answers:
        if last == {"type": "done"}:
            assert [message["text"] for message in messages if message["type"] == "final"] == expected
        else:
            assert last["type"] == "error" and "too many requests at once" in last["message"]
    with connect(f"ws://127.0.0.1:{port}/v1/stream") as server:
        server.send(json.dumps({"type": "end"}))
        assert json.loads(server.recv(10)) == {"type": "done"}


def wait_for_a_place(port: int) -> None:
    """Connect until the server takes a stream; fail after ten seconds."""
    until = time.monotonic() + 10
    while True:
        with connect(f"ws://127.0.0.1:{port}/v1/stream") as server:
            with contextlib.suppress(ConnectionClosed):
                server.send(json.dumps({"type": "end"}))
            if json.loads(server.recv(10)) == {"type": "done"}:
                return
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_client_that_sends_too_fast_waits_for_the_server(listen, monkeypatch):
    port, steps, sent = listen(max_streams=1), [], []
    monkeypatch.setattr(Engine, "submit_step", lambda engine, live: steps.append(Future()) or steps[-1])
    with connect(f"ws://127.0.0.1:{port}/v1/stream", close_timeout=0.1) as server:

        def send() -> None:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(200):
                    server.send(bytes(500_000))
                    sent.append(500_000)

        sending = threading.Thread(target=send)
        sending.start()
        time.sleep(1)
        assert len(steps) == 1 and sum(sent) < 20_000_000  # of 100 MB, what the buffers of both sockets hold
        server.socket.shutdown(sockets.SHUT_RDWR)
        sending.join(10)
    monkeypatch.undo()
    steps[0].set_result([])
    wait_for_a_place(port)


def test_a_client_that_does_not_read_loses_its_place(listen, monkeypatch):
    port = listen(max_streams=1, stream_timeout_s=0.5)
    monkeypatch.setattr(sessions, "REFUSAL_SECONDS", 0.2)
    monkeypatch.setattr(routes_stream, "message_of", lambda result: {"type": "partial", "text": "x" * 1_000_000})
    with connect(f"ws://127.0.0.1:{port}/v1/stream", max_queue=1, close_timeout=0.1) as server:
        for second in range(20):
            server.send(pcm(1, second))
        monkeypatch.undo()
        wait_for_a_place(port)
