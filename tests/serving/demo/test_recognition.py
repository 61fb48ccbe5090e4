import numpy as np
import pytest
import soundfile

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.model.feature_extraction_conformer import denoise
from hf_asr.serving.demo.recognition import RefusedError, transcribe_recording

NO_DENOISE = {"use_denoise": False}


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("missing_audio", lambda path: None),
        ("unreadable", lambda path: path.write_text("no recording")),
        ("silent", lambda path: soundfile.write(path, np.zeros(16000), 16000)),
        ("too_long", lambda path: soundfile.write(path, np.ones(301 * 8000), 8000)),
    ],
)
def test_unusable_recording_is_refused_with_its_reason(recognizer, tmp_path, key, make):
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(RefusedError) as error:
        transcribe_recording(recognizer, str(path) if path.exists() else None, use_denoise=False)
    assert error.value.key == key


def test_recognition_has_the_denoised_waveform(recognizer, speech):
    plain, denoised = (
        transcribe_recording(recognizer, str(speech), use_denoise=wanted).waveform for wanted in (False, True)
    )
    np.testing.assert_array_equal(denoised, denoise(plain, sampling_rate=16000))
    assert not np.array_equal(plain, denoised)


def test_denoising_processor_does_not_denoise_twice(recognizer, speech, monkeypatch):
    monkeypatch.setattr(recognizer.processor.feature_extractor, "denoise", True)
    waveform = transcribe_recording(recognizer, str(speech), use_denoise=True).waveform
    np.testing.assert_array_equal(waveform, soundfile.read(speech, dtype="float32")[0])


def test_hotwords_of_a_user(recognizer, speech):
    recognizer = Recognizer(recognizer.model, recognizer.processor, arguments=DecodingArguments(decoding="beam"))
    options = {"use_denoise": False, "hotwords": "调空\t20，日本"}
    recognition, plain = (transcribe_recording(recognizer, str(speech), **each) for each in (options, NO_DENOISE))
    assert "the hotword '日本' is left out: the vocabulary has no '日本'" in recognition.notes
    assert recognition.transcript.text != plain.transcript.text


def test_hotwords_that_cannot_be_used_are_refused(recognizer, speech):
    with pytest.raises(RefusedError) as error:
        transcribe_recording(recognizer, str(speech), use_denoise=False, hotwords="fox")
    assert error.value.key == "bad_hotwords" and "choose --decoding beam" in error.value.values["reason"]
    assert transcribe_recording(recognizer, str(speech), use_denoise=False, hotwords=" ").transcript
