"""Save what is recognised of a long recording, so that an interrupted job goes on from there."""

import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import written_beside
from .streams import EncoderStream

SAVE_SECONDS = 30.0  # from one save to the next
SAVE_SHARE = 0.05  # greatest share of the time that is spent on saving


@dataclass
class Progress:
    """What is recognised of a recording.

    Attributes:
        key: Identifies the recording, the checkpoint and the options.
        search: The decoder's.
        windows: Windows or steps that were searched.
        frames: Their encoder frames.
        stream: The encoder's, if the recording is encoded through the cache.
    """

    key: str
    search: Any = None
    windows: int = 0
    frames: int = 0
    stream: EncoderStream | None = None


class ProgressFile:
    """A file with the progress of a recording, which is replaced from time to time.

    Args:
        path: None saves nothing.
    """

    def __init__(self, path: Path | None):
        self.path, self._due = path, time.monotonic() + SAVE_SECONDS

    def load(self, key: str) -> Progress:
        """Return the saved progress if it has this key, and otherwise a new one."""
        try:
            saved = pickle.loads(self.path.read_bytes()) if self.path else None
        except Exception:  # there is no file, it is damaged, or another version of this package has written it
            saved = None
        return saved if isinstance(saved, Progress) and saved.key == key else Progress(key)

    def save_if_due(self, progress: Progress) -> None:
        """Replace the file if the last save is long ago; a disk that takes no more only ends the saving."""
        started = time.monotonic()
        if self.path is None or started < self._due:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(self.path) as file:
                file.write_bytes(pickle.dumps(progress))
        except OSError:
            self.path = None
        now = time.monotonic()
        self._due = now + max(SAVE_SECONDS, (now - started) / SAVE_SHARE)
