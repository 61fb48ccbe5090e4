"""The server against its own OpenAPI description: schemathesis sends valid and invalid requests."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from hf_asr.decoding.recognizer import Recognizer
from hf_asr.serving.app import create_app
from hf_asr.serving.engine import Engine
from hf_asr.serving.options import ServerOptions

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
pytestmark = pytest.mark.skipif(
    not SCHEMATHESIS.exists(), reason="schemathesis is not installed: pip install -e .[test]"
)


@pytest.fixture
def listen(parts):
    """Serve the tiny checkpoint with these options; return the address."""
    servers = []

    def start(**options) -> str:
        app = create_app(Engine(Recognizer(*parts)), ServerOptions(**options), model_name="tiny")
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        servers.append((server, thread, listener))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread, listener in servers:
        server.should_exit = True
        thread.join(60)
        listener.close()


@pytest.mark.parametrize("key", [None, "secret"])
def test_all_answers_match_the_openapi_description(listen, tmp_path, key):
    command = [str(SCHEMATHESIS), "run", f"{listen(api_key=key)}/openapi.json", "--max-examples", "5", "--seed", "1"]
    headers = ["--header", f"Authorization: Bearer {key}"] if key else []
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_recordings", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [*command, *headers], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "6 selected / 6 total" in done.stdout
