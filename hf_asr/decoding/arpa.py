"""Read n-gram language models from ARPA files, plain or gzip: quickly, and without a wrong line unnoticed.

The format: <http://www.speech.sri.com/projects/srilm/manpages/ngram-format.5.html>.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NoReturn

import numpy as np

_BINARY_KENLM = b"mmap lm http://kheafield.com/code"
_GZIP = b"\x1f\x8b"
_GAPS = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))  # what separates fields for `bytes.split`
_SLICE = 1 << 24  # bytes that are parsed at once, which bounds the memory for their fields
LOWEST = -99.0  # log10, which ARPA files write for a probability of zero


@dataclass(frozen=True)
class Ngrams:
    """All n-grams of one order.

    Attributes:
        units: Places of the units of each n-gram in `Arpa.units`, int64 (n-grams, order).
        log10_probs: float64 (n-grams,).
        log10_back_offs: float64 (n-grams,), 0 where the file has none.
        lines: Line number of each n-gram, int64 (n-grams,).
    """

    units: np.ndarray
    log10_probs: np.ndarray
    log10_back_offs: np.ndarray
    lines: np.ndarray


@dataclass(frozen=True)
class Arpa:
    """A language model as its file has it: the units in the order of the unigrams, and the n-grams of each order."""

    path: Path
    units: list[str]
    orders: list[Ngrams]

    def refuse(self, line: int, problem: str) -> NoReturn:
        """Raise ValueError with the file and the line."""
        raise ValueError(f"{self.path}, line {line}: {problem}")


def read_arpa(path: str | Path) -> Arpa:
    """Read an ARPA file, plain or gzip, of any order.

    Raises:
        ValueError: The file cannot be read, is not an ARPA file or is damaged; the message has the file and the line.
    """
    path = Path(path)
    data = _read_bytes(path)
    arpa = Arpa(path, [], [])
    vocabulary: dict[bytes, int] = {}
    for order, (count, header, start, stop) in enumerate(_sections(arpa, data), 1):
        parts = [
            _parse(arpa, data, first, last, order=order, vocabulary=vocabulary)
            for first, last in _slices(data, start, stop)
        ]
        found = Ngrams(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        if len(found.lines) != count:
            _refuse_at(arpa, data, header, f"{len(found.lines)} {order}-grams follow, but \\data\\ counts {count}")
        arpa.orders.append(found)
    return arpa


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the gzip file is damaged or cut short: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(_BINARY_KENLM):
        raise ValueError(
            f"{path}, line 1: a binary file of KenLM, which cannot be read: give the ARPA file that build_binary made "
            "it from"
        )
    return data


def _line(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def _refuse_at(arpa: Arpa, data: bytes, place: int, problem: str) -> NoReturn:
    arpa.refuse(_line(data, place), problem)


def _sections(arpa: Arpa, data: bytes) -> list[tuple[int, int, int, int]]:
    r"""Return for each order the number of its n-grams that `\data\` counts, and where its section is.

    The places are those of its header, of its first line and of its end, in bytes.
    """
    begin = 0 if data.startswith(b"\\data\\") else data.find(b"\n\\data\\") + 1
    if not data.startswith(b"\\data\\", begin):
        arpa.refuse(1, "not an ARPA file: no line is \\data\\")
    places = [begin]  # of the lines that begin with a backslash
    while not data.startswith(b"\\end\\", places[-1]) and (place := data.find(b"\n\\", places[-1])) >= 0:
        places.append(place + 1)
    headers = [data[place : place + 80].partition(b"\n")[0].strip() for place in places]
    if headers[-1] != b"\\end\\":
        _refuse_at(arpa, data, len(data.rstrip()), "cut short: no line \\end\\ follows")
    counts = _counts(arpa, data, begin, places[1])
    for order, (place, header) in enumerate(zip(places[1:], headers[1:], strict=True), 1):
        expected = f"\\{order}-grams:" if order <= len(counts) else "\\end\\"
        if header.decode(errors="replace") != expected:
            _refuse_at(arpa, data, place, f"{expected} is expected, not {_shown(header)}")
    starts = [place + len(header) for place, header in zip(places, headers, strict=True)]
    return list(zip(counts, places[1:-1], starts[1:-1], places[2:], strict=True))


def _counts(arpa: Arpa, data: bytes, start: int, stop: int) -> list[int]:
    r"""Return the numbers of n-grams of each order from the lines after `\data\`."""
    counts = []
    for line, text in enumerate(data[start:stop].split(b"\n")[1:], _line(data, start) + 1):
        if not text.strip():
            continue
        match = re.fullmatch(rb"ngram\s+(\d+)\s*=\s*(\d+)\s*", text)
        if match is None or int(match[1]) != len(counts) + 1:
            arpa.refuse(line, f"'ngram {len(counts) + 1}=COUNT' is expected, not {_shown(text)}")
        counts.append(int(match[2]))
    if not counts or not counts[0]:
        _refuse_at(arpa, data, start, "\\data\\ counts no unigrams")
    return counts


def _slices(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield parts of whole lines between two places."""
    while True:
        end = stop if stop - start <= _SLICE else data.find(b"\n", start + _SLICE, stop) + 1 or stop
        yield start, end
        if end >= stop:
            return
        start = end


def _parse(
    arpa: Arpa, data: bytes, start: int, stop: int, *, order: int, vocabulary: dict[bytes, int]
) -> tuple[np.ndarray, ...]:
    """Return the columns of `Ngrams` for the lines between two places; unigrams are added to the vocabulary."""
    body = data[start:stop]
    codes = np.frombuffer(body, np.uint8)
    is_gap = _GAPS[codes]
    firsts = np.flatnonzero(~is_gap & np.concatenate([[True], is_gap[:-1]]))  # first bytes of the fields
    sizes = np.bincount(np.searchsorted(np.flatnonzero(codes == ord("\n")), firsts))  # fields of each line
    rows = np.flatnonzero(sizes)
    sizes = sizes[rows]

    def refuse(row: int, problem: str) -> NoReturn:
        text = body.split(b"\n")[rows[row]]
        arpa.refuse(_line(data, start) + int(rows[row]), f"{_shown(text)}: {problem}")

    if (wrong := np.flatnonzero((sizes < order + 1) | (sizes > order + 2))).size:
        what = f"{order} unit{'s' * (order > 1)}"
        refuse(wrong[0], f"a {order}-gram has a log10 probability, {what} and perhaps a log10 back-off weight")
    fields = np.array([*body.split(), b"0"], dtype=object)  # b"0" is the back-off weight of lines without one
    places = np.cumsum(sizes) - sizes
    probs = _numbers(fields[places], refuse)
    back_offs = _numbers(fields[np.where(sizes == order + 2, places + order + 1, -1)], refuse)
    if (wrong := np.flatnonzero(probs > 0)).size:
        refuse(wrong[0], "a log10 probability is 0 or less")
    spelled = fields[places[:, None] + 1 + np.arange(order)].reshape(-1).tolist()
    if order == 1:
        _add_units(arpa, spelled, vocabulary, refuse)
    units = np.fromiter(map(vocabulary.get, spelled, repeat(-1)), np.int64, len(spelled)).reshape(-1, order)
    if (wrong := np.flatnonzero((units < 0).any(1))).size:
        refuse(wrong[0], "a unit of it is not a unigram of the file")
    return units, probs, back_offs, _line(data, start) + rows


def _add_units(
    arpa: Arpa, spelled: Sequence[bytes], vocabulary: dict[bytes, int], refuse: Callable[[int, str], NoReturn]
) -> None:
    for row, unit in enumerate(spelled):
        if vocabulary.setdefault(unit, len(arpa.units)) != len(arpa.units):
            refuse(row, "the unigram occurs a second time")
        try:
            arpa.units.append(unit.decode())
        except UnicodeDecodeError:
            refuse(row, "the unit is not in UTF-8")


def _numbers(fields: np.ndarray, refuse: Callable[[int, str], NoReturn]) -> np.ndarray:
    """Return fields as float64; `refuse` takes the row and the problem of a wrong one."""
    try:
        numbers = np.fromiter(map(float, fields), np.float64, len(fields))
        wrong = np.flatnonzero(~(numbers < np.inf))  # NaN as well
    except ValueError:
        wrong = [row for row, field in enumerate(fields) if not re.fullmatch(rb"[-+]?[\d.]+([eE][-+]?\d+)?", field)]
        wrong = wrong or [0]
    if len(wrong):
        refuse(wrong[0], f"{_shown(fields[wrong[0]])} is not a number")
    return np.maximum(numbers, LOWEST)


def _shown(text: bytes) -> str:
    return repr(text[:60].decode(errors="replace").strip())
