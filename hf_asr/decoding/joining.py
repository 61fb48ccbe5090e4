"""Keep what a decoder needs of a recording's windows in few arrays."""

from collections.abc import Callable
from typing import Any


def append_joined(parts: list[Any], part: Any, *, join: Callable[[Any, Any], Any]) -> None:
    """Append a part, in place, and join the last parts until each is more than twice as long as the next one.

    So n windows are at most about log2(n) parts. If each window stayed as it is, its small arrays would be between the
    large ones of the steps, which do not stay, and an hour in steps of 640 ms would take up to 1.4 GB (glibc).

    Args:
        join: Returns one part instead of two consecutive ones.
    """
    parts.append(part)
    while len(parts) > 1 and len(parts[-2]) <= 2 * len(parts[-1]):
        last = parts.pop()
        parts[-1] = join(parts[-1], last)
