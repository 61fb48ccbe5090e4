"""A long recording whose recognition is interrupted goes on, and gives the same transcript as without interruption."""

import dataclasses

import numpy as np
import pytest
import soundfile

from hf_asr.data.audio import LongRecording, open_recording
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.transcript import Transcript

WINDOWS = {"chunk_length_s": 2.0, "stride_length_s": 0.3}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_asr.decoding.progress.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("hf_asr.decoding.progress.SAVE_SHARE", 1e9)
    monkeypatch.setattr("hf_asr.decoding.recognizer.BATCH_SECONDS", 6.0)  # three windows
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 16000 * 25), 16000)
    return tmp_path / "long.wav"


def opened(path) -> LongRecording:
    recording = open_recording(path)
    recording.progress_path = path.with_suffix(".partial")
    return recording


def transcribe(
    recognizer: Recognizer, recording: LongRecording, *, steps: int = 10**9
) -> tuple[Transcript | None, int]:
    """Return the transcript, None if it is interrupted after `steps` windows, and the number of windows."""
    keep, count = recognizer.decoder.keep, 0

    def counted(log_probs, states=None):
        nonlocal count
        if count == steps:
            raise KeyboardInterrupt
        count += 1
        return keep(log_probs)

    object.__setattr__(recognizer.decoder, "keep", counted)
    try:
        return recognizer.transcribe(recording), count
    except KeyboardInterrupt:
        return None, count
    finally:
        object.__delattr__(recognizer.decoder, "keep")


@pytest.mark.parametrize("is_streaming", [False, True], ids=["windows", "cache"])
@pytest.mark.parametrize("steps", [1, 5, 6])
def test_an_interrupted_recording_goes_on_with_the_same_transcript(
    tiny_model, processor, streaming_recognizer, path, is_streaming, steps
):
    model = streaming_recognizer.model if is_streaming else tiny_model
    recognizer = Recognizer(model, processor, arguments=DecodingArguments(**WINDOWS))
    expected, whole = transcribe(recognizer, open_recording(path))
    assert transcribe(recognizer, opened(path), steps=steps) == (None, steps)
    found, rest = transcribe(recognizer, opened(path))
    done = steps if is_streaming else steps // 3 * 3
    assert found == expected and expected.text and rest == whole - done
    assert found.hypothesis.tokens == expected.hypothesis.tokens
    assert np.array_equal(found.hypothesis.probabilities, expected.hypothesis.probabilities)


def test_progress_of_other_options_and_damaged_progress_are_not_used(tiny_model, processor, path):
    arguments = DecodingArguments(**WINDOWS)
    recognizer = Recognizer(tiny_model, processor, arguments=arguments)
    expected, whole = transcribe(recognizer, open_recording(path))
    transcribe(recognizer, opened(path), steps=6)
    other = Recognizer(tiny_model, processor, arguments=dataclasses.replace(arguments, stride_length_s=0.2))
    assert transcribe(other, opened(path))[1] == transcribe(other, open_recording(path))[1]
    path.with_suffix(".partial").write_bytes(b"\x80\x04junk")
    assert transcribe(recognizer, opened(path)) == (expected, whole)


def test_a_place_that_cannot_be_written_saves_nothing(tiny_model, processor, path):
    recognizer = Recognizer(tiny_model, processor, arguments=DecodingArguments(**WINDOWS))
    recording = opened(path)
    recording.progress_path = path / "no folder" / "x.partial"
    assert recognizer.transcribe(recording) == recognizer.transcribe(open_recording(path))
