"""Serve the demo's page, with limits on uploads and on what a browser may load."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..middleware import BodyLimit, error_response
from ..routes_stream import stream_route
from ..sessions import StreamService
from .live import LIVE_STYLE
from .pages import PAGE_STYLE
from .translations import I18N
from .word_timeline import STYLE

MAX_FILE_BYTES = 64_000_000  # five minutes of 16-bit stereo at 48 kHz are 58 MB
MAX_STORED_BYTES = 2_000_000_000  # of all recordings that are not deleted yet


def launch(demo: gr.Blocks, *, host: str, port: int | None, block: bool = True) -> str:
    """Serve the page and return its address; with `block`, return only when the process is interrupted.

    Args:
        port: None takes the first free port from 7860 on.

    Raises:
        OSError: The port is in use.
    """
    fonts = [gr.themes.Font(name) for name in ("system-ui", "PingFang SC", "Noto Sans CJK SC", "sans-serif")]
    bypass_proxy(host)
    _, address, _ = demo.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,  # needs Node and has no advantage here
        run_history=False,
        footer_links=[],
        max_file_size=MAX_FILE_BYTES,
        enable_monitoring=False,
        theme=gr.themes.Default(font=fonts, primary_hue="blue"),
        css=STYLE + PAGE_STYLE + LIVE_STYLE,
        i18n=I18N,
        app_kwargs={
            "middleware": [
                Middleware(ContentSecurityPolicy),
                Middleware(StorageLimit),
                # Gradio's own limit is for each file of a request, not for their sum.
                Middleware(BodyLimit, max_file_bytes=MAX_FILE_BYTES),
            ],
            **_live_routes(demo.live),
        },
        prevent_thread_lock=not block,
        quiet=not block,
    )
    return address


def _live_routes(live: StreamService | None) -> dict[str, Any]:
    """Return FastAPI's options for the route of live text, whose engine is closed with the page."""
    if live is None:
        return {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(live.engine.close)

    return {"routes": [stream_route(live)], "lifespan": lifespan}


class ContentSecurityPolicy:
    """ASGI middleware that forbids a browser to load anything from other servers, whatever Gradio's page contains."""

    POLICY = (
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'"
    )

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


class StorageLimit:
    """ASGI middleware that refuses uploads while the stored recordings are larger than MAX_STORED_BYTES."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"].endswith("/upload") and stored_bytes() > MAX_STORED_BYTES:
            app = error_response(503, "too many recordings are stored: try again in half an hour")
        await app(scope, receive, send)


def stored_bytes() -> int:
    """Return the size of the recordings that Gradio has not deleted yet, in bytes."""
    total = 0
    for path in Path(gr.utils.get_upload_folder()).rglob("*"):
        with contextlib.suppress(OSError):  # deleted in the meantime
            total += path.stat().st_size
    return total


def bypass_proxy(host: str) -> None:
    """Let this process reach `host` and this machine without a proxy, because Gradio requests its own page at start.

    The hosts that the environment already exempts stay exempt.
    """
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [part.strip() for part in exempt.split(",") if part.strip()]
    hosts += [name for name in dict.fromkeys(("127.0.0.1", "localhost", "::1", host)) if name not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)
