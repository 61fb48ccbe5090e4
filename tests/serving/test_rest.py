import asyncio
import io
import re
import threading

import av
import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from hf_asr.data.audio import read_audio
from hf_asr.decoding.recognizer import recognize
from hf_asr.serving import engine as engine_module
from hf_asr.serving.engine import Engine, EngineOptions
from hf_asr.serving.rest import ServerOptions, create_app


@pytest.fixture
def serve(parts):
    """A client of a server with these options."""
    clients = []

    def make(*, engine: dict | None = None, **options) -> TestClient:
        app = create_app(Engine(*parts, EngineOptions(**engine or {})), ServerOptions(**options), model_name="tiny")
        clients.append(TestClient(app))
        clients[-1].__enter__()
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def wav(recording) -> bytes:
    return recording.read_bytes()


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def text_of(parts, data: bytes) -> str:
    return recognize(*parts, [read_audio(data)])[0].text


def test_the_articles_contract(serve, parts, wav):
    answer = serve().post("/transcribe", files={"audio": ("a.wav", wav)})
    assert answer.status_code == 200
    assert answer.json() == {"text": text_of(parts, wav)}


def test_any_format_is_taken_whatever_it_is_called(serve, parts, wav):
    waveform, rate = soundfile.read(io.BytesIO(wav))
    flac = io.BytesIO()
    soundfile.write(flac, waveform, rate, format="FLAC")
    answer = serve().post("/transcribe", files={"audio": ("../../etc/passwd", flac.getvalue(), "text/plain")})
    assert answer.json() == {"text": text_of(parts, wav)}


def test_what_is_damaged_is_transcribed_with_a_warning(serve, parts, wav):
    client, cut = serve(), wav[:-16000]
    answer = client.post("/transcribe", files={"audio": ("a.wav", cut)})
    assert answer.status_code == 200 and answer.json()["text"] == text_of(parts, cut)
    assert [warning for warning in answer.json()["warnings"] if warning.startswith("truncated")]
    for wanted in ("json", "verbose_json"):
        answer = client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", cut)}, data={"response_format": wanted}
        ).json()
        assert answer["warnings"][0].startswith("truncated")
        whole = client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", wav)}, data={"response_format": wanted}
        ).json()
        assert "warnings" not in whole


def test_a_browsers_webm_is_taken(serve, wav):
    waveform, rate = soundfile.read(io.BytesIO(wav), dtype="int16")
    target = io.BytesIO()
    with av.open(target, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for piece in av.AudioResampler("s16", "mono", 48000, frame_size=stream.frame_size or 960).resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    assert serve().post("/transcribe", files={"audio": ("a.webm", target.getvalue())}).status_code == 200


def test_what_openais_clients_ask_for(serve, parts, wav):
    client, text = serve(), text_of(parts, wav)

    def ask(**fields):
        data = {"model": "any", **fields}
        return client.post("/v1/audio/transcriptions", files={"file": ("a.wav", wav)}, data=data)

    assert ask().json() == {"text": text}
    assert ask(response_format="text").text == text + "\n"
    verbose = ask(**{"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}).json()
    assert verbose["text"] == text and verbose["duration"] == pytest.approx(len(read_audio(wav)) / 16000, abs=1e-3)
    assert all(word["start"] < word["end"] and 0 < word["confidence"] <= 1 for word in verbose["words"])
    assert "words" not in ask(response_format="verbose_json").json()
    assert ask(response_format="srt").text.count("-->") == len(verbose["segments"])
    assert ask(response_format="vtt").text.startswith("WEBVTT")
    assert ask(response_format="xml").status_code == 400
    assert "stream" in ask(stream="true").json()["error"]["message"]


@pytest.mark.parametrize(
    "status,message,request_",
    [
        (422, "form field 'audio'", {}),
        (422, "form field 'audio'", {"files": {"file": ("a.wav", b"x")}}),
        (422, "form field 'audio'", {"data": {"audio": "text"}}),
        (422, "form field 'audio'", {"json": {"audio": "x"}}),
        (415, "file is empty", {"files": {"audio": ("a.wav", b"")}}),
        (415, "not decodable", {"files": {"audio": ("a.wav", b"RIFF no wave at all")}}),
        (422, "form field 'audio'", {"content": b"--x\r\nbroken", "headers": FORM}),
        (400, "", {"content": b"no boundary\r\n" * 3, "headers": FORM}),
        (400, "", {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}),
    ],
)
def test_bad_requests_are_told_the_reason(serve, status, message, request_):
    answer = serve().post("/transcribe", **request_)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_too_large_and_too_long(serve, wav):
    client = serve(max_upload_mb=0.01, max_audio_seconds=0.5)
    answer = client.post("/transcribe", files={"audio": ("a.wav", bytes(300_000))})
    assert answer.status_code == 413 and "larger than 0.01 MB" in answer.json()["error"]["message"]

    def in_pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    assert client.post("/transcribe", content=in_pieces(), headers=FORM).status_code == 413  # and no length declared
    answer = serve(max_audio_seconds=0.5).post("/transcribe", files={"audio": ("a.wav", wav)})
    assert answer.status_code == 413 and "longer than 0.5 s" in answer.json()["error"]["message"]


def test_a_full_queue_is_503_with_the_seconds_to_wait(serve, wav, monkeypatch):
    event, started = threading.Event(), threading.Event()
    original = engine_module.best_paths

    def held(*args):
        started.set()
        event.wait(60)
        return original(*args)

    monkeypatch.setattr(engine_module, "best_paths", held)
    client = serve(engine={"max_queue_seconds": 0.1})
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/transcribe", files={"audio": ("a", wav)})))
    first.start()
    started.wait(60)
    refused = client.post("/transcribe", files={"audio": ("a.wav", wav)})
    event.set()
    first.join(60)
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
    assert answers[0].status_code == 200


def test_a_transcription_that_takes_too_long_is_503(serve, wav, monkeypatch):
    event = threading.Event()
    monkeypatch.setattr(engine_module, "best_paths", lambda *args: event.wait(60))
    answer = serve(transcription_timeout_s=0.1).post("/transcribe", files={"audio": ("a.wav", wav)})
    event.set()
    assert answer.status_code == 503 and "not transcribed within 0.1 s" in answer.json()["error"]["message"]


def test_a_client_that_goes_away_is_not_computed_for(parts, wav, monkeypatch):
    gate, sizes = threading.Event(), []
    original = engine_module.best_paths

    def held(*args):
        sizes.append(1)
        gate.wait(60)
        return original(*args)

    monkeypatch.setattr(engine_module, "best_paths", held)
    engine = Engine(*parts, EngineOptions(max_batch_seconds=0))
    app = create_app(engine)
    body = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n' + wav + b"\r\n--x--\r\n"
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        pass

    blocker = engine.submit(np.zeros(16000, np.float32))
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/transcribe", "headers": headers, "query_string": b""}
    asyncio.run(asyncio.wait_for(app(scope | {"http_version": "1.1", "scheme": "http"}, receive, send), 60))
    gate.set()
    blocker.result(60)
    engine.close(timeout=60)
    assert len(sizes) == 1 and engine.queued_seconds == 0


def test_a_token_is_asked_for_where_one_is_set(serve, wav):
    client = serve(api_key="sécret")
    files = {"audio": ("a.wav", wav)}
    assert client.post("/transcribe", files=files).status_code == 401
    assert client.post("/transcribe", files=files, headers={"Authorization": "Bearer wrong"}).status_code == 401
    headers = {"Authorization": "Bearer sécret".encode()}
    assert client.post("/transcribe", files=files, headers=headers).status_code == 200
    assert client.get("/health").status_code == 200


def test_health_metrics_and_documentation(serve, wav):
    client = serve()
    client.post("/transcribe", files={"audio": ("a.wav", wav)})
    assert client.get("/health").json() == {"status": "ok", "model": "tiny"}
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    text = client.get("/metrics").text
    assert 'hf_asr_requests_total{path="/transcribe",status="200"} 1.0' in text
    seconds = len(read_audio(wav)) / 16000
    (line,) = [line for line in text.splitlines() if line.startswith("hf_asr_audio_seconds_total")]
    assert float(line.split()[1]) == pytest.approx(seconds)
    assert "hf_asr_batch_windows_count 1.0" in text
    schema = client.get("/openapi.json").json()
    form = schema["paths"]["/transcribe"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["audio"]["format"] == "binary"
    assert client.get("/nothing").json()["error"]["message"] == "Not Found"


def test_the_documentation_needs_no_network(serve):
    client = serve()
    page = client.get("/docs").text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert links and not [link for link in links if "//" in link]
    assert all(client.get(link).status_code == 200 for link in links)


def test_silence_is_an_empty_or_short_text_not_an_error(serve):
    target = io.BytesIO()
    soundfile.write(target, np.zeros(100), 16000, format="WAV")
    assert serve().post("/transcribe", files={"audio": ("a.wav", target.getvalue())}).status_code == 200
