"""Build OpenAI's verbose_json from a transcript."""

import unicodedata
import zlib
from collections import Counter
from dataclasses import asdict

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..decoding.subtitles import cues
from ..decoding.transcript import Hypothesis, Transcript
from ..model.tokenization_conformer import SPELLS_NUMBERS
from .openai_fields import first_value, granularities
from .schemas import Segment, TimedWord, VerboseText
from .transcription import Fields

UNDETERMINED = "und"  # ISO 639's code for an unknown language
# The first word of a letter's Unicode name is its script. These scripts are each used by one language.
LANGUAGE_OF_SCRIPT = {
    **{"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th"},
    **{"HEBREW": "he", "GREEK": "el", "GEORGIAN": "ka", "ARMENIAN": "hy"},
}


def to_verbose_text(
    transcript: Transcript,
    fields: Fields,
    *,
    duration: float,
    seconds_per_frame: float,
    tokenizer: PreTrainedTokenizerBase,
) -> VerboseText:
    """Return the verbose_json of a recording, with the timestamps and the language that the form fields request.

    Args:
        duration: Duration of the recording in seconds.
        seconds_per_frame: Seconds of audio that one frame of logits covers.
    """
    rule = tokenizer.init_kwargs.get("text_normalization")
    wanted = granularities(fields)
    answer = VerboseText(
        language=first_value(fields, "language", find_language(transcript.text, rule=rule)),
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
    """Return the tokens of the frames from `start` to `end`, their mean log-probability and a probability of silence.

    With CTC, a segment is silent with the product of the blank probabilities of its frames. That is at most one minus
    the probability of the most probable token, which is returned.
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
    """Return the language of the text normalisation `rule`, or of the text's script; `und` if neither is known."""
    languages = rule.split("-") if rule in SPELLS_NUMBERS else []
    if len(languages) == 1:
        return languages[0]
    scripts = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha())
    if scripts.keys() & {"HIRAGANA", "KATAKANA"}:  # Japanese is written in Han characters too
        return "ja"
    script = max(scripts, key=scripts.get, default="")
    if script == "LATIN" and "en" in languages:
        return "en"
    return LANGUAGE_OF_SCRIPT.get(script, UNDETERMINED)
