"""Read text files: UTF-8 with or without a byte order mark, and UTF-16 and UTF-32 with their mark."""

import codecs
from pathlib import Path

# UTF-32 comes first, because its mark begins with the mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class EncodingError(ValueError):
    """Report a text of unknown encoding; the message names what is accepted."""


def decode_text(data: bytes) -> str:
    """Return the text of the bytes of a file, without byte order mark; line feeds end its lines.

    Raises:
        EncodingError: The text is neither UTF-8 nor UTF-16 or UTF-32 with a mark.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise EncodingError(
            f"is not UTF-8 (byte {error.start}) and has no UTF-16 mark: convert it, for example with "
            "iconv -f GBK -t UTF-8"
        ) from None
    if "\0" in text:
        raise EncodingError("contains NUL characters: it is binary, or UTF-16 without its mark; UTF-8 is expected")
    return text if "\n" in text else text.replace("\r", "\n")  # line ends of the classic Mac OS


def read_text(path: str | Path) -> str:
    """Return the text of a file; see `decode_text`."""
    return decode_text(Path(path).read_bytes())


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a file without line ends.

    Only a line feed ends a line: `str.splitlines` would also split a transcript at Unicode separators (U+2028).
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines
