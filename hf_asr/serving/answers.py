"""What clients may ask of a transcription, and what they get: /transcribe's answer, and OpenAI's."""

import re
import unicodedata
import zlib
from collections import Counter
from dataclasses import asdict

import numpy as np
from fastapi import HTTPException
from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase

from ..decoding.subtitles import cues
from ..decoding.transcript import Hypothesis, Transcript
from ..model.tokenization_conformer import SPELLS_NUMBERS

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
GRANULARITIES = ("word", "segment")
# OpenAI's Python client writes the name with brackets, others without
GRANULARITY_FIELDS = ("timestamp_granularities[]", "timestamp_granularities")
LANGUAGE_TAG = r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*"  # "en", "zh-Hant", "english"
UNDETERMINED = "und"  # ISO 639's
# Scripts by the first word of their letters' names in Unicode, where one language is written in them
LANGUAGE_OF_SCRIPT = {
    **{"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th"},
    **{"HEBREW": "he", "GREEK": "el", "GEORGIAN": "ka", "ARMENIAN": "hy"},
}
Fields = dict[str, list[str]]  # of a form, without its files

_granularities = {"type": "array", "items": {"type": "string", "enum": list(GRANULARITIES)}}
# What OpenAPI says of the fields beside the file
OPENAI_FIELDS = {
    "model": {"type": "string", "description": "has no effect: there is one model"},
    "language": {
        "type": "string",
        "pattern": f"^{LANGUAGE_TAG}$",
        "description": "only names the language of the answer",
    },
    "prompt": {"type": "string", "description": "has no effect"},
    "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "description": "has no effect"},
    "stream": {"type": "string", "enum": ["false"], "description": "is not supported"},
    **dict.fromkeys(GRANULARITY_FIELDS, _granularities),
}


class Text(BaseModel):
    """Of a damaged recording, or one that had to be read in an uncommon way, `warnings` say what there is to say."""

    text: str
    warnings: list[str] | None = None


class TimedWord(BaseModel):
    word: str
    start: float
    end: float
    confidence: float = Field(description="mean probability of its frames")


class Segment(BaseModel):
    """A line that subtitles would have, with the figures that Whisper gives."""

    id: int
    seek: int = Field(description="the start, in hundredths of a second")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float = Field(0.0, description="nothing is sampled")
    avg_logprob: float = Field(description="mean log-probability of the frames that spell a token")
    compression_ratio: float = Field(description="bytes of the text, to those after zlib; a repetition is above 2.4")
    no_speech_prob: float = Field(description="one minus the probability of the surest token")


class VerboseText(Text):
    task: str = "transcribe"
    language: str = Field(description="as asked, or by the model's text normalisation or the script; or und")
    duration: float
    words: list[TimedWord] | None = None
    segments: list[Segment] | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: None = None
    code: None = None


class ErrorAnswer(BaseModel):
    error: ErrorDetail


def first_field(fields: Fields, name: str, default: str) -> str:
    """The form's field, or the default if it was left out or empty."""
    return next((value for value in fields.get(name, ()) if value), default)


def granularities(fields: Fields) -> list[str]:
    """The timestamps that are asked for: OpenAI gives segments where nothing is."""
    return [value for name in GRANULARITY_FIELDS for value in fields.get(name, ()) if value] or ["segment"]


def check_fields(fields: Fields) -> None:
    """Raises HTTPException for what OpenAI's API has and this server does not, and for values that a field cannot have.

    An empty field is one that was left out, as forms in browsers send it.
    """

    def check(name: str, value: str, is_good: bool, accepted: str) -> None:
        if not is_good:
            raise HTTPException(400, f"{name} is {accepted}, not {value!r}")

    wanted = first_field(fields, "response_format", "json")
    check("response_format", wanted, wanted in FORMATS, f"one of {', '.join(FORMATS)}")
    for value in granularities(fields):
        check("timestamp_granularities", value, value in GRANULARITIES, f"one of {', '.join(GRANULARITIES)}")
    language = first_field(fields, "language", UNDETERMINED)
    check("language", language, bool(re.fullmatch(LANGUAGE_TAG, language)), "a code like en or zh")
    temperature = first_field(fields, "temperature", "0")
    check("temperature", temperature, _is_share(temperature), "a number from 0 to 1")
    if first_field(fields, "stream", "false").lower() != "false":
        raise HTTPException(400, "stream is not supported: leave it out")


def _is_share(value: str) -> bool:
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False


def verbose(
    transcript: Transcript,
    fields: Fields,
    *,
    duration: float,
    seconds_per_frame: float,
    tokenizer: PreTrainedTokenizerBase,
) -> VerboseText:
    """OpenAI's verbose_json of a recording of `duration` seconds."""
    rule = tokenizer.init_kwargs.get("text_normalization")
    wanted = granularities(fields)
    answer = VerboseText(
        language=first_field(fields, "language", find_language(transcript.text, rule=rule)),
        duration=round(duration, 3),
        text=transcript.text,
    )
    if "word" in wanted:
        answer.words = [TimedWord(**asdict(word)) for word in transcript.words]
    if "segment" in wanted:
        answer.segments = [
            Segment(
                id=number,
                seek=int(100 * start),
                start=start,
                end=end,
                text=text,
                compression_ratio=len(text.encode()) / len(zlib.compress(text.encode())),
                **segment_figures(
                    transcript.hypothesis, start=round(start / seconds_per_frame), end=round(end / seconds_per_frame)
                ),
            )
            for number, (start, end, text) in enumerate(cues(transcript.words))
        ]
    return answer


def segment_figures(hypothesis: Hypothesis, *, start: int, end: int) -> dict[str, list[int] | float]:
    """Return the tokens of the frames from `start` to `end`, their mean log-probability, and how far it may be silence.

    CTC gives the silence of the segment the product of the blanks of its frames, which is at most one minus the
    probability of the most probable token.
    """
    tokens, spans = [], []
    for token, (first, after) in zip(hypothesis.tokens, hypothesis.frames, strict=True):
        if first < end and after > start:
            tokens.append(token)
            spans.append(hypothesis.probabilities[max(first, start) : min(after, end)])
    if not tokens:
        return {"tokens": [], "avg_logprob": 0.0, "no_speech_prob": 1.0}
    probabilities = np.concatenate(spans)
    return {
        "tokens": tokens,
        "avg_logprob": float(np.log(probabilities).mean()),
        "no_speech_prob": 1.0 - float(probabilities.max()),
    }


def find_language(text: str, *, rule: str | None) -> str:
    """The language that the rule of text normalisation names, or else the text's script; `und` if neither does."""
    languages = rule.split("-") if rule in SPELLS_NUMBERS else []
    if len(languages) == 1:
        return languages[0]
    scripts = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha())
    if scripts.keys() & {"HIRAGANA", "KATAKANA"}:  # beside Han characters too
        return "ja"
    script = max(scripts, key=scripts.get, default="")
    if script == "LATIN" and "en" in languages:
        return "en"
    return LANGUAGE_OF_SCRIPT.get(script, UNDETERMINED)
