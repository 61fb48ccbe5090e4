"""/v1/realtime with OpenAI's own client: items at pauses or at commits, and events that are refused."""

import asyncio
import base64
import json
import re
from functools import partial

import numpy as np
import openai
import pytest
import soundfile
import soxr
from websockets.asyncio.client import connect

from hf_asr.decoding.endpoints import EndpointArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.serving import sessions

TRANSCRIPTION = "conversation.item.input_audio_transcription"


def pcm(seconds: float, seed: int = 0) -> bytes:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(24000 * seconds))
    return (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def texts(recognizer: Recognizer, data: bytes, *, make=StreamingRecognizer) -> list[str]:
    """Return the text of each utterance of a stream."""
    samples = soxr.resample(np.frombuffer(data, "<i2").astype(np.float32) / 32768, 24000, 16000)
    live = make(recognizer)
    return [result.text for result in live.accept(samples) + live.finish() if result.is_final]


async def events_of(port: int, steps, *, session: dict | None = None) -> list:
    """Return the events of a connection that `steps` has used."""
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    received = []
    async with asyncio.timeout(60), client.realtime.connect(model="any") as connection:
        if session is not None:
            await connection.session.update(session={"type": "transcription", "audio": {"input": session}})
        await steps(connection)
        await connection.send({"type": "response.create"})  # which is refused, and so marks the end
        async for event in connection:
            received.append(event)
            if event.type == "error":
                break
    return received


async def send(connection, data: bytes) -> None:
    for start in range(0, len(data), 4801):
        await connection.input_audio_buffer.append(audio=base64.b64encode(data[start : start + 4801]).decode())


def items(events: list) -> dict[str, list[str]]:
    """Return the deltas and the transcript of each item."""
    found = {}
    for event in events:
        if event.type == f"{TRANSCRIPTION}.delta":
            found.setdefault(event.item_id, []).append(event.delta)
        elif event.type == f"{TRANSCRIPTION}.completed":
            found.setdefault(event.item_id, []).append(event.transcript)
    return found


def test_a_commit_completes_an_item_whose_deltas_are_its_text(listen, streaming_recognizer):
    async def steps(connection) -> None:
        for seed in (0, 1):
            await send(connection, pcm(2, seed))
            await connection.input_audio_buffer.commit()

    events = asyncio.run(events_of(listen(), steps, session={"turn_detection": None}))
    assert [event.type for event in events[:2]] == ["session.created", "session.updated"]
    assert events[0].session.audio.input.turn_detection.type == "server_vad"
    assert events[1].session.audio.input.turn_detection is None
    found = list(items(events).values())
    assert [transcript for *_, transcript in found] == [
        " ".join(texts(streaming_recognizer, pcm(2, seed))) for seed in (0, 1)
    ]
    for *deltas, transcript in found:
        assert "".join(deltas) == transcript and len(deltas) > 3
    committed = [event for event in events if event.type == "input_audio_buffer.committed"]
    assert [event.item_id for event in committed] == list(items(events))
    assert committed[0].previous_item_id is None and committed[1].previous_item_id == committed[0].item_id
    completed = [event for event in events if event.type == f"{TRANSCRIPTION}.completed"]
    assert [event.usage.seconds for event in completed] == pytest.approx([2, 2], abs=0.01)


def test_each_utterance_is_an_item_where_turns_are_detected(listen, streaming_recognizer, monkeypatch):
    data, short = pcm(4), partial(StreamingRecognizer, endpoints=EndpointArguments(max_utterance_s=0.4))
    monkeypatch.setattr(sessions, "StreamingRecognizer", short)

    async def steps(connection) -> None:
        await send(connection, data)
        await connection.input_audio_buffer.commit()

    expected = texts(streaming_recognizer, data, make=short)
    events = asyncio.run(events_of(listen(), steps))
    assert len(expected) > 2
    assert [transcript for *_, transcript in items(events).values()] == expected


def test_cleared_audio_is_forgotten(listen, streaming_recognizer):
    async def steps(connection) -> None:
        await send(connection, pcm(1, 5))
        await connection.input_audio_buffer.clear()
        await send(connection, pcm(2))
        await connection.input_audio_buffer.commit()

    events = asyncio.run(events_of(listen(), steps, session={"turn_detection": None}))
    assert "input_audio_buffer.cleared" in [event.type for event in events]
    *_, (*_, transcript) = items(events).values()
    assert transcript == " ".join(texts(streaming_recognizer, pcm(2)))


def test_the_api_key_is_required(listen):
    async def first(port: int, key: str) -> str:
        headers = {"Authorization": f"Bearer {key}"}
        async with connect(f"ws://127.0.0.1:{port}/v1/realtime", additional_headers=headers) as server:
            return json.loads(await server.recv())["type"]

    port = listen(api_key="secret")
    assert [asyncio.run(first(port, key)) for key in ("secret", "wrong")] == ["session.created", "error"]


def test_the_client_in_the_documents(listen, streaming_recognizer, repository, tmp_path, monkeypatch, capsys):
    document = (repository / "docs" / "serving.md").read_text()
    (client,) = (
        block for block in re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL) if "realtime" in block
    )
    soundfile.write(tmp_path / "recording.wav", np.frombuffer(pcm(1.5), "<i2"), 24000)
    monkeypatch.chdir(tmp_path)
    exec(compile(client.replace("127.0.0.1:5000", f"127.0.0.1:{listen()}"), "serving.md", "exec"), {})
    deltas, transcript = capsys.readouterr().out.splitlines()
    assert deltas == transcript
    assert transcript


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("no JSON", "JSON objects with a type"),
        ("[1]", "JSON objects with a type"),
        (b"\x00\x01", "JSON objects with a type"),
        ('{"type": "response.create"}', "'response.create' is not supported"),
        ('{"type": "input_audio_buffer.append"}', "lacks a field"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "must be base64"),
        ('{"type": "session.update", "session": {"type": "realtime"}}', "session.type must be transcription"),
        (
            '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}}',
            "audio/pcm with rate 24000",
        ),
    ],
)
def test_an_event_that_is_refused_does_not_end_the_session(listen, message, expected):
    async def talk(port: int) -> list[dict]:
        async with connect(f"ws://127.0.0.1:{port}/v1/realtime") as server:
            await server.send(message)
            await server.send('{"type": "session.update", "session": {"audio": 1}}')
            return [json.loads(await server.recv()) for _ in range(3)]

    created, error, updated = asyncio.run(talk(listen()))
    assert (created["type"], error["type"], updated["type"]) == ("session.created", "error", "session.updated")
    assert expected in error["error"]["message"]
