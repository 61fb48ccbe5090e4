"""Text files as people have them: UTF-8, with or without its byte order mark, or UTF-16 and UTF-32 by theirs."""

import codecs
from pathlib import Path

# UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class EncodingError(ValueError):
    """A text whose encoding is not known; the message says what is accepted."""


def decode_text(data: bytes) -> str:
    """Return the text of a file's bytes, without its byte order mark, its lines ended by line feeds.

    Raises:
        EncodingError: It is neither UTF-8 nor marked as UTF-16 or UTF-32.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise EncodingError(
            f"is not UTF-8 (byte {error.start}) and has no mark of UTF-16: convert it, for example with "
            "iconv -f GBK -t UTF-8"
        ) from None
    if "\0" in text:
        raise EncodingError("holds NUL characters: it is binary, or UTF-16 without its mark; UTF-8 is expected")
    return text if "\n" in text else text.replace("\r", "\n")  # a Macintosh's of old


def read_text(path: str | Path) -> str:
    """Return the text of a file; see `decode_text`."""
    return decode_text(Path(path).read_bytes())


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a file without their ends.

    Only line feeds end a line: `str.splitlines` would also cut a transcript at the separators of Unicode (U+2028).
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines
