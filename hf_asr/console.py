"""Print any text at any terminal, and turn errors into one line."""

import codecs
import contextlib
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any

BROKEN_PIPE, INTERRUPTED = 141, 130  # as a shell reports processes that SIGPIPE and SIGINT ended
EXTRAS = {  # package: the extra of setup.cfg that installs it
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript", "optimum"), "export"),
    **dict.fromkeys(
        ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "starlette", "uvicorn"), "serve"
    ),
    "gradio": "demo",
    "ray": "ray",
}


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Run a command: a context manager, and a decorator of functions.

    A character that the console cannot show is printed as its escape. An error that the user can fix ends the process
    with `error: …`. An interrupt, or a closed pipe (`| head`), ends it without a message.
    """
    for stream in (sys.stdout, sys.stderr):  # None where a service has closed them
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError as error:
        kind = os.fstat(sys.stdout.fileno()).st_mode
        if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):  # another pipe, such as to a worker
            sys.exit(f"error: {error}")
        # The interpreter flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, ImportError) as error:
        if logging.getLogger("hf_asr").isEnabledFor(logging.DEBUG):
            raise
        text = str(error)
        if extra := EXTRAS.get((getattr(error, "name", None) or "").partition(".")[0]):
            text = f"{error.name} is not installed: pip install 'hf_asr[{extra}]'"
        if text.startswith("Caught "):  # raised in a worker of DataLoader, whose traceback precedes the message
            text = text.rpartition(f"\n{type(error).__name__}: ")[2]
        sys.exit(f"error: {on_one_line(' '.join(text.split()))}")


def on_one_line(text: str) -> str:
    """Return a text with its line breaks, tabs and other control characters as escapes."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: match.group().encode("unicode_escape").decode(), text
    )


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object on one line, with escapes where standard output cannot show every character."""
    print(json.dumps(value, ensure_ascii=not prints_unicode(), default=str))


def prints_unicode() -> bool:
    """Return whether standard output can show every character."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "ascii").name.startswith("utf")
