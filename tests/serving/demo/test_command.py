"""app.py at the root of the repository."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from gradio_client import Client, handle_file


@pytest.fixture
def app(repository, tmp_path, monkeypatch):
    """Return the module app.py, in an empty working folder and without the variables of a Space."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_ASR_MODEL", "SPACE_ID", "SYSTEM"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("app", repository / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_checkpoint_is_the_argument_or_the_variable_or_the_quickstart(app, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="give --model_name_or_path, or set HF_ASR_MODEL"):
        app.parse_options([])
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "config.json").touch()
    assert app.parse_options([]).model_name_or_path == "runs/quickstart"
    monkeypatch.setenv("HF_ASR_MODEL", "owner/name")
    assert app.parse_options([]).model_name_or_path == "owner/name"
    assert app.parse_options(["--model_name_or_path", "mine"]).model_name_or_path == "mine"


def test_only_a_space_listens_on_all_addresses(app, monkeypatch):
    assert app.parse_options(["--model_name_or_path", "m"]).host == "127.0.0.1"
    monkeypatch.setenv("SPACE_ID", "owner/demo")
    assert app.parse_options(["--model_name_or_path", "m"]).host == "0.0.0.0"


def test_errors_are_one_line(app, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit, match="error: .* is not a checkpoint"):
        app.main(["--model_name_or_path", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: chunk_size: the checkpoint was not trained in chunks"):
        app.main(["--model_name_or_path", str(checkpoint), "--chunk_size", "16"])
    with pytest.raises(SystemExit, match="error: max_streams must be above 0"):
        app.main(["--model_name_or_path", str(checkpoint), "--max_streams", "0"])
    with pytest.raises(SystemExit):
        app.main(["--model_name_or_path", str(tmp_path), "--port", "99999"])
    assert capsys.readouterr().err.endswith("error: argument --port: a port must be from 0 to 65535, not 99999\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match="error: .*port"):
            app.main(["--model_name_or_path", str(checkpoint), "--port", str(taken.getsockname()[1])])


@pytest.mark.slow
def test_recordings_are_deleted_on_sigterm(repository, checkpoint, speech, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--model_name_or_path", str(checkpoint), "--port", str(port)]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    client = Client(f"http://127.0.0.1:{port}", verbose=False)
                    break
                except (httpx.HTTPError, OSError):
                    time.sleep(0.2)
            client.predict(handle_file(speech), False, api_name="/transcribe")
            assert list(tmp_path.rglob("*.wav"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list(tmp_path.rglob("*.wav"))
