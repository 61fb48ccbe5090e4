"""Numbers and dates with digits; words keep their times."""

import importlib.util

import pytest

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.decoding.transcript import Transcript, Word
from hf_asr.decoding.written_form import to_written_form


def spoken(text: str) -> Transcript:
    """Return a transcript whose words take a second each."""
    words = text.split() if " " in text else list(text)
    return Transcript(text, [Word(word, float(i), i + 1.0, 0.5) for i, word in enumerate(words)])


@pytest.mark.parametrize(
    ("text", "written", "words"),
    [
        ("二零二六年", "2026年", ["2026年"]),
        ("把空调调到二十六度", "把空调调到26°", ["把", "空", "调", "调", "到", "26°"]),
        ("百分之五十的人", "50%的人", ["50%", "的", "人"]),
        ("set it to twenty six degrees now", "set it to 26 degrees now", ["set", "it", "to", "26", "degrees", "now"]),
        ("two cats", "two cats", ["two", "cats"]),
        ("die zwei hunde", "die zwei hunde", ["die", "zwei", "hunde"]),
        ("", "", []),
    ],
)
def test_numbers_are_written_with_digits(text, written, words):
    found = to_written_form(spoken(text))
    assert (found.text, [word.word for word in found.words]) == (written, words)


def test_a_number_lasts_from_its_first_word_to_its_last():
    transcript = spoken("call five five five now")
    transcript.words[1].confidence = 0.8
    found = to_written_form(transcript)
    assert found.words == [Word("call", 0.0, 1.0, 0.5), Word("555", 1.0, 4.0, 0.6), Word("now", 4.0, 5.0, 0.5)]


def test_a_text_that_the_grammars_cannot_read_stays_as_it_is():
    transcript = spoken('he said "twenty" {x}')
    assert to_written_form(transcript) == transcript


@pytest.fixture
def counting(streaming_recognizer, monkeypatch) -> Recognizer:
    """A recogniser whose every transcript is a number."""
    model, processor = streaming_recognizer.model, streaming_recognizer.processor
    recognizer = Recognizer(model, processor, arguments=DecodingArguments(itn=True))
    monkeypatch.setattr("hf_asr.decoding.recognizer.to_transcript", lambda *args, **options: spoken("二十六"))
    return recognizer


def test_recordings_and_streams_are_written_in_the_same_form(counting, recording):
    assert counting.transcribe(recording).text == "26"
    waveform = counting.processor.feature_extractor.sampling_rate * 2 * [0.1]
    live = StreamingRecognizer(counting)
    results = live.accept(waveform) + live.finish()
    assert {result.text for result in results} == {"26"}


def test_the_missing_extra_is_named(streaming_recognizer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"--itn needs wetext: pip install 'hf_asr\[itn\]'"):
        Recognizer(streaming_recognizer.model, streaming_recognizer.processor, arguments=DecodingArguments(itn=True))
