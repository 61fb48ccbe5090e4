import math

import numpy as np
import pytest
from fastapi import HTTPException

from hf_asr.data.audio import read_audio
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.transcript import Hypothesis, Transcript, Word
from hf_asr.families import samples_per_frame
from hf_asr.serving.openai_fields import check_fields
from hf_asr.serving.verbose_json import find_language, segment_figures, to_verbose_text

SECONDS_PER_FRAME = 0.04


@pytest.fixture
def ask(processor):
    """Return a function that gives the verbose_json of a transcript as plain types."""

    def answer(transcript: Transcript, *, rule: str = "zh-en", **fields) -> dict:
        processor.tokenizer.init_kwargs["text_normalization"] = rule
        fields = {name: values if isinstance(values, list) else [values] for name, values in fields.items()}
        figures = {"duration": 2.0, "seconds_per_frame": SECONDS_PER_FRAME, "tokenizer": processor.tokenizer}
        return to_verbose_text(transcript, fields, **figures).model_dump(exclude_none=True)

    yield answer
    processor.tokenizer.init_kwargs["text_normalization"] = "zh-en"


def two_lines() -> Transcript:
    """Return two words with a pause that separates two segments; 50 frames."""
    probabilities = np.ones(50, np.float32)
    probabilities[5:8] = 0.9, 0.8, 0.5
    probabilities[40] = 0.25
    hypothesis = Hypothesis([7, 8, 9], [(5, 7), (7, 8), (40, 41)], score=0.0, probabilities=probabilities)
    return Transcript("ab c", [Word("ab", 0.2, 0.32, 0.73), Word("c", 1.6, 1.64, 0.25)], hypothesis)


def test_segments_have_the_figures_of_whisper(ask):
    first, second = ask(two_lines())["segments"]
    assert first["tokens"] == [7, 8] and second["tokens"] == [9]
    assert first["avg_logprob"] == pytest.approx((math.log(0.9) + math.log(0.8) + math.log(0.5)) / 3)
    assert first["no_speech_prob"] == pytest.approx(0.1) and second["no_speech_prob"] == pytest.approx(0.75)
    assert (first["id"], second["id"], first["seek"], second["seek"]) == (0, 1, 20, 160)
    assert first["temperature"] == 0.0


def test_repetition_has_a_high_compression_ratio(ask):
    def ratio(text: str) -> float:
        hypothesis = Hypothesis([7], [(0, 25)], score=0.0, probabilities=np.full(25, 0.9, np.float32))
        transcript = Transcript(text, [Word(text, 0.0, 1.0)], hypothesis)
        return ask(transcript)["segments"][0]["compression_ratio"]

    assert ratio("abc" * 40) > 2.4 > 1 > ratio("the quick fox")  # Whisper rejects a text above 2.4


def test_segment_without_tokens_is_silence():
    hypothesis = Hypothesis([7], [(5, 6)], score=0.0, probabilities=np.full(9, 0.9, np.float32))
    expected = {"tokens": [], "avg_logprob": 0.0, "no_speech_prob": 1.0}
    assert segment_figures(hypothesis, start=0, end=5) == segment_figures(hypothesis, start=6, end=9) == expected


def test_segment_tokens_spell_the_segment_text(parts, recording, processor):
    model, processor = parts
    transcript = Recognizer(model, processor).transcribe([read_audio(recording)])[0]
    frame = samples_per_frame(model.config) / 16000
    answer = to_verbose_text(transcript, {}, duration=3.0, seconds_per_frame=frame, tokenizer=processor.tokenizer)
    assert answer.segments
    for segment in answer.segments:
        spelled = processor.tokenizer.convert_ids_to_tokens(segment.tokens)
        assert "".join(spelled).replace("|", "").replace("▁", "").replace(" ", "") == segment.text.replace(" ", "")
        assert np.log(1 / len(processor.tokenizer)) <= segment.avg_logprob < 0 < segment.no_speech_prob < 1


@pytest.mark.parametrize(
    ("text", "rule", "language"),
    [
        ("hello", "en", "en"),
        ("", "zh", "zh"),
        ("hello", "zh-en", "en"),
        ("你好", "zh-en", "zh"),
        ("打开 wifi 好吗", "zh-en", "zh"),
        ("", "zh-en", "und"),
        ("hello", "basic", "und"),
        ("你好", "basic", "zh"),
        ("今日は", None, "ja"),
        ("안녕", "none", "ko"),
        ("привет", "basic", "und"),  # Cyrillic is used by many languages
    ],
)
def test_language_comes_from_the_rule_or_the_script(text, rule, language):
    assert find_language(text, rule=rule) == language


def test_requested_language_is_returned(ask):
    assert ask(two_lines(), language="fr")["language"] == "fr"
    assert ask(two_lines(), language="")["language"] == "en"
    assert ask(two_lines(), rule="basic")["language"] == "und"


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
def test_granularities_with_and_without_brackets(ask, name):
    assert "words" not in ask(two_lines()) and "segments" in ask(two_lines())
    words = ask(two_lines(), **{name: "word"})
    assert [word["word"] for word in words["words"]] == ["ab", "c"] and "segments" not in words
    both = ask(two_lines(), **{name: ["word", "segment"]})
    assert "words" in both and "segments" in both


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timestamp_granularities", "words"),
        ("timestamp_granularities[]", "word,segment"),
        ("response_format", "xml"),
        ("language", "中文"),
        ("temperature", "warm"),
        ("temperature", "nan"),
        ("temperature", "1.5"),
        ("stream", "true"),
    ],
)
def test_invalid_field_value_is_400(field, value):
    with pytest.raises(HTTPException, match=field.removesuffix("[]")) as refused:
        check_fields({field: [value]})
    assert refused.value.status_code == 400


def test_empty_field_counts_as_missing():
    names = ("response_format", "language", "temperature", "stream", "timestamp_granularities", "prompt")
    check_fields({name: [""] for name in names})
