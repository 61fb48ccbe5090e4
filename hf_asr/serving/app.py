"""The REST application: routes, middleware and error handlers around one engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import python_multipart  # noqa: F401  (forms need it; without it, the first request would fail)
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .. import __version__
from ..provenance import public_name
from . import routes_openai, routes_operations, routes_transcribe
from .authorization import ApiKey
from .engine import Engine
from .errors import add_error_handlers
from .middleware import BodyLimit, Measure
from .options import ServerOptions
from .prometheus import ServerMetrics
from .routes_realtime import realtime_route
from .routes_stream import stream_route
from .schemas import UNAUTHORIZED_RESPONSE, without_field
from .sessions import StreamService
from .transcription import TranscriptionService

TRANSCRIPTION_ROUTERS = (routes_transcribe.router, routes_openai.router)  # these require the API key
OPEN_ROUTERS = (routes_openai.models_router, routes_operations.router)


def create_app(engine: Engine, options: ServerOptions | None = None, *, model_name: str = "") -> FastAPI:
    """Return the application. When it shuts down, it closes the engine, which finishes all accepted requests.

    Args:
        model_name: Name of the model in `/v1/models` and `/health`; of a folder, clients see the last part only.
    """
    options = options or ServerOptions()
    service = TranscriptionService(engine, options)
    streams = StreamService(engine, options, api_key=options.api_key, cors_origins=options.cors_origins)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    about = {"title": "hf_asr", "version": __version__, "redoc_url": None}
    app = FastAPIOffline(**about, lifespan=lifespan, routes=[stream_route(streams), realtime_route(streams)])
    app.state.service, app.state.model_name = service, model_name and public_name(model_name)
    add_middleware(app, options, metrics=service.metrics)
    add_error_handlers(app)
    protection = {}
    if options.api_key:
        protection = {"dependencies": [Depends(ApiKey(options.api_key))], "responses": UNAUTHORIZED_RESPONSE}
    for router in TRANSCRIPTION_ROUTERS:
        app.include_router(router, **protection)
    for router in OPEN_ROUTERS:
        app.include_router(router)
    if not engine.recognizer.takes_hotwords:
        app.openapi_schema = without_field(app.openapi(), "hotwords")
    return app


def add_middleware(app: FastAPI, options: ServerOptions, *, metrics: ServerMetrics) -> None:
    """Add the middleware of all routes; the last one added runs first."""
    routes = tuple(route.path for router in TRANSCRIPTION_ROUTERS + OPEN_ROUTERS for route in router.routes)
    app.add_middleware(BodyLimit, max_file_bytes=int(options.max_upload_mb * 1e6))
    app.add_middleware(Measure, metrics=metrics, routes=routes)
    if options.cors_origins:  # outside the others: a browser shows errors only if they have CORS headers too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    if options.forwarded_allow_ips:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=options.forwarded_allow_ips)
