"""What every command does at a terminal: any text can be printed, and an error is one line."""

import codecs
import contextlib
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator

BROKEN_PIPE, INTERRUPTED = 141, 130  # as a shell reports what SIGPIPE and SIGINT ended


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Run a command; a decorator of its function as well.

    A character that the console cannot show becomes its escape, instead of ending the output. Errors that a person can
    mend end in `error: …`; an interrupt, and a reader that goes away (`| head`), end without a word.
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
        if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):  # another pipe, to a worker for instance
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
        if text.startswith("Caught "):  # by a worker of DataLoader, whose traceback comes first
            text = text.rpartition(f"\n{type(error).__name__}: ")[2]
        sys.exit(f"error: {on_one_line(' '.join(text.split()))}")


def on_one_line(text: str) -> str:
    """Return a text with its line breaks, tabs and other control characters as escapes."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda match: match.group().encode("unicode_escape").decode(), text
    )


def takes_everything() -> bool:
    """Return whether standard output can show every character; where it cannot, JSON is written with escapes."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "ascii").name.startswith("utf")
