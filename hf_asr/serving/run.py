"""`scripts/serve.py`: a checkpoint behind HTTP, on one machine."""

import logging
import os
from collections.abc import Sequence

import numpy as np
import uvicorn
from transformers import HfArgumentParser

from ..console import command
from ..decoding.recognizer import load
from .engine import Engine, EngineOptions
from .rest import ServerOptions, create_app


@command()
def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = HfArgumentParser(
        (EngineOptions, ServerOptions),
        prog="serve",
        description="POST /transcribe, POST /v1/audio/transcriptions, /docs.",
        allow_abbrev=False,
    )
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, exported graph, or Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too")
    parser.add_argument("--port", type=int, default=5000)
    engine_options, options, args = parser.parse_args_into_dataclasses(argv)
    engine = load_engine(args.model_name_or_path, engine_options)
    app = create_app(engine, options, model_name=args.model_name_or_path)
    print(f"http://{args.host}:{args.port}/docs", flush=True)
    # a request that was accepted is answered before the end
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        log_level="warning",
        timeout_graceful_shutdown=int(options.transcription_timeout_s),
        timeout_keep_alive=30,
        proxy_headers=False,  # uvicorn would let anyone behind 127.0.0.1 say who he is; --forwarded_allow_ips is ours
    )


def load_engine(model_name_or_path: str, options: EngineOptions) -> Engine:
    """An engine that knows its speed, and has compiled and allocated what the first request should not wait for."""
    # Each shape of a batch leaves oneDNN a primitive; it would keep a thousand of them, which are hundreds of MB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    engine = Engine(load(model_name_or_path), options)
    for seconds in (1, 10):
        engine.submit(np.zeros(seconds * engine.rate, np.float32)).result()
    return engine
