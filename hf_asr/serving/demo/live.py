"""The demo's tab with live text from the microphone.

Its sound is sent to the WebSocket /v1/stream, as that of any other client. Gradio's own streaming of a microphone drops
sound: what was recorded in the last half second before a stop, and what arrives while it computes.
"""

from dataclasses import replace
from importlib import resources

import numpy as np
from markupsafe import Markup

from ...decoding.recognizer import Recognizer
from ...decoding.streaming import StreamingRecognizer
from ...decoding.streams import can_stream
from ...model import ConformerForCTC
from ..engine import Engine
from ..options import StreamOptions
from ..sessions import StreamService
from .word_timeline import LEVELS, legend

# Of a checkpoint that was trained in random chunks and does not name its own: a latency of about 0.7 s
CHUNK_SIZE, NUM_LEFT_CHUNKS = 16, 8

SCRIPT = resources.files("hf_asr").joinpath("templates", "live.js").read_text(encoding="utf-8")

LIVE_STYLE = """
.asr-live-bar { display: flex; align-items: center; gap: 12px; min-height: 44px }
.asr-live-button { min-width: 7em; padding: 8px 18px; font-weight: 600; border-radius: var(--button-large-radius);
  background: var(--button-primary-background-fill); color: var(--button-primary-text-color) }
.asr-live-button span { color: inherit } .asr-live-button:disabled { opacity: .5 }
[data-state=listening] .asr-live-button { background: #b91c1c; color: #fff }
.asr-live-button span + span, [data-state=listening] .asr-live-button span { display: none }
[data-state=listening] .asr-live-button span + span { display: inline }
.asr-live-status { flex: 1 1 auto; font-variant-numeric: tabular-nums }
.asr-live-meter { flex: 0 1000 120px; min-width: 30px; height: 8px; border-radius: 4px; overflow: hidden;
  background: var(--border-color-primary) }
.asr-live-level { height: 100%; width: 0; background: #4292c6; transition: width .1s linear }
.asr-live-text { height: 22em; overflow-y: auto; margin: 10px 0 6px; padding: 12px 14px; font-size: 1.1em;
  border: 1px solid var(--border-color-primary); border-radius: 8px }
.asr-live-text:empty::before { content: attr(data-hint); opacity: .65 }
.asr-line { display: flex; gap: 12px; line-height: 2; font-size: 1.15em }
.asr-line time { flex: none; width: 3.2em; text-align: right; font-size: .75em; line-height: 2.67; opacity: .65;
  font-variant-numeric: tabular-nums }
.asr-line .asr-word { padding: 0 3px; margin: 0 1px; line-height: 1.5 }
.asr-partial .asr-word { background: none; color: inherit; opacity: .65 }
"""


def live_service(recognizer: Recognizer, options: StreamOptions | None = None) -> StreamService | None:
    """Return an engine for streams and their limits; None if the checkpoint cannot stream."""
    model, processor = recognizer.model, recognizer.processor
    if isinstance(model, ConformerForCTC) and model.config.use_dynamic_chunk:
        size, left = model.config.chunk_size, model.config.num_left_chunks
        size, left = size if size > 0 else CHUNK_SIZE, left if left >= 0 else NUM_LEFT_CHUNKS
        arguments = replace(recognizer.arguments, chunk_size=size, num_left_chunks=left)
        recognizer = Recognizer(model, processor, recognizer.decoder, arguments=arguments)
    if not can_stream(recognizer.model, processor.feature_extractor):
        return None
    StreamingRecognizer(recognizer).accept(np.zeros(recognizer.sampling_rate, np.float32))  # the first step is slow
    return StreamService(Engine(recognizer), options or StreamOptions())


def live_page(texts: dict[str, str]) -> Markup:
    """Return a button, a level meter and the place of the text; SCRIPT starts and ends the stream, and shows its text.

    Args:
        texts: Texts of the page by key, in one language.
    """
    names = ("starting", "listening", "finishing", "insecure", "denied", "busy", "lost")
    data = Markup(" ").join(Markup('data-{}="{}"').format(name, texts[f"live_{name}"]) for name in names)
    return Markup(
        '<div class="asr-live" data-state="idle" data-levels="{levels}" {data}><div class="asr-live-bar">'
        '<button class="asr-live-button"><span>{start}</span><span>{stop}</span></button>'
        '<span class="asr-live-status" role="status"></span>'
        '<div class="asr-live-meter"><div class="asr-live-level"></div></div></div>'
        '<div class="asr-live-text" role="log" tabindex="0" data-hint="{hint}"></div>{legend}</div>'
    ).format(
        levels=" ".join(map(str, LEVELS)),
        data=data,
        start=texts["live_start"],
        stop=texts["live_stop"],
        hint=texts["live_hint"],
        legend=legend(texts["confidence"]),
    )
