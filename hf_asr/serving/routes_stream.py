"""`/v1/stream`: live audio in over a WebSocket, partial and final text out."""

import asyncio
import contextlib
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import asdict

import numpy as np
import soxr
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from ..decoding.streaming import StreamingRecognizer, StreamingResult
from .clients import client_name
from .engine import Engine
from .options import ServerOptions
from .transcription import TranscriptionService

logger = logging.getLogger("hf_asr")
router = APIRouter()

RATES = (8000, 48000)  # lowest and highest sampling rate of the audio, in Hz
PIECE_SECONDS = 1.0  # of audio that is given to a stream at once, so that a large message does not block others
REFUSAL_SECONDS = 5.0  # for an error to be sent
MAX_TEXT = 1000  # characters of a text message
CLOSED_NORMALLY, POLICY, TRY_LATER, FAILED = 1000, 1008, 1013, 1011  # codes of RFC 6455 and its registry


class StreamError(ValueError):
    """A stream that cannot go on; the client gets the message, and the connection is closed with `code`."""

    def __init__(self, message: str, *, code: int = POLICY):
        super().__init__(message)
        self.code = code


@router.websocket("/v1/stream")
async def transcribe_stream(socket: WebSocket) -> None:
    """Transcribe a stream: 16-bit PCM in binary messages, mono, at the rate `?sampling_rate=…`, by default the model's.

    The text message `{"type": "end"}` ends the stream. The answers are JSON: `{"type": "partial" or "final",
    "utterance": …, "text": …, "words": […]}`, then `{"type": "done"}`; `{"type": "error", "message": …}` comes before
    the connection is closed for another reason.
    """
    service: TranscriptionService = socket.app.state.service
    await socket.accept()
    with contextlib.ExitStack() as stack:
        try:
            check_access(socket, service.options)
            stack.enter_context(service.streams.connection(client_name(socket)))
            await Session(socket, service.engine, service.options).run()
            await socket.close(CLOSED_NORMALLY)
        except WebSocketDisconnect:
            return
        except Exception as error:
            await refuse(socket, error)


async def refuse(socket: WebSocket, error: Exception) -> None:
    """Send the error and close the connection, unless the client does not read; log an error of the server."""
    code, message = getattr(error, "code", TRY_LATER if hasattr(error, "retry_after") else FAILED), str(error)
    if code == FAILED:
        logger.error("a stream failed", exc_info=error)
        message = "the server failed; its log has the reason"
    with contextlib.suppress(Exception):  # the client may be gone
        async with asyncio.timeout(REFUSAL_SECONDS):
            await socket.send_json({"type": "error", "message": message})
            await socket.close(code)


def check_access(socket: WebSocket, options: ServerOptions) -> None:
    """Raise StreamError if the client does not send the API key, or is a page of an origin that is not allowed.

    Browsers let every page connect to a WebSocket, so the server itself has to check the origin.
    """
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    key = (options.api_key or "").encode()
    if key and (scheme.lower() != "bearer" or not hmac.compare_digest(token.encode("latin-1"), key)):
        raise StreamError("send the header Authorization: Bearer KEY")
    origin = socket.headers.get("origin")
    own = {f"{scheme}://{socket.headers.get('host')}" for scheme in ("http", "https")}
    if origin is not None and not {"*", origin} & set(options.cors_origins) and origin not in own:
        raise StreamError(f"pages of {origin[:100]} are not allowed: start the server with --cors_origins")


class Session:
    """One connection.

    The next message is read when the audio of the last one is recognised, so a client that sends faster than the
    server computes is slowed down by its own connection.

    Raises:
        StreamError: The model cannot stream, or the client asks for a sampling rate that is not supported.
    """

    def __init__(self, socket: WebSocket, engine: Engine, options: ServerOptions):
        self.socket, self.engine, self.options = socket, engine, options
        rate = socket.query_params.get("sampling_rate", str(engine.sampling_rate))
        if not re.fullmatch("[0-9]{1,5}", rate) or not RATES[0] <= int(rate) <= RATES[1]:
            raise StreamError(f"sampling_rate must be between {RATES[0]} and {RATES[1]} Hz, not {rate[:20]!r}")
        self.rate = int(rate)
        try:
            self.stream = StreamingRecognizer(engine.recognizer)
        except ValueError as error:
            raise StreamError(str(error)) from error
        self.resampler = None
        if self.rate != engine.sampling_rate:
            self.resampler = soxr.ResampleStream(self.rate, engine.sampling_rate, 1, dtype="float32")
        self.seconds, self.half_sample = 0.0, b""

    async def run(self) -> None:
        """Recognise the messages of the client until it ends the stream."""
        async for data in self._messages():
            samples = self._samples(data)
            step = max(1, int(PIECE_SECONDS * self.rate))
            for start in range(0, len(samples), step):
                await self._recognize(samples[start : start + step], is_last=False)
        await self._recognize(np.zeros(0, np.float32), is_last=True)
        await self._send({"type": "done"})

    async def _messages(self) -> AsyncIterator[bytes]:
        """Yield the binary messages until the client sends `{"type": "end"}`."""
        clock, limit = asyncio.get_running_loop().time, self.options.stream_timeout_s
        deadline = clock() + limit
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self.socket.receive()
            except TimeoutError:
                raise StreamError(f"no audio for {self.options.stream_timeout_s:g} s") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            if message.get("bytes") is not None:
                yield message["bytes"]
                if message["bytes"]:  # empty messages do not keep the stream open
                    deadline = clock() + limit
                continue
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                if json.loads(message["text"][:MAX_TEXT])["type"] == "end":
                    return
            raise StreamError('a text message must be {"type": "end"}; audio is sent in binary messages')

    def _samples(self, data: bytes) -> np.ndarray:
        """Return the samples of a message (samples,), float in [-1, 1]; half a sample waits for the next message."""
        data = self.half_sample + data
        self.half_sample = data[len(data) - len(data) % 2 :]
        samples = np.frombuffer(data[: len(data) - len(data) % 2], dtype="<i2")
        self.seconds += len(samples) / self.rate
        if self.seconds > self.options.max_stream_seconds:
            raise StreamError(f"the stream is longer than {self.options.max_stream_seconds:g} s")
        return samples.astype(np.float32) / 32768

    async def _recognize(self, samples: np.ndarray, *, is_last: bool) -> None:
        """Recognise samples (samples,), and send the results."""
        if self.resampler is not None:
            samples = self.resampler.resample_chunk(samples, last=is_last)
        await asyncio.to_thread(self.stream.add, samples)
        if is_last:
            await asyncio.to_thread(self.stream.end)
        results: list[StreamingResult] = []
        while self.stream.is_ready:
            results += await asyncio.wrap_future(self.engine.submit_step(self.stream))
        if is_last:
            results += self.stream.end_utterance()
        for result in results:
            if result.is_final or result is results[-1]:
                await self._send(message_of(result))

    async def _send(self, message: dict) -> None:
        """Send a message; raise StreamError if the client does not read it in time."""
        try:
            async with asyncio.timeout(self.options.stream_timeout_s):
                await self.socket.send_json(message)
        except TimeoutError:
            raise StreamError(f"no result could be sent for {self.options.stream_timeout_s:g} s") from None


def message_of(result: StreamingResult) -> dict:
    """Return the message with a result."""
    fields = asdict(result)
    return {"type": "final" if fields.pop("is_final") else "partial", **fields}
