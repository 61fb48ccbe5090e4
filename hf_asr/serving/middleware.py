"""ASGI middleware of the servers, and their error answers."""

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:  # the demo has no Prometheus
    from .prometheus import ServerMetrics

FORM_BYTES = 100_000  # allowance of an upload for all that is not its file


def error_response(status: int, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the form that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers=headers)


class BodyLimit:
    """Answers 413 if the body of a request is larger than a form with a file of `max_file_bytes`.

    A body with a Content-Length is refused before it is read, any other body as soon as it is too large.
    """

    def __init__(self, app: ASGIApp, *, max_file_bytes: int):
        self.app, self.max_bytes = app, max_file_bytes + FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        message = f"the upload is larger than {(self.max_bytes - FORM_BYTES) / 1e6:g} MB"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_bytes:
            # The body is not read, so the connection cannot be used for another request.
            return await error_response(413, message, headers={"Connection": "close"})(scope, receive, send)
        received = 0

        async def count() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, message, {"Connection": "close"})
            return part

        await self.app(scope, count, send)


class Measure:
    """Counts and times the requests; paths that are not in `routes` count together as "other".

    This is plain ASGI because Starlette's BaseHTTPMiddleware hides that a client has disconnected.
    """

    def __init__(self, app: ASGIApp, *, metrics: "ServerMetrics", routes: tuple[str, ...]):
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        with self.metrics.measure(scope["path"] if scope["path"] in self.routes else "other") as request:

            async def send_and_record(message: Message) -> None:
                if message["type"] == "http.response.start":
                    request.status = message["status"]
                await send(message)

            await self.app(scope, receive, send_and_record)
