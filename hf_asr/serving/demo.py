"""The Gradio demo: speech to words that are seen on their sound, and two checkpoints side by side."""

import base64
import contextlib
import difflib
import functools
import os
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import numpy as np
import soundfile
from markupsafe import Markup
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import ProcessorMixin

from ..data.audio import AudioError, AudioTooLongError, read_recording
from ..data.synthetic import SAMPLE_RATE, make_recording, make_sentences
from ..decoding.recognizer import Recognizer, load
from ..decoding.subtitles import to_srt, to_vtt
from ..decoding.transcript import Transcript, Word
from ..model import ConformerFeatureExtractor
from ..model.feature_extraction_conformer import denoise
from .middleware import BodyLimit, error_answer
from .pictures import STYLE, legend, timeline, word_chips
from .texts import CHINESE, ENGLISH, I18N, language_texts, translate

MAX_SECONDS = 300.0
MAX_FILE_BYTES = 64_000_000  # five minutes of 16-bit stereo at 48 kHz are 58
MAX_STORED_BYTES = 2_000_000_000  # of all recordings that were not deleted yet
SILENCE = 1e-4  # peak; a microphone that is on is never so quiet

# Looked over every minute; a person may listen to a recording, change a setting and ask again within half an hour.
DELETE_EVERY, DELETE_AFTER = 60, 1800

PAGE_STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important }
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


@dataclass
class Hearing:
    """What a recogniser made of a recording: `waveform` (samples,) as it came to it, and the seconds that it took.

    `notes` say what was damaged, or had to be read in an uncommon way.
    """

    transcript: Transcript
    waveform: np.ndarray
    seconds: float
    notes: list[str] = field(default_factory=list)


class RefusedError(ValueError):
    """A recording or a checkpoint that nothing can be done with; `key` is the text that says so."""

    def __init__(self, key: str, **values: object):
        super().__init__(key)
        self.key, self.values = key, values


def load_warm(model_name_or_path: str) -> Recognizer:
    """Load a recogniser and run it once: the first call of a model is slower than all later ones.

    Raises:
        ValueError, OSError, ImportError: The name is not a checkpoint, or the checkpoint cannot run here.
    """
    recognizer = load(model_name_or_path)
    recognizer.transcribe(np.zeros(recognizer.sampling_rate, dtype=np.float32))
    return recognizer


def hear(recognizer: Recognizer, path: str | None, *, use_denoise: bool) -> Hearing:
    """Reads and transcribes a recording.

    Raises:
        RefusedError: No recording, or one that is unreadable, too long or silent.
    """
    if not path:
        raise RefusedError("missing_audio")
    rate = recognizer.sampling_rate
    try:
        recording = read_recording(path, sampling_rate=rate, max_seconds=MAX_SECONDS)
    except AudioTooLongError as error:
        raise RefusedError("too_long") from error
    except AudioError as error:
        raise RefusedError("unreadable") from error
    waveform = recording.waveform
    if np.abs(waveform).max() < SILENCE:
        raise RefusedError("silent")
    # A checkpoint that was trained with denoising does it by itself.
    if use_denoise and not getattr(recognizer.processor.feature_extractor, "denoise", False):
        waveform = denoise(waveform, sampling_rate=rate)
    started = time.perf_counter()
    transcript = recognizer.transcribe(waveform)
    notes = recording.damage + recording.remarks
    return Hearing(transcript, waveform, time.perf_counter() - started, notes)


def result_page(hearing: Hearing, recognizer: Recognizer, *, name: str, texts: dict[str, str]) -> Markup:
    """Words, picture and subtitles of one hearing; `name` is what the subtitle files are called."""
    words, rate = hearing.transcript.words, recognizer.sampling_rate
    extractor = recognizer.processor.feature_extractor
    if not isinstance(extractor, ConformerFeatureExtractor):
        extractor = ConformerFeatureExtractor(sampling_rate=rate)  # another family's may be no picture
    features = extractor(hearing.waveform, sampling_rate=rate, return_tensors="np")["input_features"][0]
    facts = texts["facts"].format(seconds=len(hearing.waveform) / rate, taken=hearing.seconds)
    parts = [_message(note) for note in hearing.notes]
    if words:
        parts += [_heading(texts["words"]), word_chips(words), legend(texts["confidence"])]
    else:
        parts += [_message(texts["no_words"])]
    parts += [_heading(texts["picture"]), timeline(hearing.waveform, features, words, sampling_rate=rate)]
    if words:
        parts += [
            _heading(texts["subtitles"]),
            _download(f"{name}.srt", to_srt(words), media_type="application/x-subrip"),
            _download(f"{name}.vtt", to_vtt(words), media_type="text/vtt"),
        ]
    parts += [Markup('<div class="asr-facts">{}</div>').format(facts)]
    return Markup("").join(parts)


def comparison_page(recognizers: Sequence[Recognizer], hearings: Sequence[Hearing], *, texts: dict[str, str]) -> Markup:
    """Two hearings of one recording, side by side, with frames around the words that differ."""
    framed = differing_words(*(hearing.transcript.words for hearing in hearings))
    cards = [
        _card(recognizer, hearing, places, texts)
        for recognizer, hearing, places in zip(recognizers, hearings, framed, strict=True)
    ]
    notes = [_message(note) for note in hearings[0].notes]  # both read the same file
    verdict = Markup("").join(notes) + Markup("<p>{}</p>").format(texts["different" if any(framed) else "same"])
    cards = Markup('<div class="asr-cards">{}</div>').format(Markup("").join(cards))
    return verdict + cards + legend(texts["confidence"])


def differing_words(a: Sequence[Word], b: Sequence[Word]) -> tuple[set[int], set[int]]:
    """Places of the words of each that the other does not have there."""
    matcher = difflib.SequenceMatcher(None, [word.word for word in a], [word.word for word in b], autojunk=False)
    only_a, only_b = set(range(len(a))), set(range(len(b)))
    for block in matcher.get_matching_blocks():
        only_a -= set(range(block.a, block.a + block.size))
        only_b -= set(range(block.b, block.b + block.size))
    return only_a, only_b


def _card(recognizer: Recognizer, hearing: Hearing, framed: Collection[int], texts: dict[str, str]) -> Markup:
    words = hearing.transcript.words
    speed = len(hearing.waveform) / recognizer.sampling_rate / max(hearing.seconds, 1e-6)
    rows = [(texts["taken"], texts["faster"].format(taken=hearing.seconds, speed=speed))]
    if words:
        mean = np.mean([word.confidence for word in words])
        rows.insert(0, (texts["mean_confidence"], f"{100 * mean:.1f} %"))
    return Markup('<div class="asr-card"><h4>{}</h4>{}{}</div>').format(
        recognizer.name,
        word_chips(words, framed=framed) if words else Markup("<p>{}</p>").format(texts["nothing_heard"]),
        Markup("").join(Markup('<div class="asr-facts">{}: {}</div>').format(*row) for row in rows),
    )


def _heading(text: str) -> Markup:
    return Markup('<div class="asr-heading">{}</div>').format(text)


def _message(text: str) -> Markup:
    return Markup('<div class="asr-message" role="status">{}</div>').format(text)


def _download(name: str, content: str, *, media_type: str) -> Markup:
    """A link that holds the file itself, so that none is left on the server."""
    data = base64.b64encode(content.encode()).decode()
    return Markup('<a class="asr-download" download="{}" href="data:{};base64,{}">{}</a>').format(
        name, media_type, data, name.rpartition(".")[2]
    )


def _refusal(error: RefusedError, texts: dict[str, str]) -> Markup:
    return _message(texts[error.key].format(**error.values))


def make_examples(processor: ProcessorMixin, folder: str | Path, *, seed: int = 7) -> list[tuple[str, str]]:
    """(wav file, sentence) of two sentences in each language that the vocabulary can spell, spoken into `folder`.

    None if espeak-ng is not there.
    """
    tokenizer, generator, examples = processor.tokenizer, np.random.default_rng(seed), []
    for language in ("zh", "en"):
        sentences = make_sentences(language, count=40, generator=generator)
        if any(tokenizer.unk_token_id in tokenizer(sentence)["input_ids"] for sentence in sentences):
            continue
        for sentence in sorted(sentences, key=len)[-4::3]:  # long ones show more
            try:
                waveform, _ = make_recording(sentence, language=language, generator=generator)
            except (ImportError, OSError, RuntimeError):
                return []
            file = Path(folder) / f"{language}-{len(examples) + 1}.wav"
            soundfile.write(file, waveform, SAMPLE_RATE)
            examples.append((str(file), sentence))
    return examples


def build_demo(
    recognizer: Recognizer, *, second: Recognizer | None = None, may_choose_second: bool = False
) -> gr.Blocks:
    """The page, not yet served.

    Args:
        second: What the recogniser is compared with.
        may_choose_second: Whether whoever sees the page may name another one. Never on a page that others see: it would
            let them download models of any size to this machine, run what they publish, and probe its folders.
    """
    load_second = functools.lru_cache(maxsize=1)(load_warm)

    def transcribe(path: str | None, use_denoise: bool, request: gr.Request) -> tuple[str, str]:
        """Text of a recording, and a page of its words on its sound."""
        texts = language_texts(request)
        try:
            hearing = hear(recognizer, path, use_denoise=use_denoise)
        except RefusedError as error:
            return "", _refusal(error, texts)
        page = result_page(hearing, recognizer, name=Path(path).stem, texts=texts)
        return hearing.transcript.text, page

    def compare(path: str | None, use_denoise: bool, name: str, request: gr.Request) -> str:
        """A page of what two checkpoints hear in one recording."""
        texts = language_texts(request)
        try:
            recognizers = [recognizer, choose_second(name)]
            hearings = [hear(each, path, use_denoise=use_denoise) for each in recognizers]
        except RefusedError as error:
            return _refusal(error, texts)
        return comparison_page(recognizers, hearings, texts=texts)

    def compare_given(path: str | None, use_denoise: bool, request: gr.Request) -> str:
        """A page of what two checkpoints hear in one recording."""
        return compare(path, use_denoise, second.name, request)

    def choose_second(name: str) -> Recognizer:
        name = name.strip()
        if second is not None and name == second.name:
            return second
        if not name:
            raise RefusedError("missing_second")
        try:
            return load_second(name)
        except (ValueError, OSError, ImportError) as error:
            raise RefusedError("bad_second", reason=str(error).partition("\n")[0]) from error

    # The files live as long as the page; copied to Gradio's cache, they would be deleted with the recordings.
    folder = tempfile.TemporaryDirectory(prefix="hf_asr_examples_")
    examples = make_examples(recognizer.processor, folder.name)
    gr.set_static_paths([file for file, _ in examples])

    title = " · ".join(texts["title"] for texts in (ENGLISH, CHINESE))  # Gradio does not translate it
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(DELETE_EVERY, DELETE_AFTER)) as demo:
        demo.examples_folder = folder
        gr.Markdown(translate("intro"))
        gr.Markdown(f"{translate('checkpoint')} `{recognizer.name}`")
        with gr.Tab(translate("recognise_tab")), gr.Row():
            with gr.Column(scale=2, min_width=300):
                audio, denoising = _inputs()
                button = gr.Button(translate("recognise"), variant="primary", elem_id="recognise")
                chosen = _examples(examples, audio)
            with gr.Column(scale=3, min_width=320):
                text = gr.Textbox(label=translate("text"), lines=2, max_lines=6, buttons=["copy"], elem_id="text")
                page = gr.HTML(f'<div class="asr-hint">{translate("result_hint")}</div>', elem_id="result")
            shared = {"inputs": [audio, denoising], "outputs": [text, page], "concurrency_id": "models"}
            button.click(transcribe, api_name="transcribe", **shared).then(None, js=_scroll_to("text"))
            if chosen:
                chosen.then(transcribe, api_visibility="private", **shared).then(None, js=_scroll_to("text"))
        if second is not None or may_choose_second:
            with gr.Tab(translate("compare_tab")), gr.Row():
                with gr.Column(scale=2, min_width=300):
                    gr.Markdown(translate("compare_intro"))
                    audio, denoising = _inputs()
                    inputs = [audio, denoising]
                    if may_choose_second:
                        inputs.append(
                            gr.Textbox(
                                second.name if second else "",
                                label=translate("second"),
                                info=translate("second_info"),
                                elem_id="second",
                            )
                        )
                    button = gr.Button(translate("compare"), variant="primary", elem_id="compare")
                    _examples(examples, audio)
                with gr.Column(scale=3, min_width=320):
                    page = gr.HTML(elem_id="comparison")
                button.click(
                    compare if may_choose_second else compare_given,
                    inputs=inputs,
                    outputs=page,
                    concurrency_id="models",
                    api_name="compare",
                ).then(None, js=_scroll_to("comparison"))
    # One at a time: the model takes all cores already.
    return demo.queue(default_concurrency_limit=1, max_size=32)


def _inputs() -> tuple[gr.Audio, gr.Checkbox]:
    # `format` would have the server convert with FFmpeg; the file as it is goes to read_audio.
    audio = gr.Audio(
        label=translate("audio"), sources=["upload", "microphone"], type="filepath", format=None, buttons=[]
    )
    return audio, gr.Checkbox(label=translate("denoise"), info=translate("denoise_info"))


def _examples(examples: Sequence[tuple[str, str]], audio: gr.Audio):
    """A list to choose a recording from, and the event of that; None if there are no examples."""
    if not examples:
        return None
    return gr.Examples(
        [[file] for file, _ in examples],
        inputs=[audio],
        label=translate("examples"),
        example_labels=[sentence for _, sentence in examples],
        api_visibility="private",
    ).load_input_event


def _scroll_to(elem_id: str) -> str:
    """JavaScript; on a phone a result stands below the screen, and Gradio's `scroll_to_output` does nothing (6.31)."""
    return f"() => innerWidth < 800 && document.getElementById('{elem_id}').scrollIntoView({{behavior: 'smooth'}})"


class OwnSourcesOnly:
    """ASGI middleware by which a browser asks nobody but this server for anything, whatever Gradio's page says."""

    POLICY = (
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'"
    )

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


class BoundedUploads:
    """ASGI middleware that takes no more recordings while those that are stored fill their share of the disk."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"].endswith("/upload") and stored_bytes() > MAX_STORED_BYTES:
            app = error_answer(503, "too many recordings are stored: try again in half an hour")
        await app(scope, receive, send)


def stored_bytes() -> int:
    """Of the recordings that Gradio keeps until it deletes them."""
    total = 0
    for path in Path(gr.utils.get_upload_folder()).rglob("*"):
        with contextlib.suppress(OSError):  # deleted meanwhile
            total += path.stat().st_size
    return total


def reach_directly(host: str) -> None:
    """Has this process ask this machine without a proxy: Gradio asks its own page whether it is there.

    What the environment says of other hosts stays.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [part.strip() for part in given.split(",") if part.strip()]
    hosts += [name for name in dict.fromkeys(("127.0.0.1", "localhost", "::1", host)) if name not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def launch(demo: gr.Blocks, *, host: str, port: int | None, block: bool = True) -> str:
    """Serves the page and returns its address; with `block`, until it is interrupted.

    Args:
        port: None takes a free one from 7860 on.

    Raises:
        OSError: The port is taken.
    """
    fonts = [gr.themes.Font(name) for name in ("system-ui", "PingFang SC", "Noto Sans CJK SC", "sans-serif")]
    reach_directly(host)
    _, address, _ = demo.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,  # needs Node, and nothing is gained
        run_history=False,
        footer_links=[],
        max_file_size=MAX_FILE_BYTES,
        enable_monitoring=False,
        theme=gr.themes.Default(font=fonts, primary_hue="blue"),
        css=STYLE + PAGE_STYLE,
        i18n=I18N,
        app_kwargs={
            "middleware": [
                Middleware(OwnSourcesOnly),
                Middleware(BoundedUploads),
                Middleware(BodyLimit, max_file_bytes=MAX_FILE_BYTES),  # Gradio's limit is of each file of many
            ]
        },
        prevent_thread_lock=not block,
        quiet=not block,
    )
    return address
