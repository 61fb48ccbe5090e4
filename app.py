"""Serve the demo page: record or upload speech, see the words under its waveform, and compare two checkpoints.

python app.py --model_name_or_path runs/quickstart [--compare_with runs/other] [--port 7860]

A checkpoint that was trained in chunks also gives live text from the microphone.

A Hugging Face Space starts this file without arguments: the Space's variable HF_ASR_MODEL names the checkpoint.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hf_asr.arguments import Parser, add_address, add_dataclasses, to_dataclasses
from hf_asr.console import command
from hf_asr.decoding.arguments import TextArguments
from hf_asr.serving.options import StreamOptions

CLASSES = (TextArguments, StreamOptions)
QUICKSTART = Path("runs/quickstart")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_options(argv: Sequence[str] | None) -> Namespace:
    """Return the options; environment variables give the defaults."""
    is_space = os.environ.get("SYSTEM") == "spaces" or "SPACE_ID" in os.environ
    parser = Parser(prog="app.py", description="Serve a page that transcribes speech.")
    parser.add_argument(
        "--model_name_or_path",
        default=os.environ.get("HF_ASR_MODEL") or (str(QUICKSTART) if (QUICKSTART / "config.json").is_file() else None),
        help=f"Checkpoint: folder or Hub id; by default the variable HF_ASR_MODEL, then {QUICKSTART}.",
    )
    parser.add_argument("--compare_with", help="Second checkpoint.")
    add_address(parser, host="0.0.0.0" if is_space else "127.0.0.1", port=7860)
    add_dataclasses(parser, CLASSES)
    args = parser.parse_args(argv)
    if args.model_name_or_path is None:
        sys.exit(f"error: give --model_name_or_path, or set HF_ASR_MODEL; {QUICKSTART} does not exist")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_options(argv)
    with command():
        from hf_asr.serving.demo import build_demo, launch, live_service, load_warm  # needs the extra `demo`

        search, limits = to_dataclasses(args, CLASSES)
        recognizer = load_warm(args.model_name_or_path, search=search)
        second = load_warm(args.compare_with) if args.compare_with else None
        live = live_service(recognizer, limits)
        demo = build_demo(recognizer, live=live, second=second, may_choose_second=args.host in LOOPBACK)
        launch(demo, host=args.host, port=args.port or None)


if __name__ == "__main__":
    # Gradio deletes the recordings when it is interrupted, and leaves them when it is terminated, as services are.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
