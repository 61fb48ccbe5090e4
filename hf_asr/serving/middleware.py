"""What every request of a server passes, whatever it asks for."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM_BYTES = 100_000  # of an upload, beside the file


def error_answer(status: int, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """Errors as OpenAI's clients read them."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers=headers)


class BodyLimit:
    """Answers 413 as soon as a body is, or says that it is, larger than a form with a file of `max_file_bytes`."""

    def __init__(self, app: ASGIApp, *, max_file_bytes: int):
        self.app, self.max_bytes = app, max_file_bytes + FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        message = f"the upload is larger than {(self.max_bytes - FORM_BYTES) / 1e6:g} MB"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_bytes:
            # its body is not read: the connection cannot go on to another request
            return await error_answer(413, message, headers={"Connection": "close"})(scope, receive, send)
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
    """Counts and times requests. (Starlette's own kind of middleware hides it when a client goes away.)

    `time` is `Metrics.time`; of other paths than `routes` there could be any number.
    """

    def __init__(self, app: ASGIApp, *, time: Callable, routes: tuple[str, ...]):
        self.app, self.time, self.routes = app, time, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        with self.time(scope["path"] if scope["path"] in self.routes else "other") as timed:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    timed.status = message["status"]
                await send(message)

            await self.app(scope, receive, note)
