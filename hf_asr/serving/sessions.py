"""What all WebSockets for live audio share: limits, access, and the way from 16-bit PCM to results."""

import asyncio
import contextlib
import hmac
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import soxr
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..decoding.streaming import StreamingRecognizer, StreamingResult
from .clients import Clients, client_name
from .engine import Engine
from .hotwords import HotwordsError, read_hotwords
from .options import StreamOptions

logger = logging.getLogger("hf_asr")

# Least and most audio that is given to a stream at once: a client may send single samples, or half a minute.
LEAST_SECONDS, MOST_SECONDS = 0.02, 1.0
MAX_MESSAGE_BYTES = 1_000_000  # half a minute of audio
REFUSAL_SECONDS = 5.0  # for an error to be sent
CLOSED_NORMALLY, POLICY, TOO_BIG, TRY_LATER, FAILED = 1000, 1008, 1009, 1013, 1011  # codes of RFC 6455 and its registry


class StreamError(ValueError):
    """A stream that cannot go on; the client gets the message, and the connection is closed with `code`."""

    def __init__(self, message: str, *, code: int = POLICY):
        super().__init__(message)
        self.code = code


class StreamService:
    """What all streams of a server share.

    Args:
        api_key: Key that clients must send; None for no key.
        cors_origins: Origins, beside the server's own, whose pages may connect.
    """

    def __init__(
        self,
        engine: Engine,
        options: StreamOptions,
        *,
        api_key: str | None = None,
        cors_origins: Collection[str] = (),
    ):
        self.engine, self.options, self.api_key, self.cors_origins = engine, options, api_key, cors_origins
        share = engine.options.max_client_share
        self.clients = Clients(max_connections=options.max_streams, decoders=1, share=share)


class Session(ABC):
    """One connection; its subclasses are the protocols.

    The next message is read when the audio of the last one is recognised, so a client that sends faster than the
    server computes is slowed down by its own connection.

    Args:
        rate: Sampling rate of the audio in Hz.

    Raises:
        StreamError: The model cannot stream.
    """

    def __init__(self, socket: WebSocket, service: StreamService, *, rate: int):
        self.socket, self.engine, self.options, self.rate = socket, service.engine, service.options, rate
        self.seconds = 0.0  # of audio so far
        self.recognizer = self.engine.recognizer
        self._deadline = asyncio.get_running_loop().time() + self.options.stream_timeout_s
        self.begin()

    def begin(self) -> None:
        """Begin a stream without what the last one of this connection has of the past."""
        try:
            self.stream = StreamingRecognizer(self.recognizer)
        except ValueError as error:
            raise StreamError(str(error)) from error
        self._waiting, self._resampler = b"", None
        if self.rate != self.engine.sampling_rate:
            self._resampler = soxr.ResampleStream(self.rate, self.engine.sampling_rate, 1, dtype="float32")

    @abstractmethod
    async def run(self) -> None:
        """Serve the connection until the client ends it."""

    @abstractmethod
    async def show(self, result: StreamingResult) -> None:
        """Send a result."""

    @staticmethod
    @abstractmethod
    def error_message(message: str) -> dict:
        """Return the message with an error."""

    async def receive(self) -> str | bytes:
        """Return the next message.

        Raises:
            WebSocketDisconnect: The client has closed the connection.
            StreamError: The client sends no audio.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self.socket.receive()
        except TimeoutError:
            raise StreamError(f"no audio for {self.options.stream_timeout_s:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        content = message["text"] if message.get("bytes") is None else message["bytes"]
        if len(content) > MAX_MESSAGE_BYTES:  # uvicorn refuses them for the server, but not for the demo
            raise StreamError(f"a message must have at most {MAX_MESSAGE_BYTES} bytes", code=TOO_BIG)
        return content

    async def recognize(self, data: bytes) -> None:
        """Recognise 16-bit PCM, and show the results; half a sample waits for the next call."""
        self._waiting += data
        if len(self._waiting) >= 2 * LEAST_SECONDS * self.rate:
            await self._recognize_waiting()
        if data:  # empty messages do not keep the stream open
            self._deadline = asyncio.get_running_loop().time() + self.options.stream_timeout_s

    async def use_hotwords(self, value: Any) -> Sequence[str]:
        """Use hotwords for all of the stream, which has no audio yet; return remarks on those that are left out.

        Raises:
            StreamError: The hotwords cannot be used.
        """
        try:
            hotwords, remarks = await asyncio.to_thread(read_hotwords, value, self.engine.recognizer)
        except HotwordsError as error:
            raise StreamError(error.detail) from error
        self.recognizer = self.engine.recognizer.with_hotwords(hotwords)
        self.begin()
        return remarks

    async def finish(self) -> None:
        """Recognise the rest of the stream, and show the last results."""
        await self._recognize_waiting()
        if self._resampler is not None:
            await self._add(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        await asyncio.to_thread(self.stream.end)
        await self._show(await self._steps() + self.stream.end_utterance())

    async def send(self, message: dict) -> None:
        """Send a message; raise StreamError if the client does not read it in time."""
        try:
            async with asyncio.timeout(self.options.stream_timeout_s):
                await self.socket.send_json(message)
        except TimeoutError:
            raise StreamError(f"no result could be sent for {self.options.stream_timeout_s:g} s") from None

    async def _recognize_waiting(self) -> None:
        end = len(self._waiting) // 2 * 2
        samples, self._waiting = np.frombuffer(self._waiting[:end], dtype="<i2"), self._waiting[end:]
        self.seconds += len(samples) / self.rate
        if self.seconds > self.options.max_stream_seconds:
            raise StreamError(f"the stream is longer than {self.options.max_stream_seconds:g} s")
        step = int(MOST_SECONDS * self.rate)
        for start in range(0, len(samples), step):
            piece = samples[start : start + step].astype(np.float32) / 32768
            await self._add(piece if self._resampler is None else self._resampler.resample_chunk(piece))
            await self._show(await self._steps())

    async def _add(self, samples: np.ndarray) -> None:
        """Give samples at the model's rate (samples,) to the stream."""
        await asyncio.to_thread(self.stream.add, samples)

    async def _steps(self) -> list[StreamingResult]:
        """Return the results of the steps that the stream is ready for."""
        results: list[StreamingResult] = []
        while self.stream.is_ready:
            results += await asyncio.wrap_future(self.engine.submit_step(self.stream))
        return results

    async def _show(self, results: list[StreamingResult]) -> None:
        """Show all final results, and the last one."""
        for result in results:
            if result.is_final or result is results[-1]:
                await self.show(result)


async def serve_session(
    socket: WebSocket, *, service: StreamService, make: Callable[[WebSocket, StreamService], Session]
) -> None:
    """Serve a connection with the session that `make` returns, within the limits of the service."""
    await socket.accept()
    with contextlib.ExitStack() as stack:
        try:
            check_access(socket, service)
            stack.enter_context(service.clients.connection(client_name(socket)))
            await make(socket, service).run()
            await socket.close(CLOSED_NORMALLY)
        except WebSocketDisconnect:
            return
        except Exception as error:
            await refuse(socket, error, error_message=make.error_message)


async def refuse(socket: WebSocket, error: Exception, *, error_message: Callable[[str], dict]) -> None:
    """Send the error and close the connection, unless the client does not read; log an error of the server."""
    code, message = getattr(error, "code", TRY_LATER if hasattr(error, "retry_after") else FAILED), str(error)
    if code == FAILED:
        logger.error("a stream failed", exc_info=error)
        message = "the server failed; its log has the reason"
    with contextlib.suppress(Exception):  # the client may be gone
        async with asyncio.timeout(REFUSAL_SECONDS):
            await socket.send_json(error_message(message))
            await socket.close(code)


def check_access(socket: WebSocket, service: StreamService) -> None:
    """Raise StreamError if the client does not send the API key, or is a page of an origin that is not allowed.

    Browsers let every page connect to a WebSocket, so the server itself has to check the origin.
    """
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    key = (service.api_key or "").encode()
    if key and (scheme.lower() != "bearer" or not hmac.compare_digest(token.encode("latin-1"), key)):
        raise StreamError("send the header Authorization: Bearer KEY")
    origin = socket.headers.get("origin")
    own = {f"{scheme}://{socket.headers.get('host')}" for scheme in ("http", "https")}
    if origin is not None and not {"*", origin} & set(service.cors_origins) and origin not in own:
        raise StreamError(f"pages of {origin[:100]} are not allowed: start the server with --cors_origins")
