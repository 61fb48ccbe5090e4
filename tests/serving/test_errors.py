import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from hf_asr.data.audio import AudioError, AudioTooLongError
from hf_asr.serving.clients import TooManyConnectionsError
from hf_asr.serving.engine import ClosedError, QueueFullError, TooSlowError
from hf_asr.serving.errors import ANSWERS, add_error_handlers
from hf_asr.serving.transcription import TranscriptionTimeoutError

CASES = [
    (AudioTooLongError("is longer than 5 s"), 413, "the recording is longer than 5 s", None),
    (TooSlowError(7.0), 413, "at most 7 s can be transcribed", None),
    (AudioError("not decodable"), 415, "the recording cannot be used: not decodable", None),
    (QueueFullError(2.5), 503, "too many requests wait", "3"),
    (TooManyConnectionsError(), 503, "too many requests at once: try again in 1 s", "1"),
    (ClosedError("the server is stopping"), 503, "the server is stopping", "10"),
    (TranscriptionTimeoutError(20.0), 503, "not transcribed within 20 s", "10"),
    (KeyError("unknown"), 500, "the server failed", None),
]


@pytest.mark.parametrize(("error", "status", "message", "retry_after"), CASES, ids=lambda case: type(case).__name__)
def test_exception_has_its_status_message_and_retry_after(error, status, message, retry_after):
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/")
    def fail():
        raise error

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == status and answer.headers.get("Retry-After") == retry_after
    assert message in answer.json()["error"]["message"]


def test_every_known_exception_is_tested():
    assert {type(error) for error, *_ in CASES} == {*ANSWERS, KeyError}
