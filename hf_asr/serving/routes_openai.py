"""OpenAI's API: `POST /v1/audio/transcriptions`, `GET /v1/models` and `GET /v1/models/{model_id}`."""

from functools import partial

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from ..decoding.subtitles import to_srt, to_vtt
from .openai_fields import OPENAI_FIELDS, check_fields, find_hotwords
from .schemas import ERROR_RESPONSES, UNKNOWN_MODEL, Text, VerboseText, form_schema
from .transcription import TranscriptionService, first_value
from .verbose_json import to_verbose_text

router = APIRouter(responses=ERROR_RESPONSES)
models_router = APIRouter()


@router.post(
    "/v1/audio/transcriptions",
    openapi_extra=form_schema("file", OPENAI_FIELDS),
    responses={200: {"model": Text | VerboseText, "content": {"text/plain": {}}}},
)
async def transcribe_as_openai(request: Request) -> Response:
    """Transcribe a recording for OpenAI's clients; `model` and `temperature` are accepted and ignored.

    A `prompt` that is a list of phrases, with commas between them, is hotwords.
    """
    service: TranscriptionService = request.app.state.service
    takes_hotwords = service.engine.recognizer.takes_hotwords
    options = {"check": check_fields, "find_hotwords": partial(find_hotwords, takes_hotwords=takes_hotwords)}
    result = await service.transcribe(request, "file", **options)
    transcript = result.transcript
    match first_value(result.fields, "response_format", "json"):
        case "text":
            return PlainTextResponse(transcript.text + "\n")
        case "srt":
            return PlainTextResponse(to_srt(transcript.words))
        case "vtt":
            return PlainTextResponse(to_vtt(transcript.words))
        case "verbose_json":
            recognizer = service.engine.recognizer
            answer = to_verbose_text(
                transcript,
                result.fields,
                duration=result.duration,
                seconds_per_frame=recognizer.seconds_per_frame,
                tokenizer=recognizer.processor.tokenizer,
            )
        case _:
            answer = Text(text=transcript.text)
    answer.warnings = result.warnings or None
    return JSONResponse(answer.model_dump(exclude_none=True))


@models_router.get("/v1/models")
async def models(request: Request) -> dict:
    """List the one model of this server."""
    return {"object": "list", "data": [_model(request)]}


@models_router.get("/v1/models/{model_id:path}", responses={404: UNKNOWN_MODEL})  # a Hub id has a slash
async def model(request: Request, model_id: str) -> dict:
    """Describe the one model of this server."""
    found = _model(request)
    if model_id != found["id"]:
        raise HTTPException(404, f"there is no model {model_id!r}, only {found['id']!r}")
    return found


def _model(request: Request) -> dict[str, str]:
    return {"id": request.app.state.model_name, "object": "model", "owned_by": "hf_asr"}
