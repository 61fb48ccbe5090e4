"""Keep what a decoder needs of a recording's windows in few arrays."""

from collections.abc import Callable, Sequence
from typing import Any


def append_joined(parts: list[Any], part: Any, *, join: Callable[[Sequence[Any]], Any]) -> None:
    """Append a part, in place, and join the last parts until each is more than twice as long as the next one.

    So n windows are at most about log2(n) parts. If each window stayed as it is, its small arrays would be between the
    large ones of the steps, which do not stay, and would keep glibc from using that memory again.

    Args:
        join: Returns one part instead of consecutive ones.
    """
    parts.append(part)
    while len(parts) > 1 and len(parts[-2]) <= 2 * len(parts[-1]):
        parts[-2:] = [join(parts[-2:])]
