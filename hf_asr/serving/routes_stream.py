"""`/v1/stream`: live audio in over a WebSocket, partial and final text out; the server and the demo have this route."""

import contextlib
import json
import re
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from ..decoding.streaming import StreamingResult
from .sessions import Session, StreamError, StreamService, serve_session

RATES = (8000, 192000)  # lowest and highest sampling rate of the audio, in Hz
MAX_TEXT = 1000  # characters of a text message


def stream_route(service: StreamService) -> WebSocketRoute:
    """Return the route of an application."""
    return WebSocketRoute("/v1/stream", partial(serve_session, service=service, make=StreamSession))


class StreamSession(Session):
    """Transcribes 16-bit PCM in binary messages, mono, at the rate `?sampling_rate=…`, by default the model's.

    The first message can be `{"type": "hotwords", "hotwords": ["a", "b"]}`; `{"type": "warning", "message": …}` answers
    for each one that is left out. The text message `{"type": "end"}` ends the stream. The answers are JSON: `{"type":
    "partial" or "final", "utterance": …, "text": …, "words": […]}`, then `{"type": "done"}`; `{"type": "error",
    "message": …}` comes before the connection is closed for another reason.

    Raises:
        StreamError: The client asks for a sampling rate that is not supported.
    """

    def __init__(self, socket: WebSocket, service: StreamService):
        rate = socket.query_params.get("sampling_rate", str(service.engine.sampling_rate))
        if not re.fullmatch("[0-9]{1,6}", rate) or not RATES[0] <= int(rate) <= RATES[1]:
            raise StreamError(f"sampling_rate must be between {RATES[0]} and {RATES[1]} Hz, not {rate[:20]!r}")
        super().__init__(socket, service, rate=int(rate))

    async def run(self) -> None:
        message = await self.receive()
        if (hotwords := hotwords_in(message)) is not None:
            for remark in await self.use_hotwords(hotwords):
                await self.send({"type": "warning", "message": remark})
            message = await self.receive()
        while not is_end(message):
            await self.recognize(message)
            message = await self.receive()
        await self.finish()
        await self.send({"type": "done"})

    async def show(self, result: StreamingResult) -> None:
        await self.send(message_of(result))

    @staticmethod
    def error_message(message: str) -> dict:
        return {"type": "error", "message": message}


def hotwords_in(message: str | bytes) -> Any:
    """Return the value of a message with hotwords; None for any other message."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        value = json.loads(message) if isinstance(message, str) else {}
        return value["hotwords"] if value["type"] == "hotwords" else None
    return None


def is_end(message: str | bytes) -> bool:
    """Return whether a message ends the stream; raise StreamError for another text."""
    if isinstance(message, bytes):
        return False
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        if json.loads(message[:MAX_TEXT])["type"] == "end":
            return True
    raise StreamError(
        'a text message must be {"type": "end"}, or {"type": "hotwords", "hotwords": […]} before all audio; audio '
        "is sent in binary messages"
    )


def message_of(result: StreamingResult) -> dict:
    """Return the message with a result."""
    fields = asdict(result)
    return {"type": "final" if fields.pop("is_final") else "partial", **fields}
