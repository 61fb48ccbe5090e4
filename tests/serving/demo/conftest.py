"""Fixtures of the demo tests."""

import socket
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from hf_asr.data.espeak import make_recording
from hf_asr.decoding.recognizer import load

if find_spec("gradio") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def recognizer(checkpoint):
    """Return the tiny checkpoint as a recogniser."""
    return load(str(checkpoint))


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """Return a wav file of about two seconds."""
    waveform, *_ = make_recording("the lazy dog jumps", language="en", generator=np.random.default_rng(0))
    path = tmp_path_factory.mktemp("speech") / "my dog.wav"
    soundfile.write(path, waveform, 16000)
    return path


@pytest.fixture(scope="module")
def served(recognizer, tmp_path_factory):
    """Serve the page as `app.py` does, without FFmpeg; return its address and the hosts that it connects to."""
    from hf_asr.serving.demo import build_demo, launch

    connected, connect = set(), socket.socket.connect

    def record(self, address):
        connected.add(address[0] if isinstance(address, tuple) else address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(socket.socket, "connect", record)
        page = build_demo(recognizer, may_choose_second=True)
        yield SimpleNamespace(address=launch(page, host="127.0.0.1", port=None, block=False), connected=connected)
        page.close(verbose=False)
