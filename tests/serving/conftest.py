"""Fixtures of the server tests."""

import socket
import threading
import time

import pytest
import uvicorn

from hf_asr.checkpoint import load_checkpoint
from hf_asr.serving.app import create_app
from hf_asr.serving.engine import Engine, EngineOptions
from hf_asr.serving.options import ServerOptions
from hf_asr.serving.run import MAX_MESSAGE_BYTES


@pytest.fixture(scope="session")
def parts(checkpoint):
    """Return model and processor of the tiny checkpoint."""
    return load_checkpoint(str(checkpoint), device="cpu")


@pytest.fixture
def listen(streaming_recognizer):
    """Return a function that starts a server with these options as `serve` does, and returns its port."""
    running = []

    def start(**options) -> int:
        app = create_app(Engine(streaming_recognizer, EngineOptions(max_client_share=1.0)), ServerOptions(**options))
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        like_run = {"ws_max_size": MAX_MESSAGE_BYTES, "ws_ping_interval": None, "ws_per_message_deflate": False}
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", **like_run))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return listening.getsockname()[1]

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
