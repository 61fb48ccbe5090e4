import os
import re
import urllib.request

import av
import httpx
import numpy as np
import soundfile
from gradio_client import Client, handle_file

from hf_asr.serving.demo import build_demo, launch, server
from hf_asr.serving.demo.server import ContentSecurityPolicy


def test_page_loads_nothing_from_other_servers(served):
    answer = httpx.get(served.address)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == ContentSecurityPolicy.POLICY.decode()
    assert "http" not in ContentSecurityPolicy.POLICY.decode()
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


def test_formats_are_transcribed_without_ffmpeg(served, speech, tmp_path):
    client = Client(served.address, verbose=False)
    soundfile.write(tmp_path / "a.mp3", *soundfile.read(speech))
    write_with_av(tmp_path / "a.m4a", "aac")
    write_with_av(tmp_path / "a.webm", "libopus")
    for path in (speech, tmp_path / "a.mp3", tmp_path / "a.m4a", tmp_path / "a.webm"):
        text, page = client.predict(handle_file(path), False, api_name="/transcribe")
        assert isinstance(text, str) and "<svg" in page, path.name
    assert served.connected <= {"127.0.0.1", "localhost", "::1"}


def test_page_starts_behind_a_proxy_and_keeps_exempt_hosts(recognizer, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no server listens there
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


def test_uploads_are_limited_per_request_and_in_total(served, monkeypatch):
    def upload(count: int, size: int) -> int:
        files = [("files", (f"{i}.wav", bytes(size))) for i in range(count)]
        return httpx.post(f"{served.address}gradio_api/upload", files=files, timeout=60).status_code

    monkeypatch.setattr(server, "MAX_STORED_BYTES", 50_000_000)
    assert upload(1, 1_000_000) == 200
    assert upload(1, 70_000_000) == 413 and upload(3, 30_000_000) == 413  # each file alone is small enough
    assert upload(2, 26_000_000) == 200 and upload(1, 10) == 503
