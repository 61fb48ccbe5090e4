"""The demo's live text: which checkpoints have it, and its route."""

import json
import threading

import gradio as gr
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.serving.demo import build_demo, launch, live_service
from hf_asr.serving.demo.live import live_page
from hf_asr.serving.demo.translations import CHINESE, ENGLISH
from hf_asr.serving.options import StreamOptions


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Return a function that serves the page of a recogniser and returns the address of its route."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    pages = []

    def make(recognizer: Recognizer, **limits) -> str:
        pages.append(build_demo(recognizer, live=live_service(recognizer, StreamOptions(**limits))))
        address = launch(pages[-1], host="127.0.0.1", port=None, block=False)
        return f"{address.replace('http:', 'ws:')}v1/stream"

    yield make
    for page in pages:
        page.close(verbose=False)


def tabs(page: gr.Blocks) -> int:
    return sum(isinstance(block, gr.Tab) for block in page.blocks.values())


def test_only_a_checkpoint_that_streams_has_live_text(recognizer, streaming_recognizer, serve):
    assert live_service(recognizer) is None
    assert tabs(build_demo(recognizer)) == 1
    service = live_service(streaming_recognizer)
    assert tabs(build_demo(streaming_recognizer, live=service)) == 2
    service.engine.close()
    with pytest.raises(InvalidStatus), connect(serve(recognizer)):
        pass


def test_chunks_that_the_checkpoint_does_not_name_are_chosen_for_live_text_only(streaming_recognizer):
    def chunks(**options) -> tuple[int, int]:
        arguments = DecodingArguments(**options)
        recognizer = Recognizer(streaming_recognizer.model, streaming_recognizer.processor, arguments=arguments)
        service = live_service(recognizer)
        service.engine.close()
        config = service.engine.recognizer.model.config
        assert recognizer.model.config.chunk_size == options["chunk_size"]
        return config.chunk_size, config.num_left_chunks

    assert chunks(chunk_size=-1, num_left_chunks=-1) == (16, 8)
    assert chunks(chunk_size=4, num_left_chunks=-1) == (4, 8)
    assert chunks(chunk_size=8, num_left_chunks=2) == (8, 2)


def test_the_page_serves_streams_within_their_limits(serve, streaming_recognizer):
    address = serve(streaming_recognizer, max_stream_seconds=3)
    samples = (np.random.default_rng(0).normal(0, 0.1, 32000) * 32768).astype("<i2")
    live = StreamingRecognizer(streaming_recognizer)
    expected = live.accept(samples.astype(np.float32) / 32768) + live.finish()
    with connect(address, origin=address.replace("ws:", "http:").removesuffix("/v1/stream")) as server:
        server.send(samples.tobytes())
        server.send(json.dumps({"type": "end"}))
        *messages, done = map(json.loads, server)
    assert done == {"type": "done"}
    texts = [message["text"] for message in messages if message["type"] == "final"]
    assert texts == [result.text for result in expected if result.is_final] != []
    with connect(address) as server:
        server.send(bytes(4 * 32000))
        assert json.loads(server.recv(10)) == {"type": "error", "message": "the stream is longer than 3 s"}
    with connect(address, origin="https://evil.example") as server:
        assert "not allowed" in server.recv(10)


def test_the_engine_of_streams_ends_with_the_page(streaming_recognizer, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    service = live_service(streaming_recognizer)
    page = build_demo(streaming_recognizer, live=service)
    launch(page, host="127.0.0.1", port=None, block=False)
    assert service.engine.is_alive
    page.close(verbose=False)
    assert not service.engine.is_alive
    assert service.engine._thread not in threading.enumerate()


def test_the_texts_of_live_pages_are_escaped():
    assert "&#34;Start&#34;" in live_page(ENGLISH | {"live_hint": 'Press "Start"'})
    assert CHINESE["live_start"] in live_page(CHINESE)
