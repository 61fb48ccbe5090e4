"""Schemas of the REST answers and forms, as /docs shows them."""

import copy
from typing import Any

from pydantic import BaseModel, Field


class Text(BaseModel):
    """A transcript. `warnings` lists damage and unusual reading of the file, and hotwords that are left out."""

    text: str
    warnings: list[str] | None = None


class TimedWord(BaseModel):
    word: str
    start: float
    end: float
    confidence: float = Field(description="mean probability of the word's frames")


class Segment(BaseModel):
    """A line of subtitles, with the figures that Whisper reports."""

    id: int
    seek: int = Field(description="start in hundredths of a second")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float = Field(0.0, description="always 0: nothing is sampled")
    avg_logprob: float = Field(description="mean log-probability of the frames with a token")
    compression_ratio: float = Field(
        description="bytes of the text divided by its bytes after zlib; above 2.4, the text is probably a repetition"
    )
    no_speech_prob: float = Field(description="one minus the probability of the most probable token")


class VerboseText(Text):
    """A transcript in OpenAI's verbose_json."""

    task: str = "transcribe"
    language: str = Field(
        description="language of the request; otherwise of the text normalisation or the script; otherwise und"
    )
    duration: float
    words: list[TimedWord] | None = None
    segments: list[Segment] | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: None = None
    code: None = None


class ErrorAnswer(BaseModel):
    error: ErrorDetail


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": description}


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: _error("the form cannot be read, or a field has a value that is not allowed"),
    408: _error("the upload took too long"),
    413: _error("the file is too large, or the recording is too long"),
    415: _error("the file has no audio that can be decoded"),
    422: _error("the form has no file"),
    503: _error("too many requests; Retry-After has the seconds to wait"),
}
UNKNOWN_MODEL = _error("the server has another model")
UNAUTHORIZED_RESPONSE = {401: _error("the bearer token is missing or wrong")}


def without_field(description: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an OpenAPI description without a form field, which the server refuses."""
    description = copy.deepcopy(description)
    for operation in (operation for path in description["paths"].values() for operation in path.values()):
        for form in operation.get("requestBody", {}).get("content", {}).values():
            form["schema"]["properties"].pop(name, None)
    return description


def form_schema(file_field: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the OpenAPI request body of a form with a recording in `file_field` and other `fields`.

    The routes read their forms themselves, under a time limit, so FastAPI does not know the fields.
    """
    file = {file_field: {"type": "string", "format": "binary", "description": "a recording of any format"}}
    schema = {"type": "object", "required": [file_field], "properties": file | (fields or {})}
    form = {"schema": schema, "encoding": {file_field: {"contentType": "audio/*, video/*, application/octet-stream"}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}
