"""The demo's Gradio page: its layout, and what its buttons do."""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from ...decoding.recognizer import Recognizer
from ..sessions import StreamService
from .examples import make_examples
from .live import SCRIPT
from .pages import comparison_page, message_page, result_page
from .recognition import RefusedError, load_warm, transcribe_recording
from .translations import CHINESE, ENGLISH, language_texts, translate

# Gradio looks for old recordings every minute. A user may play a recording, change a setting and transcribe it again
# within half an hour.
DELETE_EVERY_S, DELETE_AFTER_S = 60, 1800


class Handlers:
    """What the buttons do; it keeps the last checkpoint that a user has chosen.

    Args:
        second: Recogniser to compare with, if the page has one.
    """

    def __init__(self, recognizer: Recognizer, second: Recognizer | None):
        self.recognizer, self.second = recognizer, second
        self._load = functools.lru_cache(maxsize=1)(load_warm)

    def transcribe(
        self, path: str | None, use_denoise: bool, request: gr.Request, hotwords: str = ""
    ) -> tuple[str, str]:
        """Return the text of a recording, and a page with its words on a timeline."""
        texts = language_texts(request)
        try:
            options = {"use_denoise": use_denoise, "hotwords": hotwords}
            recognition = transcribe_recording(self.recognizer, path, **options)
        except RefusedError as error:
            return "", message_page(error, texts=texts)
        page = result_page(recognition, self.recognizer, name=Path(path).stem, texts=texts)
        return recognition.transcript.text, page

    def compare(self, path: str | None, use_denoise: bool, request: gr.Request, name: str | None = None) -> str:
        """Return a page with the words of two checkpoints for one recording."""
        texts = language_texts(request)
        try:
            recognizers = [self.recognizer, self._second(name)]
            recognitions = [transcribe_recording(each, path, use_denoise=use_denoise) for each in recognizers]
        except RefusedError as error:
            return message_page(error, texts=texts)
        return comparison_page(recognizers, recognitions, texts=texts)

    def _second(self, name: str | None) -> Recognizer:
        """Load the checkpoint that the user has chosen; None where the page has no field for it."""
        if self.second is not None and (name is None or name.strip() == self.second.name):
            return self.second
        name = (name or "").strip()
        if not name:
            raise RefusedError("missing_second")
        try:
            return self._load(name)
        except (ValueError, OSError, ImportError) as error:
            raise RefusedError("bad_second", reason=str(error).partition("\n")[0]) from error


def build_demo(
    recognizer: Recognizer,
    *,
    live: StreamService | None = None,
    second: Recognizer | None = None,
    may_choose_second: bool = False,
) -> gr.Blocks:
    """Return the page; `launch` serves it.

    Args:
        live: From `live_service`, for a tab with live text.
        second: Recogniser to compare with.
        may_choose_second: Let users enter another checkpoint to compare with. Never allow this to users of other
            machines: they could download models of any size to this machine, run published code, and look for folders.
    """
    handlers = Handlers(recognizer, second)
    # Files in Gradio's cache would be deleted with the recordings, so the examples are in a folder that lives as long
    # as the page.
    folder = tempfile.TemporaryDirectory(prefix="hf_asr_examples_")
    examples = make_examples(recognizer.processor, folder.name)
    gr.set_static_paths([file for file, _ in examples])
    title = " · ".join(texts["title"] for texts in (ENGLISH, CHINESE))  # Gradio does not translate the title
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(DELETE_EVERY_S, DELETE_AFTER_S)) as demo:
        demo.examples_folder, demo.live = folder, live
        gr.Markdown(translate("intro"))
        gr.Markdown(f"{translate('checkpoint')} `{recognizer.name}`")
        with gr.Tab(translate("recognise_tab")), gr.Row():
            _add_recognise_tab(handlers, examples)
        if live is not None:
            with gr.Tab(translate("live_tab")):
                gr.HTML(translate("live_page"), js_on_load=SCRIPT, elem_id="live")
        if second is not None or may_choose_second:
            with gr.Tab(translate("compare_tab")), gr.Row():
                _add_compare_tab(handlers, examples, may_choose_second=may_choose_second)
    return demo.queue(default_concurrency_limit=1, max_size=32)  # one at a time: the model uses all cores


def _add_recognise_tab(handlers: Handlers, examples: Sequence[tuple[str, str]]) -> None:
    with gr.Column(scale=2, min_width=300):
        audio, denoising = _add_inputs()
        inputs = [audio, denoising]
        if handlers.recognizer.takes_hotwords:
            label, info = translate("hotwords"), translate("hotwords_info")
            inputs.append(gr.Textbox(label=label, info=info, elem_id="hotwords"))
        button = gr.Button(translate("recognise"), variant="primary", elem_id="recognise")
        example_chosen = _add_examples(examples, audio)
    with gr.Column(scale=3, min_width=320):
        text = gr.Textbox(label=translate("text"), lines=2, max_lines=6, buttons=["copy"], elem_id="text")
        page = gr.HTML(f'<div class="asr-hint">{translate("result_hint")}</div>', elem_id="result")
    shared = {"inputs": inputs, "outputs": [text, page], "concurrency_id": "models"}
    button.click(handlers.transcribe, api_name="transcribe", **shared).then(None, js=_scroll_to("text"))
    if example_chosen:
        done = example_chosen.then(handlers.transcribe, api_visibility="private", **shared)
        done.then(None, js=_scroll_to("text"))


def _add_compare_tab(handlers: Handlers, examples: Sequence[tuple[str, str]], *, may_choose_second: bool) -> None:
    with gr.Column(scale=2, min_width=300):
        gr.Markdown(translate("compare_intro"))
        audio, denoising = _add_inputs()
        inputs = [audio, denoising]
        if may_choose_second:
            name = handlers.second.name if handlers.second else ""
            label, info = translate("second"), translate("second_info")
            inputs.append(gr.Textbox(name, label=label, info=info, elem_id="second"))
        button = gr.Button(translate("compare"), variant="primary", elem_id="compare")
        _add_examples(examples, audio)
    with gr.Column(scale=3, min_width=320):
        page = gr.HTML(elem_id="comparison")
    options = {"outputs": page, "concurrency_id": "models", "api_name": "compare"}
    button.click(handlers.compare, inputs=inputs, **options).then(None, js=_scroll_to("comparison"))


def _add_inputs() -> tuple[gr.Audio, gr.Checkbox]:
    # With a `format`, Gradio would convert the file with FFmpeg, which may not be installed.
    audio = gr.Audio(
        label=translate("audio"), sources=["upload", "microphone"], type="filepath", format=None, buttons=[]
    )
    return audio, gr.Checkbox(label=translate("denoise"), info=translate("denoise_info"))


def _add_examples(examples: Sequence[tuple[str, str]], audio: gr.Audio):
    """Add a list of recordings and return the event of choosing one; None if there are no examples."""
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
    """Return JavaScript that scrolls a phone to the result; Gradio's `scroll_to_output` has no effect (6.31)."""
    return f"() => innerWidth < 800 && document.getElementById('{elem_id}').scrollIntoView({{behavior: 'smooth'}})"
