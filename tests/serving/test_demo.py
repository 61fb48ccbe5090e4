import base64
import importlib.util
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import av
import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

pytest.importorskip("gradio")
from gradio_client import Client, handle_file

from hf_asr.data.synthetic import make_recording
from hf_asr.decoding.transcript import Transcript, Word
from hf_asr.model.feature_extraction_conformer import denoise
from hf_asr.serving import demo
from hf_asr.serving.demo import (
    Hearing,
    OwnSourcesOnly,
    RefusedError,
    build_demo,
    comparison_page,
    differing_words,
    hear,
    launch,
    load,
    make_examples,
    result_page,
)
from hf_asr.serving.pictures import PIXELS_PER_SECOND, legend, level, timeline, word_chips
from hf_asr.serving.texts import CHINESE, ENGLISH, language_texts

WORDS = [Word("fox", 0.5, 1.0, 0.987), Word("灯", 1.5, 1.6, 0.41)]


@pytest.fixture(scope="session")
def recognizer(checkpoint):
    return load(str(checkpoint))


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """A wav file of two seconds or so."""
    waveform, _ = make_recording("the lazy dog jumps", language="en", generator=np.random.default_rng(0))
    path = tmp_path_factory.mktemp("speech") / "my dog.wav"
    soundfile.write(path, waveform, 16000)
    return path


@pytest.fixture(scope="module")
def served(recognizer, tmp_path_factory):
    """A page as `app.py` serves it on a machine without FFmpeg: its address, and the hosts that it connected to."""
    connected, connect = set(), socket.socket.connect

    def record(self, address):
        connected.add(address[0] if isinstance(address, tuple) else address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(socket.socket, "connect", record)
        page = build_demo(recognizer, may_choose_second=True)
        yield SimpleNamespace(address=launch(page, host="127.0.0.1", port=None, block=False), connected=connected)
        page.close(verbose=False)


def test_a_word_has_its_confidence_as_colour_as_number_and_its_time_as_tooltip():
    html = word_chips(WORDS, framed={1})
    assert 'class="asr-word asr-0" title="0.50-1.00 s, 99 %">fox<sub>99</sub>' in html
    assert 'class="asr-word asr-3 asr-differs" title="1.50-1.60 s, 41 %">灯<sub>41</sub>' in html


def test_classes_go_by_the_percentage_that_is_shown():
    assert [level(confidence) for confidence in (1.0, 0.946, 0.944, 0.8, 0.6, 0.594, 0.0)] == [0, 0, 1, 1, 2, 3, 3]
    assert re.findall(r">([≥<] \d+|&lt; \d+)<", legend("sure")) == ["≥ 95", "≥ 80", "≥ 60", "&lt; 60"]


def test_what_was_heard_is_escaped():
    word = Word("<script>alert(1)</script>", 0.0, 0.5)
    for html in (word_chips([word]), timeline(np.zeros(16000), np.zeros((100, 80)), [word], sampling_rate=16000)):
        assert "<script" not in html and "&lt;script" in html


def test_words_stand_under_their_times():
    svg = timeline(np.ones(2 * 16000), np.zeros((200, 80)), WORDS, sampling_rate=16000)
    assert re.findall(r'class="asr-span" x="([\d.]+)%" width="([\d.]+)%"', svg) == [
        ("25.00", "25.00"),
        ("75.00", "5.00"),
    ]
    assert re.findall(r'<text x="([\d.]+)%" [^>]*>(\w+)</text>', svg) == [("37.50", "fox"), ("77.50", "灯")]
    assert f"min-width:{2 * PIXELS_PER_SECOND}px" in svg


def test_labels_do_not_lie_on_each_other():
    words = [Word("seventeen", 0.1 * i, 0.1 * i + 0.1) for i in range(3)]
    svg = timeline(np.ones(16000), np.zeros((100, 80)), words, sampling_rate=16000)
    heights = re.findall(r'y="(\d+)" text-anchor="middle"', svg)
    assert len(set(heights)) == 3


def test_low_frequencies_are_at_the_bottom_and_time_runs_to_the_right():
    features = np.zeros((50, 80))
    features[40:, :5] = 10.0  # a low hum at the end
    svg = timeline(np.ones(8000), features, [], sampling_rate=16000)
    png = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", svg)[1])
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=int)
    assert image.shape == (80, 50)
    assert image[-1, -1] > image[0, -1] and image[-1, -1] > image[-1, 0]


def test_differing_words_are_found_by_place():
    def words(text):
        return [Word(word, 0.0, 0.0) for word in text.split()]

    assert differing_words(words("a b c d"), words("a x c")) == ({1, 3}, {1})
    assert differing_words(words("a"), []) == ({0}, set())
    assert differing_words([], []) == (set(), set())


def test_a_hearing_is_shown_with_subtitles_that_need_no_file(recognizer):
    hearing = Hearing(Transcript("fox灯", WORDS), np.ones(32000, np.float32), 0.25)
    html = result_page(hearing, recognizer, name="my dog", texts=ENGLISH)
    assert "2.0 s of audio, recognised in 0.25 s" in html
    links = dict(re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', html))
    assert base64.b64decode(links["my dog.srt"]).decode().startswith("1\n00:00:00,500 --> 00:00:01,600\nfox灯")
    assert base64.b64decode(links["my dog.vtt"]).decode().startswith("WEBVTT")


def test_no_words_are_told_and_the_picture_stays(recognizer):
    html = result_page(Hearing(Transcript(""), np.ones(16000, np.float32), 0.1), recognizer, name="a", texts=CHINESE)
    assert CHINESE["no_words"] in html and "<svg" in html and "download" not in html


def test_two_hearings_are_compared(recognizer):
    hearings = [
        Hearing(Transcript("", [Word("a", 0, 1, 1.0), Word("b", 1, 2, 0.5)]), np.ones(16000), 0.5),
        Hearing(Transcript("", [Word("a", 0, 1, 1.0)]), np.ones(16000), 0.25),
    ]
    html = comparison_page([recognizer, recognizer], hearings, texts=ENGLISH)
    assert html.count("asr-differs") == 1 and ENGLISH["different"] in html
    assert "mean confidence: 75.0 %" in html and "mean confidence: 100.0 %" in html
    assert "0.500 s, 2 times faster" in html and "0.250 s, 4 times faster" in html
    assert ENGLISH["same"] in comparison_page([recognizer, recognizer], hearings[:1] * 2, texts=ENGLISH)


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("missing_audio", lambda path: None),
        ("unreadable", lambda path: path.write_text("no recording")),
        ("silent", lambda path: soundfile.write(path, np.zeros(16000), 16000)),
        ("too_long", lambda path: soundfile.write(path, np.ones(301 * 8000), 8000)),
    ],
)
def test_what_cannot_be_heard_is_refused_with_its_reason(recognizer, tmp_path, key, make):
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(RefusedError) as error:
        hear(recognizer, str(path) if path.exists() else None, use_denoise=False)
    assert error.value.key == key


def test_damage_is_shown_above_what_was_heard(recognizer, speech, tmp_path):
    (tmp_path / "cut.wav").write_bytes(speech.read_bytes()[:-16000])
    hearing = hear(recognizer, str(tmp_path / "cut.wav"), use_denoise=False)
    assert hearing.notes[0].startswith("truncated")
    page = result_page(hearing, recognizer, name="a", texts=ENGLISH)
    assert hearing.notes[0] in page and hearing.notes[0] in comparison_page(
        [recognizer] * 2, [hearing] * 2, texts=ENGLISH
    )
    assert not hear(recognizer, str(speech), use_denoise=False).notes


def test_denoising_is_what_the_recogniser_hears(recognizer, speech):
    plain, denoised = (hear(recognizer, str(speech), use_denoise=wanted).waveform for wanted in (False, True))
    np.testing.assert_array_equal(denoised, denoise(plain, sampling_rate=16000))
    assert not np.array_equal(plain, denoised)


def test_a_checkpoint_that_denoises_is_not_denoised_twice(recognizer, speech, monkeypatch):
    monkeypatch.setattr(recognizer.processor.feature_extractor, "denoise", True)
    waveform = hear(recognizer, str(speech), use_denoise=True).waveform
    np.testing.assert_array_equal(waveform, soundfile.read(speech, dtype="float32")[0])


def test_examples_are_in_the_languages_that_the_vocabulary_spells(processor, tmp_path):
    examples = make_examples(processor, tmp_path)  # its characters: English, and too few for Mandarin
    assert len(examples) == 2 and all(sentence.isascii() for _, sentence in examples)
    assert all(soundfile.info(file).duration > 1 for file, _ in examples)


def test_without_espeak_there_are_no_examples(processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert make_examples(processor, tmp_path) == []


def test_both_languages_say_everything():
    assert ENGLISH.keys() == CHINESE.keys()
    for key, text in ENGLISH.items():
        assert re.findall(r"{.*?}", text) == re.findall(r"{.*?}", CHINESE[key]), key


@pytest.mark.parametrize(
    ("accepted", "texts"), [("zh-CN,zh;q=0.9,en;q=0.8", CHINESE), ("zh-TW", CHINESE), ("de,en", ENGLISH), ("", ENGLISH)]
)
def test_the_language_is_the_browsers(accepted, texts):
    assert language_texts(SimpleNamespace(headers={"accept-language": accepted})) is texts


def test_the_page_asks_nobody_else_for_anything(served):
    answer = httpx.get(served.address)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == OwnSourcesOnly.POLICY.decode()
    assert "http" not in OwnSourcesOnly.POLICY.decode()
    fetched = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="([^"]+)"', answer.text)
    assert fetched and not [url for url in fetched if url.startswith(("http", "//"))]


def write_with_av(path, codec: str) -> None:
    waveform = np.sin(np.arange(48000) / 20).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(stream.format, layout="mono", rate=48000, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def test_any_format_is_transcribed_without_ffmpeg(served, speech, tmp_path):
    client = Client(served.address, verbose=False)
    soundfile.write(tmp_path / "a.mp3", *soundfile.read(speech))
    write_with_av(tmp_path / "a.m4a", "aac")
    write_with_av(tmp_path / "a.webm", "libopus")
    for path in (speech, tmp_path / "a.mp3", tmp_path / "a.m4a", tmp_path / "a.webm"):
        text, page = client.predict(handle_file(path), False, api_name="/transcribe")
        assert isinstance(text, str) and "<svg" in page, path.name
    assert served.connected <= {"127.0.0.1", "localhost", "::1"}


def test_a_second_checkpoint_is_named_on_the_page(served, checkpoint, speech):
    client = Client(served.address, verbose=False)
    page = client.predict(handle_file(speech), False, str(checkpoint), api_name="/compare")
    assert page.count("<h4>") == 2 and ENGLISH["same"] in page
    page = client.predict(handle_file(speech), False, "/nowhere/at/all", api_name="/compare")
    assert "/nowhere/at/all does not exist" in page
    assert ENGLISH["missing_second"] in client.predict(handle_file(speech), False, " ", api_name="/compare")


def test_a_page_for_others_compares_with_the_given_checkpoint_alone(recognizer):
    def inputs(page) -> dict:
        return {fn.api_name: len(fn.inputs) for fn in page.fns.values() if fn.api_name in ("transcribe", "compare")}

    assert inputs(build_demo(recognizer)) == {"transcribe": 2}
    assert inputs(build_demo(recognizer, second=recognizer)) == {"transcribe": 2, "compare": 2}
    assert inputs(build_demo(recognizer, may_choose_second=True)) == {"transcribe": 2, "compare": 3}


def test_the_page_starts_behind_a_proxy_and_other_hosts_keep_it(recognizer, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet.example, 10.0.0.0/8")
    page = build_demo(recognizer)
    try:
        assert httpx.get(launch(page, host="127.0.0.1", port=None, block=False)).status_code == 200
    finally:
        page.close(verbose=False)
    for name in ("no_proxy", "NO_PROXY"):
        assert os.environ[name].split(",") == ["intranet.example", "10.0.0.0/8", "127.0.0.1", "localhost", "::1"]
    assert urllib.request.proxy_bypass("localhost") and not urllib.request.proxy_bypass("huggingface.co")


def test_uploads_are_bounded_together_and_in_all(served, monkeypatch):
    def upload(count: int, size: int) -> int:
        files = [("files", (f"{i}.wav", bytes(size))) for i in range(count)]
        return httpx.post(f"{served.address}gradio_api/upload", files=files, timeout=60).status_code

    monkeypatch.setattr(demo, "MAX_STORED_BYTES", 50_000_000)
    assert upload(1, 1_000_000) == 200
    assert upload(1, 70_000_000) == 413 and upload(3, 30_000_000) == 413  # each of them would be small enough
    assert upload(2, 26_000_000) == 200 and upload(1, 10) == 503


@pytest.fixture
def app(repository, tmp_path, monkeypatch):
    """The module app.py, in an empty folder and without a Space's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_ASR_MODEL", "SPACE_ID", "SYSTEM"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("app", repository / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checkpoint_is_the_argument_the_variable_or_the_quickstart(app, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="give --model_name_or_path, or set HF_ASR_MODEL"):
        app.parse([])
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "config.json").touch()
    assert app.parse([]).model_name_or_path == "runs/quickstart"
    monkeypatch.setenv("HF_ASR_MODEL", "owner/name")
    assert app.parse([]).model_name_or_path == "owner/name"
    assert app.parse(["--model_name_or_path", "mine"]).model_name_or_path == "mine"


def test_other_machines_see_it_on_a_space_alone(app, monkeypatch):
    assert app.parse(["--model_name_or_path", "m"]).host == "127.0.0.1"
    monkeypatch.setenv("SPACE_ID", "owner/demo")
    assert app.parse(["--model_name_or_path", "m"]).host == "0.0.0.0"


def test_mistakes_are_one_line(app, checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="error: .* is no checkpoint"):
        app.main(["--model_name_or_path", str(tmp_path)])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match="error: .*port"):
            app.main(["--model_name_or_path", str(checkpoint), "--port", str(taken.getsockname()[1])])


def test_recordings_are_deleted_when_the_service_is_terminated(repository, checkpoint, speech, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--model_name_or_path", str(checkpoint), "--port", str(port)]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    client = Client(f"http://127.0.0.1:{port}", verbose=False)
                    break
                except (httpx.HTTPError, OSError):
                    time.sleep(0.2)
            client.predict(handle_file(speech), False, api_name="/transcribe")
            assert list(tmp_path.rglob("*.wav"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list(tmp_path.rglob("*.wav"))
