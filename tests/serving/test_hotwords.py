"""Hotwords of requests: each recording and each stream has its own, within limits, where the server searches a beam."""

import io
import json

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.hotwords import MAX_HOTWORDS, Hotword, parse_hotwords
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.serving.app import create_app
from hf_asr.serving.engine import Engine, EngineOptions
from hf_asr.serving.hotwords import HotwordsError, hotwords_of_prompt, read_hotwords
from hf_asr.serving.run import load_engine

WANTED = "ca\t20, 调空\t20"  # of tokens that the checkpoint finds probable
BEAM = DecodingArguments(decoding="beam")


@pytest.fixture(scope="module")
def recognizer(parts) -> Recognizer:
    return Recognizer(*parts, arguments=BEAM)


@pytest.fixture
def serve(recognizer):
    """Return a client of a server with this recogniser."""
    clients = []

    def make(recognizer: Recognizer = recognizer, **options) -> TestClient:
        client = TestClient(create_app(Engine(recognizer, EngineOptions(max_client_share=1.0, **options))))
        clients.append(client)
        return client.__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def noise(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)


def post(client: TestClient, waveform: np.ndarray, *, path: str = "/transcribe", **fields: str):
    file, field = io.BytesIO(), "audio" if path == "/transcribe" else "file"
    soundfile.write(file, waveform, 16000, format="WAV", subtype="FLOAT")
    return client.post(path, files={field: ("a.wav", file.getvalue())}, data=fields)


def text_with(recognizer: Recognizer, hotwords: str, waveform: np.ndarray) -> str:
    return recognizer.with_hotwords(parse_hotwords(hotwords)).transcribe(waveform).text


def test_hotwords_change_the_text(recognizer):
    assert text_with(recognizer, WANTED, noise()) != recognizer.transcribe(noise()).text


def test_two_requests_of_one_batch_get_their_own_hotwords(recognizer):
    wanted = ["ca\t20", "调空\t20", "空a\t20", None]
    engine, sizes = Engine(recognizer, EngineOptions(max_client_share=1.0, max_wait_ms=500.0)), []
    engine.on_batch = lambda windows, seconds: sizes.append(windows)
    futures = [engine.submit(noise(), hotwords=own and parse_hotwords(own)) for own in wanted]
    texts = [future.result(60).text for future in futures]
    engine.close()
    assert sizes == [len(wanted)] and len(set(texts)) == len(wanted)
    assert texts == [text_with(recognizer, own or "", noise()) for own in wanted]


@pytest.mark.parametrize("value", [WANTED, json.dumps(["ca\t20", "调空\t20"])])
@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
def test_the_form_field_hotwords(serve, recognizer, path, value):
    answer = post(serve(), noise(), path=path, hotwords=value)
    assert answer.json() == {"text": text_with(recognizer, WANTED, noise())}


def test_a_prompt_that_is_a_list_is_hotwords(serve, recognizer):
    client, path = serve(), "/v1/audio/transcriptions"
    texts = [post(client, noise(), path=path, prompt=each).json()["text"] for each in (WANTED, "The fox. The dog.")]
    assert texts == [text_with(recognizer, each, noise()) for each in (WANTED, "")]


@pytest.mark.parametrize("prompt", ["ZyntriQix, Digique Plus", "王小明，李雷", "new york, a.b, c"])
def test_prompts_that_are_lists(prompt):
    assert hotwords_of_prompt(prompt) == prompt


@pytest.mark.parametrize(
    "prompt",
    ["", "hello", "So we went there, and nobody had seen it before", "Hi, Ann. Hello, Bob", "好，谢谢。", "a,b?\n"],
)
def test_prompts_that_are_not_lists(prompt):
    assert hotwords_of_prompt(prompt) == ""


def test_what_the_vocabulary_cannot_spell_is_a_warning(serve):
    answer = post(serve(), noise(), hotwords="fox,日本")
    assert answer.status_code == 200
    assert answer.json()["warnings"] == ["the hotword '日本' is left out: the vocabulary has no '日本'"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (",".join(["a"] * (MAX_HOTWORDS + 1)), f"at most {MAX_HOTWORDS} hotwords are accepted"),
        ("a" * 101, "a hotword must have at most 100 characters, not 101"),
        ("fox\tmuch", "the boost of 'fox' must be a number, not 'much'"),
        ("fox\t1e9", "the boost of a hotword must be a number from -100 to 100"),
        ("[fox", "they begin with [ and are not a JSON list"),
        ("[1]", 'send "a,b" or a list of texts'),
        ("[" * 100_000, "not a JSON list"),
    ],
)
def test_hotwords_that_cannot_be_used_are_refused(serve, value, reason):
    answer = post(serve(), noise(), hotwords=value)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("hotwords cannot be used: ")
    assert reason in answer.json()["error"]["message"]


def test_a_greedy_server_refuses_hotwords_and_ignores_a_prompt(serve, parts):
    client = serve(Recognizer(*parts))
    answer = post(client, noise(), hotwords="fox")
    assert answer.status_code == 400 and "greedy decoding does not use hotwords" in answer.json()["error"]["message"]
    assert post(client, noise(), path="/v1/audio/transcriptions", prompt="a,b").status_code == 200
    assert post(client, noise(), hotwords=" , ").status_code == 200


def test_the_description_of_the_api_has_the_field_only_where_it_is_accepted(serve, parts):
    for recognizer, has_field in ((Recognizer(*parts, arguments=BEAM), True), (Recognizer(*parts), False)):
        paths = serve(recognizer).get("/openapi.json").json()["paths"]
        for path in ("/transcribe", "/v1/audio/transcriptions"):
            form = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
            assert ("hotwords" in form) == has_field


def test_a_path_is_never_a_file_of_the_server(recognizer, tmp_path):
    (tmp_path / "a.txt").write_text("fox\n")
    assert read_hotwords(str(tmp_path / "a.txt"), recognizer)[0] == [Hotword(str(tmp_path / "a.txt"))]


def test_other_values_than_text_and_lists_are_refused(recognizer):
    for value in (1, {"a": 1}, None, [["a"]]):
        with pytest.raises(HotwordsError):
            read_hotwords(value, recognizer)


@pytest.fixture
def live(streaming_recognizer) -> Recognizer:
    arguments = DecodingArguments(decoding="beam")
    return Recognizer(streaming_recognizer.model, streaming_recognizer.processor, arguments=arguments)


def stream(client: TestClient, waveform: np.ndarray, *messages: dict) -> list[dict]:
    with client.websocket_connect("/v1/stream") as socket:
        for message in messages:
            socket.send_json(message)
        socket.send_bytes((waveform * 32768).clip(-32768, 32767).astype("<i2").tobytes())
        socket.send_json({"type": "end"})
        answers = [socket.receive_json()]
        while answers[-1]["type"] not in ("done", "error"):
            answers.append(socket.receive_json())
        return answers


def test_a_stream_has_the_hotwords_of_its_first_message(serve, live):
    hotwords = {"type": "hotwords", "hotwords": ["ca\t20", "调空\t20", "日本"]}
    warning, *messages, done = stream(serve(live), noise(), hotwords)
    assert warning == {"type": "warning", "message": "the hotword '日本' is left out: the vocabulary has no '日本'"}
    alone = StreamingRecognizer(live.with_hotwords(parse_hotwords(WANTED)))
    samples = (noise() * 32768).clip(-32768, 32767).astype("<i2").astype(np.float32) / 32768
    expected = [result.text for result in alone.accept(samples) + alone.finish() if result.is_final]
    texts = [message["text"] for message in messages if message["type"] == "final"]
    assert texts == expected and done == {"type": "done"}
    assert texts != [message["text"] for message in stream(serve(live), noise()) if message["type"] == "final"]


def test_hotwords_of_a_stream_that_cannot_be_used_end_it(serve, live, streaming_recognizer):
    assert stream(serve(live), noise(), {"type": "hotwords", "hotwords": 1})[-1] == {
        "type": "error",
        "message": 'hotwords cannot be used: send "a,b" or a list of texts',
    }
    refused = stream(serve(streaming_recognizer), noise(), {"type": "hotwords", "hotwords": ["fox"]})[-1]
    assert refused["type"] == "error" and "choose --decoding beam" in refused["message"]


def test_hotwords_of_the_server_are_for_requests_without_their_own(checkpoint, serve, recognizer):
    engine = load_engine(str(checkpoint), EngineOptions(decoding="beam", hotwords=WANTED))
    engine.close()
    client = serve(engine.recognizer)
    assert post(client, noise()).json()["text"] == text_with(recognizer, WANTED, noise())
    assert post(client, noise(), hotwords="空a\t20").json()["text"] == text_with(recognizer, "空a\t20", noise())
