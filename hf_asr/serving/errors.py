"""The one mapping from exceptions to HTTP answers."""

import math

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..data.audio import AudioError, AudioTooLongError
from .clients import TooManyConnectionsError
from .engine import ClosedError, QueueFullError, TooSlowError
from .middleware import error_response
from .transcription import TranscriptionTimeoutError

# Status and message of each exception; a subclass has the answer of its nearest class here. Every exception with
# status 503 has `retry_after` in seconds.
ANSWERS: dict[type[Exception], tuple[int, str]] = {
    AudioTooLongError: (413, "the recording {error}"),
    TooSlowError: (413, "the recording {error}"),
    AudioError: (415, "the recording cannot be used: {error}"),
    QueueFullError: (503, "{error}"),
    TooManyConnectionsError: (503, "{error}"),
    ClosedError: (503, "{error}"),
    TranscriptionTimeoutError: (503, "{error}"),
}


def add_error_handlers(app: Starlette) -> None:
    """Answer the exceptions of `ANSWERS`, HTTP errors and all other exceptions as JSON that OpenAI's clients read."""
    for kind in ANSWERS:
        app.add_exception_handler(kind, answer_known_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_unknown_error)


async def answer_known_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an exception of `ANSWERS`, with `Retry-After` in whole seconds for a status of 503."""
    status, message = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if status == 503 else None
    return error_response(status, message.format(error=error), headers=headers)


async def answer_http_error(_: Request, error: HTTPException) -> JSONResponse:
    """Answer an HTTP error with its own status and message."""
    return error_response(error.status_code, str(error.detail), headers=error.headers)


async def answer_unknown_error(_: Request, error: Exception) -> JSONResponse:
    """Answer 500; the server logs the exception, and the client does not see it."""
    return error_response(500, "the server failed; its log has the reason")
