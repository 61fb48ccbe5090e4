"""`GET /health` and `GET /metrics`, for those who operate the server."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from .transcription import TranscriptionService

router = APIRouter()


@router.head("/health", include_in_schema=False)  # FastAPI does not add it to GET, and load balancers ask with it
@router.get("/health", responses={503: {"description": "the engine has stopped or hangs"}})
async def health(request: Request) -> JSONResponse:
    """Return whether the server accepts and answers requests."""
    service: TranscriptionService = request.app.state.service
    hangs = service.engine.batch_seconds >= service.options.transcription_timeout_s
    is_well = service.engine.is_alive and not hangs
    status = {"status": "ok" if is_well else "not answering", "model": request.app.state.model_name}
    return JSONResponse(status, 200 if is_well else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def prometheus(request: Request) -> Response:
    """Return figures for Prometheus."""
    service: TranscriptionService = request.app.state.service
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
