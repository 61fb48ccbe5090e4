"""`scripts/serve.py`: a checkpoint behind HTTP, on one machine."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import numpy as np
import uvicorn

from ..checkpoint import load_checkpoint
from .engine import Engine, EngineOptions
from .rest import ServerOptions, create_app


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    defaults, engine_defaults = ServerOptions(), EngineOptions()
    parser = argparse.ArgumentParser(
        prog="serve", description="POST /transcribe, POST /v1/audio/transcriptions, /docs."
    )
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint, exported graph, or Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument(
        "--api_key", default=os.environ.get("HF_ASR_API_KEY"), help="asked of clients; or $HF_ASR_API_KEY"
    )
    parser.add_argument("--max_upload_mb", type=float, default=defaults.max_upload_mb)
    parser.add_argument("--max_audio_seconds", type=float, default=defaults.max_audio_seconds)
    parser.add_argument("--upload_timeout_s", type=float, default=defaults.upload_timeout_s)
    parser.add_argument("--transcription_timeout_s", type=float, default=defaults.transcription_timeout_s)
    parser.add_argument("--max_queue_seconds", type=float, default=engine_defaults.max_queue_seconds)
    parser.add_argument(
        "--max_batch_seconds", type=float, default=engine_defaults.max_batch_seconds, help="0: no batching"
    )
    parser.add_argument("--max_wait_ms", type=float, default=engine_defaults.max_wait_ms, help="for others of a batch")
    args = parser.parse_args(argv)
    try:
        engine = load_engine(
            args.model_name_or_path,
            EngineOptions(
                max_queue_seconds=args.max_queue_seconds,
                max_batch_seconds=args.max_batch_seconds,
                max_wait_ms=args.max_wait_ms,
            ),
        )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    options = ServerOptions(
        max_upload_mb=args.max_upload_mb,
        max_audio_seconds=args.max_audio_seconds,
        upload_timeout_s=args.upload_timeout_s,
        transcription_timeout_s=args.transcription_timeout_s,
        api_key=args.api_key or None,  # an empty variable asks for nothing
    )
    app = create_app(engine, options, model_name=args.model_name_or_path)
    print(f"http://{args.host}:{args.port}/docs", flush=True)
    # a request that was accepted is answered before the end
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        log_level="warning",
        timeout_graceful_shutdown=int(args.transcription_timeout_s),
        timeout_keep_alive=30,
    )


def load_engine(model_name_or_path: str, options: EngineOptions) -> Engine:
    """An engine that has transcribed once: the first request shall not pay for what is compiled and allocated then."""
    # Each shape of a batch leaves oneDNN a primitive; it would keep a thousand of them, which are hundreds of MB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    model, processor = load_checkpoint(model_name_or_path)
    engine = Engine(model, processor, options)
    engine.submit(np.zeros(engine.rate, np.float32)).result()
    return engine
