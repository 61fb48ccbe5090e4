"""Form fields of OpenAI's transcription API beside the file."""

import re

from fastapi import HTTPException

from .hotwords import HOTWORDS_FIELD, hotwords_of_prompt
from .transcription import Fields, first_value

RESPONSE_FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
GRANULARITIES = ("word", "segment")
# OpenAI's Python client sends the name with brackets, other clients without.
GRANULARITY_FIELDS = ("timestamp_granularities[]", "timestamp_granularities")
LANGUAGE_TAG = r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*"  # "en", "zh-Hant", "english"

_granularities = {"type": "array", "items": {"type": "string", "enum": list(GRANULARITIES)}}
# OpenAPI schema of the fields
OPENAI_FIELDS = {
    "model": {"type": "string", "description": "is ignored: the server has one model"},
    "language": {
        "type": "string",
        "pattern": f"^{LANGUAGE_TAG}$",
        "description": "is returned as the language of the answer; it does not change the text",
    },
    "prompt": {
        "type": "string",
        "description": "phrases with commas between them are hotwords, where the server runs with --decoding beam; any "
        "other prompt is ignored",
    },
    **HOTWORDS_FIELD,
    "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS), "default": "json"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "description": "is ignored"},
    "stream": {"type": "string", "enum": ["false"], "description": "is not supported"},
    **dict.fromkeys(GRANULARITY_FIELDS, _granularities),
}


def granularities(fields: Fields) -> list[str]:
    """Return the requested timestamp granularities; segments by default, as OpenAI."""
    return [value for name in GRANULARITY_FIELDS for value in fields.get(name, ()) if value] or ["segment"]


def find_hotwords(fields: Fields, *, takes_hotwords: bool) -> str:
    """Return the field `hotwords`, or the prompt if it is a list of phrases and the server takes hotwords."""
    prompt = hotwords_of_prompt(first_value(fields, "prompt", "")) if takes_hotwords else ""
    return first_value(fields, "hotwords", prompt)


def check_fields(fields: Fields) -> None:
    """Raise HTTPException (400) for a value that is not allowed, and for a feature that this server does not have.

    An empty field counts as a missing one: browsers send the empty fields of a form.
    """
    wanted = first_value(fields, "response_format", "json")
    _check("response_format", wanted, wanted in RESPONSE_FORMATS, f"one of {', '.join(RESPONSE_FORMATS)}")
    for value in granularities(fields):
        _check("timestamp_granularities", value, value in GRANULARITIES, f"one of {', '.join(GRANULARITIES)}")
    language = first_value(fields, "language", "en")
    _check("language", language, bool(re.fullmatch(LANGUAGE_TAG, language)), "a code like en or zh")
    temperature = first_value(fields, "temperature", "0")
    _check("temperature", temperature, _is_share(temperature), "a number from 0 to 1")
    if first_value(fields, "stream", "false").lower() != "false":
        raise HTTPException(400, "stream is not supported: leave it out")


def _check(name: str, value: str, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise HTTPException(400, f"{name} must be {allowed}, not {value!r}")


def _is_share(value: str) -> bool:
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False
