"""`/v1/realtime`: live audio with the events of OpenAI's realtime transcription sessions.

https://developers.openai.com/api/docs/guides/realtime-transcription. What a transcription session does not need is
answered with an error, and the session goes on.
"""

import base64
import json
import uuid
from functools import partial
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from ..decoding.streaming import StreamingResult
from .sessions import Session, StreamService, serve_session

RATE = 24000  # of the audio in Hz, the only one of this protocol
TRANSCRIPTION = "conversation.item.input_audio_transcription"


def realtime_route(service: StreamService) -> WebSocketRoute:
    """Return the route of an application."""
    return WebSocketRoute("/v1/realtime", partial(serve_session, service=service, make=RealtimeSession))


class RealtimeSession(Session):
    """Transcribes 16-bit PCM at 24 kHz, mono.

    With turn detection, the default, each utterance is an item, and what follows the last one becomes an item when the
    client commits it. Without, all audio up to a commit is one item.
    """

    def __init__(self, socket: WebSocket, service: StreamService):
        super().__init__(socket, service, rate=RATE)
        self.detects_turns, self.previous = True, None
        self._begin_item()

    async def run(self) -> None:
        await self.send(self._session("session.created"))
        while True:
            match parsed(await self.receive()):
                case {"type": "session.update", "session": dict(session)}:
                    await self._update(session)
                case {"type": "input_audio_buffer.append", "audio": str(audio)}:
                    await self._append(audio)
                case {"type": "input_audio_buffer.commit"}:
                    await self._commit()
                case {"type": "input_audio_buffer.clear"}:
                    self.begin()
                    self._begin_item()
                    await self.send(named("input_audio_buffer.cleared"))
                case {"type": str(kind)}:
                    await self.send(self.error_message(f"{kind[:100]!r} is not supported, or lacks a field"))
                case _:
                    await self.send(self.error_message("send events: JSON objects with a type"))

    async def show(self, result: StreamingResult) -> None:
        text = f"{self.earlier} {result.text}".strip()
        if text != self.sent and text.startswith(self.sent):  # a delta cannot take back what was sent
            delta, self.sent = text[len(self.sent) :], text
            await self.send(named(f"{TRANSCRIPTION}.delta", item_id=self.item, content_index=0, delta=delta))
        if result.is_final:
            self.earlier = text
            if self.detects_turns:
                await self._complete()

    async def _append(self, audio: str) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except ValueError:
            return await self.send(self.error_message("audio must be base64"))
        await self.recognize(data)

    async def _commit(self) -> None:
        detects_turns, self.detects_turns = self.detects_turns, False  # the rest is one item, even if it has no text
        await self.finish()
        await self._complete()
        self.detects_turns = detects_turns
        self.begin()

    async def _complete(self) -> None:
        await self.send(named("input_audio_buffer.committed", item_id=self.item, previous_item_id=self.previous))
        usage = {"type": "duration", "seconds": round(self.seconds - self.item_began, 3)}
        fields = {"item_id": self.item, "content_index": 0, "transcript": self.earlier, "usage": usage}
        await self.send(named(f"{TRANSCRIPTION}.completed", **fields))
        self.previous = self.item
        self._begin_item()

    def _begin_item(self) -> None:
        self.item, self.item_began = new_id("item"), self.seconds
        self.earlier = self.sent = ""  # text of the item's earlier utterances, and what of the item the client has

    async def _update(self, session: dict[str, Any]) -> None:
        """Take the settings of a session that exist here."""
        options = inside(session, "audio", "input")
        sound = inside(options, "format")
        if sound.get("type", "audio/pcm") != "audio/pcm" or sound.get("rate", RATE) != RATE:
            return await self.send(self.error_message(f"audio.input.format must be audio/pcm with rate {RATE}"))
        if session.get("type", "transcription") != "transcription":
            return await self.send(self.error_message("session.type must be transcription"))
        if "turn_detection" in options:
            self.detects_turns = options["turn_detection"] is not None
        await self.send(self._session("session.updated"))

    def _session(self, event: str) -> dict[str, Any]:
        """Return an event with the settings of the session."""
        turns = {"type": "server_vad"} if self.detects_turns else None
        settings = {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": turns}
        return named(event, session={"type": "transcription", "audio": {"input": settings}})

    @staticmethod
    def error_message(message: str) -> dict:
        return named("error", error={"type": "invalid_request_error", "message": message})


def parsed(message: str | bytes) -> Any:
    """Return the value of a message in JSON; None if it is not JSON."""
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None


def inside(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return the object at the end of these keys; an empty one if there is none."""
    for key in keys:
        value = value.get(key)
        if not isinstance(value, dict):
            return {}
    return value


def named(event: str, **fields: Any) -> dict[str, Any]:
    """Return an event of the server."""
    return {"type": event, "event_id": new_id("event"), **fields}


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:20]}"
