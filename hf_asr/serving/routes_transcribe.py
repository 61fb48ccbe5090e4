"""`POST /transcribe`: a recording in, `{"text": …}` out."""

from fastapi import APIRouter, Request

from .hotwords import HOTWORDS_FIELD
from .schemas import ERROR_RESPONSES, Text, form_schema
from .transcription import TranscriptionService

router = APIRouter(responses=ERROR_RESPONSES)


@router.post("/transcribe", openapi_extra=form_schema("audio", HOTWORDS_FIELD), response_model_exclude_none=True)
async def transcribe_audio(request: Request) -> Text:
    """Transcribe a recording of any format, sent as the form field `audio`; return `{"text": …}`.

    `warnings` lists what is damaged in the recording, unusual ways in which it had to be read, and hotwords that the
    vocabulary cannot spell.
    """
    service: TranscriptionService = request.app.state.service
    result = await service.transcribe(request, "audio")
    return Text(text=result.transcript.text, warnings=result.warnings or None)
