"""The demo in headless Chromium, if it is installed: apt-get install chromium, pip install playwright."""

import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

pytest.importorskip("playwright")
from playwright.sync_api import sync_playwright

from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.decoding.transcript import Transcript, Word
from hf_asr.serving.demo import build_demo, launch, live_service, load_warm
from hf_asr.serving.demo.translations import CHINESE, ENGLISH
from hf_asr.serving.options import StreamOptions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

WORDS = [Word("fox", 0.1, 0.4, 0.987), Word("灯", 0.5, 0.6, 0.41)]
DESKTOP, PHONE = (1280, 900), (390, 844)


def tone(frequency: int, *, seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def loudest_frequency(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform)).argmax() * 16000 / len(waveform)


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    """Serve the page with a recogniser that returns WORDS; return its address and the list of its input waveforms."""
    waveforms = []

    def transcribe(recognizer, waveform):
        waveforms.append(waveform)
        return Transcript("fox灯", WORDS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(Recognizer, "transcribe", transcribe)
        page = build_demo(load_warm(str(checkpoint)), may_choose_second=True)
        yield SimpleNamespace(address=launch(page, host="127.0.0.1", port=None, block=False), waveforms=waveforms)
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Start Chromium with a microphone that records a tone of 880 Hz."""
    microphone = tmp_path_factory.mktemp("microphone") / "hum.wav"
    soundfile.write(microphone, tone(880, seconds=5, rate=48000), 48000)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    arguments += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    arguments += [f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, served):
    """Return a function that opens the page; at the end, check that it made no requests to other servers."""
    contexts, addresses, requested, errors = [], ["data:", "blob:"], [], []

    def open_page(*, locale: str = "en-US", screen: tuple[int, int] = DESKTOP, address: str = served.address):
        addresses.append(address)
        contexts.append(browser.new_context(locale=locale, viewport={"width": screen[0], "height": screen[1]}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.on("websocket", lambda socket: requested.append(socket.url.replace("ws:", "http:")))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        page.wait_for_selector("#recognise")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert requested and not errors
    assert not [url for url in requested if not url.startswith(tuple(addresses))]


def test_uploaded_file_gives_text_and_timeline(visit, served, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440, seconds=1, rate=16000), 16000)
    page = visit()
    page.set_input_files("input[type=file]", tmp_path / "a.wav")
    page.wait_for_selector("audio, [data-testid^=waveform]", state="attached")
    page.click("#recognise")
    page.wait_for_selector("#result svg image")
    assert page.input_value("#text textarea") == "fox灯"
    assert page.locator("#result svg text").all_text_contents()[:2] == ["fox", "灯"]
    image = "async () => { const image = new Image(); image.src = document.querySelector('#result image').href.baseVal;"
    assert page.evaluate(image + "await image.decode(); return [image.width, image.height] }") == [100, 80]
    assert abs(loudest_frequency(served.waveforms[-1]) - 440) < 5
    with page.expect_download() as download:
        page.click("a[download$=srt]")
    assert download.value.suggested_filename == "a.srt" and "fox灯" in download.value.path().read_text()


def test_recording_is_transcribed(visit, served):
    page = visit()
    page.click("button[aria-label='Record audio']")
    page.click(".record-button")
    page.wait_for_timeout(1500)
    page.click(".stop-button")
    page.wait_for_selector("[data-testid^=waveform]", state="attached")
    page.click("#recognise")
    page.wait_for_selector("#result svg image")
    assert abs(loudest_frequency(served.waveforms[-1]) - 880) < 5


def test_clicked_example_is_transcribed(visit):
    page = visit()
    page.locator(".gallery-item, .gallery button").first.click()
    page.wait_for_selector("#result svg image")


def test_two_checkpoints_are_compared(visit, checkpoint):
    page = visit()
    page.get_by_role("tab").nth(1).click()
    page.locator(".gallery-item >> visible=true").first.click()
    page.locator("#second input, #second textarea").fill(str(checkpoint))
    page.wait_for_timeout(500)
    page.click("#compare")
    page.wait_for_selector(".asr-card")
    assert page.locator(".asr-card").count() == 2
    assert ENGLISH["same"] in page.inner_text("#comparison")


@pytest.mark.parametrize(("locale", "texts"), [("zh-CN", CHINESE), ("en-GB", ENGLISH)])
def test_page_is_in_the_language_of_the_browser(visit, locale, texts):
    page = visit(locale=locale)
    assert page.inner_text("#recognise") == texts["recognise"]
    assert page.inner_text("h1") == texts["title"] and texts["title"] in page.title()
    assert "i18n" not in page.inner_text("body")
    page.click("#recognise")
    page.wait_for_selector(f"#result >> text={texts['missing_audio']}")


def test_page_fits_a_phone_and_scrolls_to_the_result(visit):
    page = visit(screen=PHONE)
    page.locator(".gallery-item, .gallery button").first.click()
    page.wait_for_selector("#result svg image")
    page.wait_for_function("window.scrollY > 100")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


@pytest.fixture
def live(streaming_recognizer, tmp_path, monkeypatch):
    """Serve the page with a tab of live text; return its address, the service, and the samples and texts of streams."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    samples, finals = [], []
    add, final_results = StreamingRecognizer.add, StreamingRecognizer.final_results

    def add_and_record(self, more):
        samples.append(more)
        add(self, more)

    def end_and_record(self, hypothesis, **options):
        results = final_results(self, hypothesis, **options)
        finals.extend(result.text for result in results)
        return results

    service = live_service(streaming_recognizer, StreamOptions(max_streams=1))
    monkeypatch.setattr(StreamingRecognizer, "add", add_and_record)
    monkeypatch.setattr(StreamingRecognizer, "final_results", end_and_record)
    page = build_demo(streaming_recognizer, live=service)
    address = launch(page, host="127.0.0.1", port=None, block=False)
    yield SimpleNamespace(address=address, service=service, samples=samples, finals=finals)
    page.close(verbose=False)


def open_live_tab(visit, live, **options):
    page = visit(address=live.address, **options)
    page.get_by_role("tab").nth(1).click()
    page.wait_for_selector("#live .asr-live-button")
    return page


def start(page) -> None:
    page.click("#live .asr-live-button")
    page.wait_for_selector("#live [data-state=listening]")


def stop(page) -> None:
    page.click("#live .asr-live-button")
    page.wait_for_selector("#live [data-state=idle]")


def test_live_text_grows_while_the_microphone_is_on_and_a_stop_gives_the_last_words(visit, live):
    page = open_live_tab(visit, live)
    start(page)
    page.wait_for_selector("#live .asr-partial")
    assert page.inner_text("#live .asr-live-status").startswith(ENGLISH["live_listening"])
    page.wait_for_timeout(1500)
    page.get_by_role("tab").nth(0).click()
    page.get_by_role("tab").nth(1).click()
    stop(page)
    assert page.locator("#live .asr-final > div").all_text_contents() == live.finals != []
    assert page.locator("#live .asr-partial").count() == 0
    word = page.locator("#live .asr-word").first
    assert re.fullmatch(r"\d+\.\d\d-\d+\.\d\d s, \d+ %", word.get_attribute("title"))
    assert abs(loudest_frequency(np.concatenate(live.samples)) - 880) < 5
    assert not live.service.clients.clients
    before = len(live.finals)
    start(page)
    page.wait_for_selector("#live .asr-partial")
    stop(page)
    assert page.locator("#live .asr-final > div").all_text_contents() == live.finals[before:]


def test_a_closed_tab_ends_its_stream_and_others_are_refused_before(visit, live):
    first, second = open_live_tab(visit, live), open_live_tab(visit, live, locale="zh-CN", screen=PHONE)
    start(first)
    assert second.inner_text("#live .asr-live-button") == CHINESE["live_start"]
    second.click("#live .asr-live-button")
    second.wait_for_selector(f"#live >> text={CHINESE['live_busy']}")
    first.close()
    until = time.monotonic() + 10
    while live.service.clients.clients and time.monotonic() < until:
        time.sleep(0.05)
    start(second)
    assert second.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    stop(second)


def test_live_text_without_a_microphone_says_why(visit, live):
    page = open_live_tab(visit, live)
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('no device')) }")
    page.click("#live .asr-live-button")
    page.wait_for_selector("#live >> text=The browser gave no microphone")
    assert "no device" in page.inner_text("#live .asr-live-status")


def test_the_page_does_not_change_its_width_between_tabs(visit, live):
    page = open_live_tab(visit, live, locale="zh-CN")
    width = "document.querySelector('.gradio-container').getBoundingClientRect().width"
    live_width = page.evaluate(width)
    page.get_by_role("tab").nth(0).click()
    assert page.evaluate(width) == live_width == 1180
