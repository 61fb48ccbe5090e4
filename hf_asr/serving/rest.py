"""REST: the article's `POST /transcribe`, OpenAI's `POST /v1/audio/transcriptions`, /health, /metrics and /docs."""

import asyncio
import hmac
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from .. import __version__
from ..data.audio import AudioError, AudioTooLongError, Recording, read_recording
from ..decoding.recognizer import Transcript
from ..decoding.subtitles import cues, to_srt, to_vtt
from .engine import ClosedError, Engine, QueueFullError
from .metrics import Metrics

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
FORM_BYTES = 100_000  # of an upload, beside the file
LOOK_EVERY_S = 0.5  # whether a client that waits is still there
Fields = dict[str, list[str]]  # of a form, without its files


@dataclass
class ServerOptions:
    """What clients may ask; each is an argument of `scripts/serve.py`."""

    max_upload_mb: float = field(default=50.0, metadata={"help": "Of a file, in 10^6 bytes."})
    max_audio_seconds: float = field(
        default=1200.0, metadata={"help": "Of a recording; the queue should hold several."}
    )
    upload_timeout_s: float = field(default=60.0, metadata={"help": "Until the whole file must have come."})
    transcription_timeout_s: float = field(
        default=300.0, metadata={"help": "Until a recording that has come must be decoded and transcribed."}
    )
    max_connections: int = field(default=256, metadata={"help": "Requests that are read or computed at a time."})
    api_key: str | None = field(
        default=None, metadata={"help": "Asked of clients (Authorization: Bearer KEY); or $HF_ASR_API_KEY."}
    )


def create_app(engine: Engine, options: ServerOptions | None = None, *, model_name: str = "") -> FastAPI:
    """The application; it closes the engine, which finishes what it accepted, when it shuts down."""
    options = options or ServerOptions()
    metrics = Metrics(engine)
    decoders = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="decode")
    connections = 0

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await asyncio.to_thread(engine.close)
        decoders.shutdown(cancel_futures=True)

    app = FastAPIOffline(title="hf_asr", version=__version__, lifespan=lifespan, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=int(options.max_upload_mb * 1e6) + FORM_BYTES)
    app.add_middleware(Measure, metrics=metrics)

    @app.exception_handler(StarletteHTTPException)
    async def tell(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), headers=error.headers)

    def authorize(request: Request) -> None:
        if options.api_key is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode("latin-1"), options.api_key.encode()):
            raise HTTPException(401, "send the header Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    async def receive(request: Request) -> FormData:
        """The form; large files are on disk until it is closed."""
        try:
            async with asyncio.timeout(options.upload_timeout_s):
                return await request.form(max_files=1, max_fields=50)
        except TimeoutError:
            raise HTTPException(408, f"the upload took longer than {options.upload_timeout_s:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the client went away") from None

    async def decode(form: FormData, name: str) -> Recording:
        """The recording in the form's field `name`; as many at a time are in memory as there are decoders."""
        upload = form.get(name)
        if not isinstance(upload, UploadFile):
            raise HTTPException(422, f"send the recording as a file in the multipart form field {name!r}")

        def read() -> Recording:
            data = upload.file.read()
            return read_recording(data, sampling_rate=engine.rate, max_seconds=options.max_audio_seconds)

        return await asyncio.get_running_loop().run_in_executor(decoders, read)

    async def answer(request: Request, future: asyncio.Future[Transcript]) -> Transcript:
        """Cancelled, the engine computes the rest no more: when the client goes away, or the time is over."""
        try:
            while not (await asyncio.wait({future}, timeout=LOOK_EVERY_S))[0]:
                if await request.is_disconnected():
                    raise HTTPException(400, "the client went away")
            return future.result()
        finally:
            future.cancel()

    async def transcribe(
        request: Request, name: str, check: Callable[[Fields], None] = lambda fields: None
    ) -> tuple[Transcript, float, Fields, list[str]]:
        """Transcript, seconds of audio, the form's other fields, and what there is to say of the recording.

        `check` may refuse the fields before anything else.
        """
        nonlocal connections
        authorize(request)
        if connections >= options.max_connections:
            raise HTTPException(503, "too many requests at once: try again in 1 s", {"Retry-After": "1"})
        connections += 1
        try:
            form = await receive(request)
            async with asyncio.timeout(options.transcription_timeout_s):
                try:
                    fields = {key: [v for v in form.getlist(key) if isinstance(v, str)] for key in form}
                    check(fields)
                    recording = await decode(form, name)
                finally:
                    await form.close()
                seconds, warnings = len(recording.waveform) / engine.rate, recording.damage + recording.remarks
                future = engine.submit(recording.waveform)
                del recording
                transcript = await answer(request, asyncio.wrap_future(future))
        except AudioTooLongError as error:
            raise HTTPException(413, f"the recording {error}") from error
        except AudioError as error:
            raise HTTPException(415, f"the recording cannot be used: {error}") from error
        except QueueFullError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(math.ceil(error.retry_after))}) from error
        except ClosedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "10"}) from error
        except TimeoutError:
            limit = options.transcription_timeout_s
            raise HTTPException(503, f"not transcribed within {limit:g} s", {"Retry-After": "10"}) from None
        finally:
            connections -= 1
        metrics.audio_seconds.inc(seconds)
        return transcript, seconds, fields, warnings

    @app.post("/transcribe", openapi_extra=_form("audio"), responses=ERRORS)
    async def transcribe_audio(request: Request) -> dict[str, str | list[str]]:
        """A recording of any format as the form field `audio`; answers `{"text": …}`.

        Of a damaged one, or one that had to be read in an uncommon way, `warnings` say what there is to say.
        """
        transcript, _, _, warnings = await transcribe(request, "audio")
        return {"text": transcript.text} | ({"warnings": warnings} if warnings else {})

    @app.post("/v1/audio/transcriptions", openapi_extra=_form("file", OPENAI_FIELDS), responses=ERRORS)
    async def transcribe_as_openai(request: Request) -> Response:
        """As OpenAI's clients call it; `model`, `prompt` and `temperature` are accepted and have no effect."""
        transcript, seconds, fields, warnings = await transcribe(request, "file", check_fields)
        wanted = _first(fields, "response_format", "json")
        if wanted == "text":
            return PlainTextResponse(transcript.text + "\n")
        if wanted == "srt":
            return PlainTextResponse(to_srt(transcript.words))
        if wanted == "vtt":
            return PlainTextResponse(to_vtt(transcript.words))
        answer = _verbose(transcript, seconds, fields) if wanted == "verbose_json" else {"text": transcript.text}
        return JSONResponse(answer | ({"warnings": warnings} if warnings else {}))

    @app.get("/v1/models")
    async def models() -> dict:
        """The one model there is."""
        return {"object": "list", "data": [{"id": model_name, "object": "model", "owned_by": "hf_asr"}]}

    @app.get("/health", responses={503: {"description": "the engine has stopped"}})
    async def health() -> JSONResponse:
        """Whether requests are taken."""
        status = {"status": "ok" if engine.is_alive else "not answering", "model": model_name}
        return JSONResponse(status, 200 if engine.is_alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


ROUTES = ("/transcribe", "/v1/audio/transcriptions", "/v1/models", "/health", "/metrics")
OPENAI_FIELDS = {
    "model": {"type": "string"},
    "language": {"type": "string"},
    "prompt": {"type": "string"},
    "response_format": {"type": "string", "enum": list(FORMATS)},
    "temperature": {"type": "number"},
    "timestamp_granularities[]": {"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}},
}
ERRORS = {
    400: {"description": "no readable form, or a field with a value that it cannot have"},
    401: {"description": "the bearer token is missing or wrong"},
    408: {"description": "the upload took too long"},
    413: {"description": "the file or the recording is too long"},
    415: {"description": "the file holds no audio that can be decoded"},
    422: {"description": "the form has no file"},
    503: {"description": "too much waits; Retry-After tells the seconds"},
}


class Measure:
    """ASGI middleware: counts and times requests. (Starlette's own kind hides it when a client goes away.)"""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        with self.metrics.time(scope["path"] if scope["path"] in ROUTES else "other") as timed:

            async def note(message: dict) -> None:
                if message["type"] == "http.response.start":
                    timed.status = message["status"]
                await send(message)

            await self.app(scope, receive, note)


class BodyLimit:
    """ASGI middleware: 413 as soon as a body is, or says that it is, larger than `max_bytes`."""

    def __init__(self, app, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        message = f"the upload is larger than {(self.max_bytes - FORM_BYTES) / 1e6:g} MB"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_bytes:
            # its body is not read: the connection cannot go on to another request
            return await _error(413, message, headers={"Connection": "close"})(scope, receive, send)
        received = 0

        async def count() -> dict:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, message, {"Connection": "close"})
            return part

        await self.app(scope, count, send)


def _form(name: str, fields: dict | None = None) -> dict:
    """What OpenAPI shall say of a form that is read by hand, under a time limit."""
    file = {name: {"type": "string", "format": "binary", "description": "a recording of any format"}}
    schema = {"type": "object", "required": [name], "properties": file | (fields or {})}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _error(status: int, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """Errors as OpenAI's clients read them."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers=headers)


def _first(fields: Fields, name: str, default: str) -> str:
    return (fields.get(name) or [default])[0]


def check_fields(fields: Fields) -> None:
    """Raises HTTPException for what OpenAI's API has and this server does not."""
    wanted = _first(fields, "response_format", "json")
    if wanted not in FORMATS:
        raise HTTPException(400, f"response_format is one of {', '.join(FORMATS)}, not {wanted!r}")
    if _first(fields, "stream", "false").lower() == "true":
        raise HTTPException(400, "stream is not supported: leave it out")


def _verbose(transcript: Transcript, seconds: float, fields: Fields) -> dict:
    """OpenAI's verbose_json; segments are the lines that subtitles would have."""
    granularities = fields.get("timestamp_granularities[]") or ["segment"]
    answer = {
        "task": "transcribe",
        "language": _first(fields, "language", ""),
        "duration": round(seconds, 3),
        "text": transcript.text,
    }
    if "word" in granularities:
        answer["words"] = [asdict(word) for word in transcript.words]
    if "segment" in granularities:
        answer["segments"] = [
            {"id": i, "seek": 0, "start": start, "end": end, "text": text, "tokens": [], "temperature": 0.0}
            for i, (start, end, text) in enumerate(cues(transcript.words))
        ]
    return answer
