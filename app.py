"""The demo: record or upload speech, see the words on their sound, and compare two checkpoints.

python app.py --model_name_or_path runs/quickstart [--compare_with runs/other] [--port 7860]

This is also the file that a Hugging Face Space starts, without arguments: it serves the checkpoint that the Space's
variable HF_ASR_MODEL names.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

QUICKSTART = Path("runs/quickstart")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, completed by what the environment says."""
    is_space = os.environ.get("SYSTEM") == "spaces" or "SPACE_ID" in os.environ
    parser = argparse.ArgumentParser(prog="app.py", description="Serves a page that transcribes speech.")
    parser.add_argument(
        "--model_name_or_path",
        default=os.environ.get("HF_ASR_MODEL") or (str(QUICKSTART) if (QUICKSTART / "config.json").is_file() else None),
        help=f"checkpoint, a folder or a Hub id; without it the variable HF_ASR_MODEL, then {QUICKSTART}",
    )
    parser.add_argument("--compare_with", help="second checkpoint")
    parser.add_argument("--host", default="0.0.0.0" if is_space else "127.0.0.1", help="0.0.0.0 for other machines")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args(argv)
    if args.model_name_or_path is None:
        sys.exit(f"error: give --model_name_or_path, or set HF_ASR_MODEL; {QUICKSTART} is not there")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        from hf_asr.serving.demo import build_demo, launch, load_warm
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install 'hf_asr[demo]'")
    try:
        recognizer = load_warm(args.model_name_or_path)
        second = load_warm(args.compare_with) if args.compare_with else None
        demo = build_demo(recognizer, second=second, may_choose_second=args.host in LOOPBACK)
        launch(demo, host=args.host, port=args.port)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    # Gradio deletes the recordings when it is interrupted, and leaves them when it is terminated, as services are.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
