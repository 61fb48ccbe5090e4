"""REST: the article's `POST /transcribe`, OpenAI's `POST /v1/audio/transcriptions`, /health, /metrics and /docs."""

import asyncio
import hmac
import math
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .. import __version__
from ..data.audio import AudioError, AudioTooLongError, Recording, read_recording
from ..decoding.subtitles import to_srt, to_vtt
from ..decoding.transcript import Transcript
from .answers import OPENAI_FIELDS, ErrorAnswer, Fields, Text, VerboseText, check_fields, first_field, verbose
from .clients import Clients, TooManyError, client_name
from .engine import ClosedError, Engine, QueueFullError, TooSlowError
from .metrics import Metrics
from .middleware import BodyLimit, Measure, error_answer

LOOK_EVERY_S = 0.5  # whether a client that waits is still there


@dataclass
class ServerOptions:
    """What clients may ask; each is an argument of `scripts/serve.py`.

    The longest recording by default is 1500 s of windows, which overlap; a machine of six times the speed of speech
    needs 250 s. One client may have half of the half of 1200 s that an estimate may take: 300 s. A slower machine
    accepts shorter recordings alone.
    """

    max_upload_mb: float = field(default=50.0, metadata={"help": "Of a file, in 10^6 bytes."})
    max_audio_seconds: float = field(
        default=1200.0, metadata={"help": "Of a recording; the queue should hold several."}
    )
    upload_timeout_s: float = field(default=60.0, metadata={"help": "Until the whole file must have come."})
    transcription_timeout_s: float = field(
        default=1200.0,
        metadata={
            "help": "Until a recording that has come must be decoded and transcribed. What by the measured speed would "
            "take more than half of it is refused before it waits."
        },
    )
    max_connections: int = field(default=256, metadata={"help": "Requests that are read or computed at a time."})
    api_key: str | None = field(
        default=None, metadata={"help": "Asked of clients (Authorization: Bearer KEY); or $HF_ASR_API_KEY."}
    )
    cors_origins: list[str] = field(
        default_factory=list,
        metadata={"help": "Whose pages may send requests from a browser: https://example.org, or * for all."},
    )
    forwarded_allow_ips: str | None = field(
        default=None,
        metadata={"help": "Proxies, separated by commas, whose X-Forwarded-For names the client; of others, none is."},
    )

    def __post_init__(self):
        self.api_key = self.api_key or os.environ.get("HF_ASR_API_KEY") or None  # an empty one asks for nothing
        limits = ("max_upload_mb", "max_audio_seconds", "upload_timeout_s", "transcription_timeout_s")
        for name in (*limits, "max_connections"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0: {getattr(self, name):g}")
        for origin in self.cors_origins:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ValueError(f"cors_origins: {origin!r} is no origin; one is https://example.org, without a path")


def create_app(engine: Engine, options: ServerOptions | None = None, *, model_name: str = "") -> FastAPI:
    """The application; it closes the engine, which finishes what it accepted, when it shuts down."""
    options = options or ServerOptions()
    metrics = Metrics(engine)
    threads = max(2, os.cpu_count() or 1)
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    share = engine.options.max_client_share
    clients = Clients(max_connections=options.max_connections, decoders=threads, share=share)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await asyncio.to_thread(engine.close)
        decoders.shutdown(cancel_futures=True)

    app = FastAPIOffline(title="hf_asr", version=__version__, lifespan=lifespan, redoc_url=None)
    app.add_middleware(BodyLimit, max_file_bytes=int(options.max_upload_mb * 1e6))
    app.add_middleware(Measure, time=metrics.time, routes=ROUTES)
    if options.cors_origins:  # outside of the rest: a browser shows a page the errors of an allowed origin alone
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    if options.forwarded_allow_ips:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=options.forwarded_allow_ips)

    @app.exception_handler(StarletteHTTPException)
    async def explain(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return error_answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def admit_failure(_: Request, error: Exception) -> JSONResponse:
        return error_answer(500, "the server failed; its log says why")

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

    async def decode(form: FormData, name: str, turn: asyncio.Semaphore) -> Recording:
        """The recording in the form's field `name`; as many at a time are in memory as there are decoders."""
        upload = form.get(name)
        if not isinstance(upload, UploadFile):
            raise HTTPException(422, f"send the recording as a file in the multipart form field {name!r}")

        def read() -> Recording:
            data = upload.file.read()
            return read_recording(data, sampling_rate=engine.rate, max_seconds=options.max_audio_seconds)

        async with turn:
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
        authorize(request)
        limit, client = options.transcription_timeout_s, client_name(request)
        try:
            if not engine.is_alive:  # before it is uploaded
                raise ClosedError("the server is stopping: it takes no more requests")
            with clients.connection(client) as connection:
                form = await receive(request)
                async with asyncio.timeout(limit) as timer:
                    try:
                        fields = {key: [v for v in form.getlist(key) if isinstance(v, str)] for key in form}
                        check(fields)
                        recording = await decode(form, name, connection.decoding)
                    finally:
                        await form.close()
                    seconds, warnings = len(recording.waveform) / engine.rate, recording.damage + recording.remarks
                    left = timer.when() - asyncio.get_running_loop().time()
                    try:
                        future = engine.submit(recording.waveform, client=client, within=left)
                    except TooSlowError as error:
                        if left > limit / 2:
                            raise
                        raise QueueFullError(10.0) from error  # the time went by before it was decoded
                    del recording
                    transcript = await answer(request, asyncio.wrap_future(future))
        except (AudioTooLongError, TooSlowError) as error:
            raise HTTPException(413, f"the recording {error}") from error
        except AudioError as error:
            raise HTTPException(415, f"the recording cannot be used: {error}") from error
        except QueueFullError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(math.ceil(error.retry_after))}) from error
        except TooManyError as error:
            raise HTTPException(503, f"{error}: try again in 1 s", {"Retry-After": "1"}) from error
        except ClosedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "10"}) from error
        except TimeoutError:
            raise HTTPException(503, f"not transcribed within {limit:g} s", {"Retry-After": "10"}) from None
        metrics.audio_seconds.inc(seconds)
        return transcript, seconds, fields, warnings

    errors, dependencies = dict(ERRORS), []
    if options.api_key:
        errors[401] = _described("the bearer token is missing or wrong")
        dependencies = [
            Depends(HTTPBearer(auto_error=False))
        ]  # `authorize` asks for it; this gives /docs a field for it

    @app.post(
        "/transcribe",
        openapi_extra=_form("audio"),
        responses=errors,
        dependencies=dependencies,
        response_model_exclude_none=True,
    )
    async def transcribe_audio(request: Request) -> Text:
        """A recording of any format as the form field `audio`; answers `{"text": …}`.

        Of a damaged one, or one that had to be read in an uncommon way, `warnings` say what there is to say.
        """
        transcript, _, _, warnings = await transcribe(request, "audio")
        return Text(text=transcript.text, warnings=warnings or None)

    @app.post(
        "/v1/audio/transcriptions",
        openapi_extra=_form("file", OPENAI_FIELDS),
        responses=errors | {200: {"model": Text | VerboseText, "content": {"text/plain": {}}}},
        dependencies=dependencies,
    )
    async def transcribe_as_openai(request: Request) -> Response:
        """As OpenAI's clients call it; `model`, `prompt` and `temperature` are accepted and have no effect."""
        transcript, seconds, fields, warnings = await transcribe(request, "file", check_fields)
        wanted = first_field(fields, "response_format", "json")
        if wanted == "text":
            return PlainTextResponse(transcript.text + "\n")
        if wanted == "srt":
            return PlainTextResponse(to_srt(transcript.words))
        if wanted == "vtt":
            return PlainTextResponse(to_vtt(transcript.words))
        answer = Text(text=transcript.text)
        if wanted == "verbose_json":
            recognizer = engine.recognizer
            figures = {"seconds_per_frame": recognizer.seconds_per_frame, "tokenizer": recognizer.processor.tokenizer}
            answer = verbose(transcript, fields, duration=seconds, **figures)
        answer.warnings = warnings or None
        return JSONResponse(answer.model_dump(exclude_none=True))

    @app.get("/v1/models")
    async def models() -> dict:
        """The one model there is."""
        return {"object": "list", "data": [{"id": model_name, "object": "model", "owned_by": "hf_asr"}]}

    @app.get("/health", responses={503: {"description": "the engine has stopped, or hangs"}})
    async def health() -> JSONResponse:
        """Whether requests are taken and answered."""
        is_well = engine.is_alive and engine.batch_seconds < options.transcription_timeout_s
        status = {"status": "ok" if is_well else "not answering", "model": model_name}
        return JSONResponse(status, 200 if is_well else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


ROUTES = ("/transcribe", "/v1/audio/transcriptions", "/v1/models", "/health", "/metrics")


def _described(description: str) -> dict:
    return {"model": ErrorAnswer, "description": description}


ERRORS = {
    400: _described("no readable form, or a field with a value that it cannot have"),
    408: _described("the upload took too long"),
    413: _described("the file or the recording is too long"),
    415: _described("the file holds no audio that can be decoded"),
    422: _described("the form has no file"),
    503: _described("too much waits; Retry-After gives the seconds"),
}


def _form(name: str, fields: dict | None = None) -> dict:
    """What OpenAPI shall say of a form that is read by hand, under a time limit."""
    file = {name: {"type": "string", "format": "binary", "description": "a recording of any format"}}
    schema = {"type": "object", "required": [name], "properties": file | (fields or {})}
    form = {"schema": schema, "encoding": {name: {"contentType": "audio/*, video/*, application/octet-stream"}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}
