"""Serve a checkpoint: POST /transcribe, POST /v1/audio/transcriptions, live audio over /v1/stream and /v1/realtime."""

import logging
from argparse import Namespace

from ..arguments import Parser, add_address, add_dataclasses, to_dataclasses
from ..serving.engine import EngineOptions
from ..serving.options import ServerOptions
from ..serving.run import load_engine, serve

CLASSES = (EngineOptions, ServerOptions)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="Checkpoint or exported graph: folder or Hub id.")
    add_address(parser, host="127.0.0.1", port=5000)
    add_dataclasses(parser, CLASSES)


def run(args: Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    engine_options, options = to_dataclasses(args, CLASSES)
    engine = load_engine(args.model_name_or_path, engine_options)
    serve(engine, options, host=args.host, port=args.port, model_name=args.model_name_or_path)
