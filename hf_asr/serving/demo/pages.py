"""The demo's results as HTML: one recognition, or two side by side."""

import base64
import difflib
from collections.abc import Collection, Sequence

import numpy as np
from markupsafe import Markup

from ...decoding.recognizer import Recognizer
from ...decoding.subtitles import to_srt, to_vtt
from ...decoding.transcript import Word
from ...model import ConformerFeatureExtractor
from .recognition import Recognition, RefusedError
from .word_timeline import legend, timeline, word_chips

PAGE_STYLE = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto !important }
.asr-card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px 14px }
.asr-card h4 { margin: 0 0 6px; overflow-wrap: anywhere } .asr-cards { display: grid; gap: 12px }
@media (min-width: 800px) { .asr-cards { grid-template-columns: 1fr 1fr } }
.asr-hint { color: var(--body-text-color-subdued); padding: 24px 0; text-align: center }
.asr-message { border-left: 4px solid #f16913; padding: 6px 12px; margin: 4px 0 10px }
.asr-download { display: inline-block; border: 1px solid var(--border-color-primary); border-radius: 8px;
  padding: 4px 14px; margin-right: 6px; text-decoration: none; color: var(--body-text-color) }
.source-selection button { width: auto !important; height: auto !important; display: inline-flex !important;
  align-items: center; gap: 4px; padding: 0 8px; font-size: .85em }
.source-selection svg { width: 16px; flex: none }
.source-selection button[aria-label^="Upload"]::after { content: "Upload" }
.source-selection button[aria-label^="Record"]::after { content: "Record" }
.source-selection button[aria-label^="Upload"]:lang(zh)::after { content: "上传" }
.source-selection button[aria-label^="Record"]:lang(zh)::after { content: "录音" }
.asr-heading { font-size: .9em; font-weight: 600; margin-top: 8px }
"""


def result_page(recognition: Recognition, recognizer: Recognizer, *, name: str, texts: dict[str, str]) -> Markup:
    """Return words, timeline and subtitles of one recognition.

    Args:
        name: File name of the subtitles, without suffix.
        texts: Texts of the page by key, in the user's language.
    """
    words, sampling_rate = recognition.transcript.words, recognizer.sampling_rate
    extractor = recognizer.processor.feature_extractor
    if not isinstance(extractor, ConformerFeatureExtractor):
        extractor = ConformerFeatureExtractor(sampling_rate=sampling_rate)  # other families may not use a spectrogram
    waveform = recognition.waveform
    features = extractor(waveform, sampling_rate=sampling_rate, return_tensors="np")["input_features"][0]
    parts = [_message(note) for note in recognition.notes]
    if words:
        parts += [_heading(texts["words"]), word_chips(words), legend(texts["confidence"])]
    else:
        parts += [_message(texts["no_words"])]
    parts += [_heading(texts["timeline"]), timeline(waveform, features, words, sampling_rate=sampling_rate)]
    if words:
        parts += [
            _heading(texts["subtitles"]),
            _download(f"{name}.srt", to_srt(words), media_type="application/x-subrip"),
            _download(f"{name}.vtt", to_vtt(words), media_type="text/vtt"),
        ]
    facts = texts["facts"].format(seconds=len(waveform) / sampling_rate, taken=recognition.seconds)
    parts += [Markup('<div class="asr-facts">{}</div>').format(facts)]
    return Markup("").join(parts)


def comparison_page(
    recognizers: Sequence[Recognizer], recognitions: Sequence[Recognition], *, texts: dict[str, str]
) -> Markup:
    """Return two recognitions of one recording side by side, with frames around the words that differ."""
    framed = differing_words(*(recognition.transcript.words for recognition in recognitions))
    cards = [
        _card(recognizer, recognition, indices, texts)
        for recognizer, recognition, indices in zip(recognizers, recognitions, framed, strict=True)
    ]
    notes = [_message(note) for note in recognitions[0].notes]  # the same for both: they read the same file
    verdict = Markup("").join(notes) + Markup("<p>{}</p>").format(texts["different" if any(framed) else "same"])
    cards = Markup('<div class="asr-cards">{}</div>').format(Markup("").join(cards))
    return verdict + cards + legend(texts["confidence"])


def message_page(error: RefusedError, *, texts: dict[str, str]) -> Markup:
    """Return the reason why a recording or a checkpoint cannot be used."""
    return _message(texts[error.key].format(**error.values))


def differing_words(a: Sequence[Word], b: Sequence[Word]) -> tuple[set[int], set[int]]:
    """Return the indices of the words that only `a` has, and of those that only `b` has, after aligning both."""
    matcher = difflib.SequenceMatcher(None, [word.word for word in a], [word.word for word in b], autojunk=False)
    only_a, only_b = set(range(len(a))), set(range(len(b)))
    for block in matcher.get_matching_blocks():
        only_a -= set(range(block.a, block.a + block.size))
        only_b -= set(range(block.b, block.b + block.size))
    return only_a, only_b


def _card(recognizer: Recognizer, recognition: Recognition, framed: Collection[int], texts: dict[str, str]) -> Markup:
    words = recognition.transcript.words
    speed = len(recognition.waveform) / recognizer.sampling_rate / max(recognition.seconds, 1e-6)
    rows = [(texts["taken"], texts["speed"].format(taken=recognition.seconds, speed=speed))]
    if words:
        mean = np.mean([word.confidence for word in words])
        rows.insert(0, (texts["mean_confidence"], f"{100 * mean:.1f} %"))
    return Markup('<div class="asr-card"><h4>{}</h4>{}{}</div>').format(
        recognizer.name,
        word_chips(words, framed=framed) if words else Markup("<p>{}</p>").format(texts["empty"]),
        Markup("").join(Markup('<div class="asr-facts">{}: {}</div>').format(*row) for row in rows),
    )


def _heading(text: str) -> Markup:
    return Markup('<div class="asr-heading">{}</div>').format(text)


def _message(text: str) -> Markup:
    return Markup('<div class="asr-message" role="status">{}</div>').format(text)


def _download(name: str, content: str, *, media_type: str) -> Markup:
    """Return a link that contains the file itself, so that no file is left on the server."""
    data = base64.b64encode(content.encode()).decode()
    return Markup('<a class="asr-download" download="{}" href="data:{};base64,{}">{}</a>').format(
        name, media_type, data, name.rpartition(".")[2]
    )
