import asyncio
import copy
import io
import itertools
import json
import re
import threading
import time

import av
import numpy as np
import pytest
import soundfile
import torch
from fastapi.testclient import TestClient

from hf_asr.data.audio import read_audio
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.serving.app import create_app
from hf_asr.serving.engine import Engine, EngineOptions
from hf_asr.serving.options import ServerOptions


@pytest.fixture
def serve(parts):
    """Return a client of a server with these options; `raises` raises the exceptions of the server in the test."""
    clients, tiny = [], parts

    def make(
        *, engine: dict | None = None, raises: bool = True, parts: tuple = tiny, model_name: str = "tiny", **options
    ) -> TestClient:
        engine = Engine(Recognizer(*parts), EngineOptions(**engine or {}))
        app = create_app(engine, ServerOptions(**options), model_name=model_name)
        app.state.engine = engine
        clients.append(TestClient(app, raise_server_exceptions=raises))
        clients[-1].__enter__()
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def wav(recording) -> bytes:
    return recording.read_bytes()


def noise_wav(seconds: float) -> bytes:
    target = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds))
    soundfile.write(target, samples, 16000, format="WAV")
    return target.getvalue()


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def text_of(parts, data: bytes) -> str:
    return Recognizer(*parts).transcribe([read_audio(data)])[0].text


def test_transcribe_returns_the_text(serve, parts, wav):
    answer = serve().post("/transcribe", files={"audio": ("a.wav", wav)})
    assert answer.status_code == 200
    assert answer.json() == {"text": text_of(parts, wav)}


def test_file_name_and_content_type_are_ignored(serve, parts, wav):
    waveform, rate = soundfile.read(io.BytesIO(wav))
    flac = io.BytesIO()
    soundfile.write(flac, waveform, rate, format="FLAC")
    answer = serve().post("/transcribe", files={"audio": ("../../etc/passwd", flac.getvalue(), "text/plain")})
    assert answer.json() == {"text": text_of(parts, wav)}


def test_damaged_recording_is_transcribed_with_a_warning(serve, parts, wav):
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


def test_webm_from_a_browser_is_transcribed(serve, wav):
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


def test_openai_response_formats(serve, parts, wav):
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
def test_bad_request_is_answered_with_its_reason(serve, status, message, request_):
    answer = serve().post("/transcribe", **request_)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_too_large_files_and_too_long_recordings_are_413(serve, wav):
    client = serve(max_upload_mb=0.01, max_audio_seconds=0.5)
    answer = client.post("/transcribe", files={"audio": ("a.wav", bytes(300_000))})
    assert answer.status_code == 413 and "larger than 0.01 MB" in answer.json()["error"]["message"]

    def in_pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    assert client.post("/transcribe", content=in_pieces(), headers=FORM).status_code == 413  # without Content-Length
    answer = serve(max_audio_seconds=0.5).post("/transcribe", files={"audio": ("a.wav", wav)})
    assert answer.status_code == 413 and "longer than 0.5 s" in answer.json()["error"]["message"]


def test_full_queue_is_503_with_retry_after(serve, wav, monkeypatch):
    event, started = threading.Event(), threading.Event()
    original = Recognizer.keep

    def held(*args):
        started.set()
        event.wait(60)
        return original(*args)

    monkeypatch.setattr(Recognizer, "keep", held)
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


def test_transcription_over_the_time_limit_is_503(serve, wav, monkeypatch):
    event = threading.Event()
    monkeypatch.setattr(Recognizer, "keep", lambda *args: event.wait(60))
    answer = serve(transcription_timeout_s=2).post("/transcribe", files={"audio": ("a.wav", wav)})
    event.set()
    assert answer.status_code == 503 and "not transcribed within 2 s" in answer.json()["error"]["message"]


def test_request_of_a_disconnected_client_is_not_computed(parts, wav, monkeypatch):
    gate, sizes = threading.Event(), []
    original = Recognizer.keep

    def held(*args):
        sizes.append(1)
        gate.wait(60)
        return original(*args)

    monkeypatch.setattr(Recognizer, "keep", held)
    engine = Engine(Recognizer(*parts), EngineOptions(max_batch_seconds=0))
    blocker = engine.submit(np.zeros(16000, np.float32))
    asyncio.run(post(create_app(engine), [*upload(wav), {"type": "http.disconnect"}]))
    gate.set()
    blocker.result(60)
    engine.close(timeout=60)
    assert len(sizes) == 1 and engine.queued_seconds == 0


def upload(wav: bytes) -> list[dict]:
    """Return the ASGI messages of a form with this file."""
    body = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n' + wav + b"\r\n--x--\r\n"
    return [{"type": "http.request", "body": body, "more_body": False}]


async def post(app, messages: list[dict], *, host: str = "10.0.0.1") -> tuple[int, dict]:
    """Return status and JSON of the answer to a client that sends these messages and then nothing."""
    messages, sent = list(messages), []

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/transcribe", "headers": headers, "query_string": b""}
    scope |= {"http_version": "1.1", "scheme": "http", "client": (host, 1)}
    await asyncio.wait_for(app(scope, receive, send), 60)
    body = b"".join(message.get("body", b"") for message in sent)
    return (sent[0]["status"], json.loads(body)) if sent else (0, {})


def test_slow_upload_is_408_and_frees_its_connection(parts, wav):
    app = create_app(Engine(Recognizer(*parts)), ServerOptions(upload_timeout_s=0.2, max_connections=1))
    (whole,) = upload(wav)
    begun = whole | {"body": whole["body"][:500], "more_body": True}
    status, answer = asyncio.run(post(app, [begun]))
    assert status == 408 and "longer than 0.2 s" in answer["error"]["message"]
    assert asyncio.run(post(app, [whole]))[0] == 200


@pytest.mark.parametrize(
    ("max_connections", "hosts", "statuses"),
    [
        (2, ["10.0.0.1", "10.0.0.2", "10.0.0.3"], [408, 408, 503]),
        (4, ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"], [408, 408, 503, 408]),
        (
            4,
            ["fd00::1", "fd00::2", "fd00::3", "fd00:0:0:1::1"],
            [408, 408, 503, 408],
        ),  # the first three are one subscriber
    ],
)
def test_one_client_can_use_half_of_the_connections(parts, max_connections, hosts, statuses):
    app = create_app(Engine(Recognizer(*parts)), ServerOptions(upload_timeout_s=0.5, max_connections=max_connections))

    async def all_at_once():
        return await asyncio.gather(*(post(app, [], host=host) for host in hosts))

    answers = asyncio.run(all_at_once())
    assert [status for status, _ in answers] == statuses
    (refusal,) = (answer for status, answer in answers if status == 503)
    assert "too many requests at once" in refusal["error"]["message"]


def test_recording_too_long_for_the_machine_is_refused_at_once(serve, parts, monkeypatch):
    client = serve(transcription_timeout_s=8)
    client.app.state.engine.speed = 1.0  # one client may use half of half of 8 s
    answer = client.post("/transcribe", files={"audio": ("a.wav", noise_wav(3))})
    assert answer.status_code == 413 and "at most 2 s can be transcribed" in answer.json()["error"]["message"]
    assert client.post("/transcribe", files={"audio": ("a.wav", noise_wav(1.5))}).status_code == 200


def test_one_client_cannot_fill_the_queue(parts, monkeypatch):
    gate = threading.Event()
    original = Recognizer.keep
    monkeypatch.setattr(Recognizer, "keep", lambda *args: gate.wait(60) and original(*args))
    app = create_app(Engine(Recognizer(*parts), EngineOptions(max_queue_seconds=12)))
    messages = upload(noise_wav(2))

    async def fill():
        greedy = [asyncio.create_task(post(app, messages)) for _ in range(6)]
        for refused in itertools.islice(asyncio.as_completed(greedy), 3):
            assert (await asyncio.wait_for(refused, 20))[0] == 503
        other = asyncio.create_task(post(app, messages, host="10.0.0.2"))
        await asyncio.sleep(0.5)
        was_refused = other.done()
        gate.set()
        return [status for status, _ in await asyncio.gather(*greedy)], was_refused, (await other)[0]

    statuses, was_refused, other = asyncio.run(fill())
    assert sorted(statuses) == [200, 200, 200, 503, 503, 503] and not was_refused and other == 200


@pytest.mark.parametrize(("trusted", "status"), [(None, 503), ("10.0.0.1", 408)])
def test_forwarded_address_counts_only_from_a_trusted_proxy(parts, trusted, status):
    app = create_app(
        Engine(Recognizer(*parts)), ServerOptions(upload_timeout_s=0.5, max_connections=2, forwarded_allow_ips=trusted)
    )

    async def forwarded(name: str) -> int:
        async def named(scope, receive, send):
            headers = [*scope["headers"], (b"x-forwarded-for", name.encode())]
            await app(scope | {"headers": headers}, receive, send)

        return (await post(named, []))[0]

    async def both():
        return await asyncio.gather(forwarded("10.1.1.1"), forwarded("10.1.1.2"))

    assert asyncio.run(both()) == [408, status]


def test_api_key_is_required_if_it_is_set(serve, wav):
    client = serve(api_key="sécret")
    files = {"audio": ("a.wav", wav)}
    assert client.post("/transcribe", files=files).status_code == 401
    assert client.post("/transcribe", files=files, headers={"Authorization": "Bearer wrong"}).status_code == 401
    headers = {"Authorization": "Bearer sécret".encode()}
    assert client.post("/transcribe", files=files, headers=headers).status_code == 200
    assert client.get("/health").status_code == 200


def test_health_answers_head_requests(serve):
    answer = serve().head("/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_model_is_described_by_its_name(serve):
    for name, known in {"owner/name": "owner/name", "/home/eve/runs/mine": "mine", "": ""}.items():
        client = serve(model_name=name)
        model = client.get("/v1/models").json()["data"][0]
        assert model["id"] == client.get("/health").json()["model"] == known
        if known:
            assert client.get(f"/v1/models/{known.replace('/', '%2F')}").json() == model
        answer = client.get("/v1/models/whisper-1")
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


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


def test_documentation_needs_no_network(serve):
    client = serve()
    page = client.get("/docs").text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert links and not [link for link in links if "//" in link]
    assert all(client.get(link).status_code == 200 for link in links)


def test_silence_is_an_empty_answer_in_every_format(serve, parts, monkeypatch):
    model, processor = parts
    silent = copy.deepcopy(model)
    with torch.no_grad():  # an untrained checkpoint predicts words in silence too
        silent.ctc_head.bias[processor.tokenizer.pad_token_id] += 100.0
    client = serve(parts=(silent, processor))
    files = {"audio": ("a.wav", noise_wav(0.01)), "file": ("a.wav", noise_wav(0.01))}
    assert client.post("/transcribe", files={"audio": files["audio"]}).json() == {"text": ""}

    def ask(wanted: str):
        data = {"response_format": wanted, "timestamp_granularities[]": ["word", "segment"]}
        answer = client.post("/v1/audio/transcriptions", files={"file": files["file"]}, data=data)
        assert answer.status_code == 200
        return answer

    assert ask("json").json() == {"text": ""}
    verbose = ask("verbose_json").json()
    assert (verbose["text"], verbose["words"], verbose["segments"], verbose["language"]) == ("", [], [], "und")
    assert [ask(wanted).text.strip() for wanted in ("text", "srt", "vtt")] == ["", "", "WEBVTT"]


def test_failure_is_500_in_json_and_the_next_request_works(serve, wav, monkeypatch):
    client = serve(raises=False)
    with monkeypatch.context() as patch:
        patch.setattr(Recognizer, "decode", lambda *args, **options: 1 / 0)
        answer = client.post("/transcribe", files={"audio": ("a.wav", wav)})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert client.post("/transcribe", files={"audio": ("a.wav", wav)}).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_is_503_if_the_engine_has_stopped_or_hangs(serve, wav, monkeypatch):
    def exits(*args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Recognizer, "keep", exits)
        client = serve(raises=False)
        assert client.get("/health").status_code == 200
        assert client.post("/transcribe", files={"audio": ("a.wav", wav)}).status_code == 500
    client.app.state.engine.close(timeout=60)
    assert client.get("/health").status_code == 503
    assert client.post("/transcribe", files={"audio": ("a.wav", wav)}).status_code == 503
    event = threading.Event()
    monkeypatch.setattr(Recognizer, "keep", lambda *args: event.wait(60))
    client = serve(transcription_timeout_s=0.5)
    client.app.state.engine.submit(np.zeros(16000, np.float32))
    time.sleep(1)
    answer = client.get("/health")
    event.set()
    assert answer.status_code == 503 and answer.json()["status"] == "not answering"


def test_only_listed_origins_can_call_from_a_browser(serve, wav):
    origin, stranger = "https://example.org", "https://evil.example"
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    off = serve()
    assert "access-control-allow-origin" not in off.options("/transcribe", headers={"Origin": origin, **wanted}).headers
    client = serve(cors_origins=[origin], api_key="key")
    preflight = client.options("/v1/audio/transcriptions", headers={"Origin": origin, **wanted})
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == origin
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert client.options("/transcribe", headers={"Origin": stranger, **wanted}).status_code == 400
    headers = {"Origin": origin, "Authorization": "Bearer key"}
    answer = client.post("/transcribe", files={"audio": ("a.wav", wav)}, headers=headers)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == origin
    refused = client.post("/transcribe", files={"audio": ("a.wav", wav)}, headers={"Origin": origin})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == origin


def test_api_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("HF_ASR_API_KEY", "secret")
    assert ServerOptions().api_key == "secret" and ServerOptions(api_key="other").api_key == "other"
    monkeypatch.setenv("HF_ASR_API_KEY", "")
    assert ServerOptions().api_key is None


@pytest.mark.parametrize(
    "options",
    [{"max_connections": 0}, {"max_upload_mb": -1.0}, {"cors_origins": ["https://example.org/"]}],
)
def test_invalid_option_is_an_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ServerOptions(**options)
