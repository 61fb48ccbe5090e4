"""The server as a process, and the clients that call it."""

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest
from fastapi.testclient import TestClient

from hf_asr.cli import main
from hf_asr.commands import serve as serve_command
from hf_asr.data.audio import read_audio
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.serving.engine import EngineOptions
from hf_asr.serving.run import load_engine, uvicorn


def start_server(checkpoint, repository, *arguments: str) -> tuple[subprocess.Popen, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "scripts/serve.py", "--model_name_or_path", str(checkpoint), "--port", str(port)]
    process = subprocess.Popen([*command, *arguments], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    for _ in range(2000):  # on a busy machine, starting Python takes up to a minute
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).read()
            return process, url
        except OSError:
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.1)
    process.kill()
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def url(checkpoint, repository):
    process, url = start_server(checkpoint, repository)
    yield url
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def text(parts, recording):
    return Recognizer(*parts).transcribe([read_audio(recording)])[0].text


def test_requests_client_gets_the_text(url, recording, text):
    requests = pytest.importorskip("requests")
    with open(recording, "rb") as file:
        assert requests.post(f"{url}/transcribe", files={"audio": file}).json()["text"] == text


def test_openai_client_gets_text_words_and_segments(url, recording, text):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    (model,) = client.models.list()
    assert client.models.retrieve(model.id) == model
    with open(recording, "rb") as file:
        assert client.audio.transcriptions.create(model="hf_asr", file=file).text == text
    with open(recording, "rb") as file:
        verbose = client.audio.transcriptions.create(
            model="hf_asr", file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
    assert verbose.text == text and verbose.words[0].start < verbose.words[-1].end
    TranscriptionVerbose = openai.types.audio.TranscriptionVerbose
    TranscriptionVerbose.model_validate(verbose.model_dump(warnings=False))  # the client itself does not validate
    assert verbose.language and verbose.segments[0].tokens and verbose.segments[0].avg_logprob < 0
    assert verbose.segments[0].text and verbose.duration == pytest.approx(len(read_audio(recording)) / 16000, abs=1e-3)
    with open(recording, "rb") as file:
        assert "-->" in client.audio.transcriptions.create(model="hf_asr", file=file, response_format="srt")
    with pytest.raises(openai.APIStatusError) as refused:
        client.audio.transcriptions.create(model="hf_asr", file=("a.wav", b"no audio"))
    assert refused.value.status_code == 415 and "not decodable" in str(refused.value)


def test_accepted_request_is_answered_after_sigterm(checkpoint, repository, recording, text):
    requests = pytest.importorskip("requests")
    process, url = start_server(checkpoint, repository, "--max_wait_ms", "1500")
    answers = []

    def ask():
        with open(recording, "rb") as file:
            answers.append(requests.post(f"{url}/transcribe", files={"audio": file}).json())

    client = threading.Thread(target=ask)
    client.start()
    time.sleep(0.5)  # the request waits for others of its batch
    process.send_signal(signal.SIGTERM)
    client.join(60)
    assert answers == [{"text": text}]
    assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.fixture
def run(checkpoint, monkeypatch):
    """Run the command without listening; return a client of its application, and uvicorn's configuration."""
    engines = []

    def start(*arguments: str) -> tuple[TestClient, uvicorn.Config]:
        calls = []

        def load(*given):
            engines.append(load_engine(*given))
            return engines[-1]

        with monkeypatch.context() as patch:
            patch.setattr(uvicorn.Server, "run", lambda server: calls.append(server.config))
            patch.setattr(serve_command, "load_engine", load)
            main(["serve", "--model_name_or_path", str(checkpoint), *arguments])
        (config,) = calls
        return TestClient(config.app), config

    yield start
    for engine in engines:
        engine.close(timeout=60)


def test_api_key_in_the_environment_is_required(run, recording, monkeypatch):
    monkeypatch.setenv("HF_ASR_API_KEY", "secret")
    client, _ = run()
    files = {"audio": recording.read_bytes()}
    assert client.post("/transcribe", files=files).status_code == 401
    assert client.post("/transcribe", files=files, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_cors_origins_are_arguments_and_uvicorns_proxy_headers_are_off(run):
    client, config = run("--cors_origins", "https://a.example", "https://b.example")
    for origin in ("https://a.example", "https://b.example"):
        answer = client.get("/health", headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
    assert not config.proxy_headers  # uvicorn's own option trusts every process of this machine


def test_loaded_engine_has_measured_its_speed(checkpoint):
    engine = load_engine(str(checkpoint), EngineOptions())
    engine.close(timeout=60)
    assert engine.speed > 20  # 10 is assumed before the first measurement


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_client_share", "3"], "error: max_client_share must be above 0 and at most 1"),
        (["--cors_origins", "example.org"], "error: cors_origins: 'example.org' is not an origin"),
        (["--max_audio_seconds", "0"], "error: max_audio_seconds must be above 0"),
    ],
)
def test_invalid_value_is_an_error_of_one_line(checkpoint, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--model_name_or_path", str(checkpoint), *arguments])
    assert str(stopped.value).startswith(message) and "\n" not in str(stopped.value)


@pytest.mark.parametrize("port", ["99999", "65536", "-1", "x"])
def test_impossible_port_is_an_error_before_loading(tmp_path, capsys, port):
    with pytest.raises(SystemExit):
        main(["serve", "--model_name_or_path", str(tmp_path / "none"), f"--port={port}"])
    assert capsys.readouterr().err == f"error: argument --port: a port must be from 0 to 65535, not {port}\n"


def test_free_port_is_printed_when_the_server_listens(checkpoint, repository):
    command = [sys.executable, "scripts/serve.py", "--model_name_or_path", str(checkpoint), "--port"]
    output = {"cwd": repository, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "0"], **output) as process:
        url = process.stdout.readline().strip()
        assert urllib.request.urlopen(url, timeout=60).status == 200
        taken = subprocess.run([*command, str(urllib.parse.urlsplit(url).port)], cwd=repository, capture_output=True)
        process.terminate()
    assert taken.returncode and not taken.stdout and b"address already in use" in taken.stderr


def test_missing_model_is_an_error_of_one_line(tmp_path, repository):
    command = [sys.executable, "scripts/serve.py", "--model_name_or_path", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: ")
