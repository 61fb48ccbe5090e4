"""Serve a checkpoint over HTTP on one machine."""

import contextlib
import os
import socket
from dataclasses import fields

import numpy as np
import uvicorn

from ..decoding.arguments import DecodingArguments, TextArguments
from ..decoding.recognizer import load
from ..decoding.streams import check_streams
from .app import create_app
from .engine import Engine, EngineOptions
from .options import ServerOptions
from .sessions import MAX_MESSAGE_BYTES


def load_engine(model_name_or_path: str, options: EngineOptions) -> Engine:
    """Load a checkpoint into an engine, and run it so that it has measured its speed before the first request.

    Raises:
        ValueError, OSError, ImportError: The name is not a checkpoint, or the checkpoint cannot run here or in chunks.
    """
    # oneDNN keeps a primitive for each shape of a batch, by default a thousand of them: hundreds of MB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    search = {option.name: getattr(options, option.name) for option in fields(TextArguments)}
    recognizer = load(model_name_or_path, arguments=DecodingArguments(**search))
    if options.chunk_size is not None or options.num_left_chunks is not None:
        check_streams(recognizer.model, recognizer.processor.feature_extractor)
    engine = Engine(recognizer, options)
    for seconds in (1, 10):
        engine.submit(np.zeros(seconds * engine.sampling_rate, np.float32)).result()
    return engine


class _Server(uvicorn.Server):
    """Prints its address when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:  # the application did not start
            return
        host, port = self.config.host, self.servers[0].sockets[0].getsockname()[1]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/docs", flush=True)


def serve(engine: Engine, options: ServerOptions, *, host: str, port: int, model_name: str) -> None:
    """Serve the engine until a signal ends the process; accepted requests are answered first.

    The address is printed when the server listens.

    Args:
        port: 0 is any free one.
        model_name: Name of the model in `/v1/models` and `/health`.
    """
    config = uvicorn.Config(
        create_app(engine, options, model_name=model_name),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=int(options.transcription_timeout_s),
        timeout_keep_alive=30,
        ws_max_size=MAX_MESSAGE_BYTES,
        # A few compressed bytes could fill the memory.
        ws_per_message_deflate=False,
        # A client that sends faster than we compute answers a ping late; `stream_timeout_s` ends dead connections.
        ws_ping_interval=None,
        # uvicorn's own option trusts X-Forwarded-For from 127.0.0.1; `forwarded_allow_ips` replaces it.
        proxy_headers=False,
    )
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config).run()
