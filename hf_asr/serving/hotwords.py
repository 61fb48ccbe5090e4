"""The hotwords of requests: read from a form field or a message, within limits, where the server searches a beam."""

import json
import re
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException

from ..decoding.hotwords import Hotword, check_limits, parse_hotwords
from ..decoding.recognizer import Recognizer

MOST_WORDS = 5  # of a phrase in a prompt; a longer part is prose
# OpenAPI schema of the form field
HOTWORDS_FIELD = {
    "hotwords": {
        "type": "string",
        "description": 'phrases to prefer, "a,b" or a JSON list; a tab and a boost can follow a phrase; only where the '
        "server runs with --decoding beam",
    }
}


class HotwordsError(HTTPException):
    """Hotwords that cannot be used: status 400, and the reason."""

    def __init__(self, reason: str):
        super().__init__(400, f"hotwords cannot be used: {reason}")
        self.reason = reason


def read_hotwords(value: Any, recognizer: Recognizer) -> tuple[list[Hotword], Sequence[str]]:
    """Return hotwords, ready for recordings, and remarks on those that the vocabulary cannot spell.

    Args:
        value: `"a,b"`, a list, or the JSON of a list.

    Raises:
        HotwordsError: The value is none of these, is too large or has a wrong boost, or the server decodes greedily.
    """
    try:
        hotwords = parse_hotwords(_phrases(value), recognizer.arguments.hotword_boost)
        check_limits(hotwords)
        return hotwords, recognizer.compile_hotwords(hotwords)
    except ValueError as error:
        raise HotwordsError(str(error)) from error


def _phrases(value: Any) -> str | list[str]:
    """Return text, or a list of phrases; raise ValueError for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("they begin with [ and are not a JSON list") from None
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return value
    raise ValueError('send "a,b" or a list of texts')


def hotwords_of_prompt(prompt: str) -> str:
    """Return a prompt that is a list of phrases with commas between them; nothing of any other prompt."""
    parts = re.split("[,，]", prompt)
    is_list = len(parts) > 1 and not re.search(r"[.?!。？！]\s|[。？！\n]", prompt.strip() + " ")
    return prompt if is_list and all(len(part.split()) <= MOST_WORDS for part in parts) else ""
