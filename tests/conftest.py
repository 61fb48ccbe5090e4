"""Fixtures: a small spoken corpus, a tiny checkpoint, several processes, and a stand-in for the Hub."""

import contextlib
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

# Tests run in several processes, see pyproject.toml. Each of them, with what it starts, has its own cores: threads that
# wait for one another in a loop would take the cores of the other one. Before torch is imported, which reads both once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity") and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= count:
        os.sched_setaffinity(0, cores[number::count])

import psutil
import pytest
import torch

from hf_asr import (
    ConformerConfig,
    ConformerFeatureExtractor,
    ConformerForCTC,
    ConformerProcessor,
    ConformerTokenizer,
)
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus
from hf_asr.decoding.recognizer import Recognizer

# absl, which other libraries import, would close the stream in which pytest captures the output: uvicorn ends all
# handlers of logging, and absl's closes its stream, unless that is a stream of the process.
with contextlib.suppress(ImportError):
    import absl.logging

    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "subsampling_channels": 8,
    "apply_spec_augment": False,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
}


def pytest_collection_modifyitems(items) -> None:
    """Mark tests that start several processes as slow, and begin with the files of slow tests.

    Otherwise one of them is the last one, and the other process of the test run waits for it.
    """
    for item in items:
        if "torchrun" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """An audiofolder: 40 training and 8 validation sentences in Mandarin and English."""
    return make_corpus(
        tmp_path_factory.mktemp("corpus") / "spoken",
        SyntheticCorpusArguments(train_sentences=40, validation_sentences=8, seed=1),
    )


@pytest.fixture(scope="session")
def recording(corpus) -> Path:
    """One of its files."""
    return min((corpus / "validation").rglob("*.flac"))


@pytest.fixture(scope="session")
def processor() -> ConformerProcessor:
    texts = ["the quick brown fox jumps over the lazy dog's tail", "把空调调到二十六度"]
    return ConformerProcessor(
        ConformerFeatureExtractor(), ConformerTokenizer.from_texts(texts, text_normalization="zh-en")
    )


@pytest.fixture
def tiny_model(processor) -> ConformerForCTC:
    torch.manual_seed(0)
    return ConformerForCTC(ConformerConfig(**TINY, vocab_size=len(processor.tokenizer))).eval()


@pytest.fixture(scope="session")
def checkpoint(processor, tmp_path_factory) -> Path:
    """A checkpoint folder with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    ConformerForCTC(ConformerConfig(**TINY, vocab_size=len(processor.tokenizer))).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def torchrun(tmp_path_factory):
    """A function that runs a script in several processes and returns their (stdout, stderr).

    Each process writes to its own files. They are shown if a process fails or `timeout` seconds have passed.
    """

    def run(*command, processes: int, timeout: float = 300, **environment: str) -> tuple[str, str]:
        __tracebackhide__ = True
        logs = tmp_path_factory.mktemp("processes")
        launcher = [sys.executable, *map(str, command)]
        if processes > 1:
            options = ["--standalone", f"--nproc_per_node={processes}", f"--log-dir={logs}", "--redirects=3"]
            launcher[1:1] = ["-m", "torch.distributed.run", *options]
        environment = os.environ | {"PYTHONFAULTHANDLER": "1", "TORCH_SHOW_CPP_STACKTRACES": "1"} | environment
        with open(logs / "launcher.log", "w") as log:
            process = subprocess.Popen(launcher, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                code: int | str = process.wait(timeout)
            except subprocess.TimeoutExpired:
                code = f"nothing within {timeout} s"
                parent = psutil.Process(process.pid)
                for hanging in [*parent.children(recursive=True), parent]:
                    hanging.send_signal(signal.SIGABRT)  # which Python's fault handler answers with all stacks
                process.wait()
        outputs = [
            "".join(path.read_text(errors="replace") for path in sorted(logs.rglob(f"*/{name}.log")))
            for name in ("stdout", "stderr")
        ]
        if code != 0:
            shown = [f"== {path}\n{path.read_text(errors='replace')[-6000:]}" for path in sorted(logs.rglob("*.log"))]
            pytest.fail(f"{processes} processes ended with {code}:\n" + "\n".join(shown))
        return outputs[0], outputs[1]

    return run


@pytest.fixture
def fake_hub():
    """A context manager that serves {dataset id: folder} as the Hub would, and yields the address for HF_ENDPOINT."""

    @contextlib.contextmanager
    def serve(repositories: dict[str, Path]):
        handler = type("Handler", (HubHandler,), {"repositories": repositories})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()

    return serve


COMMIT = "0" * 40


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The requests of huggingface_hub that reading a dataset makes."""

    repositories: dict[str, Path] = {}

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        is_api, parts = parts[0] == "api", parts[1:] if parts[0] == "api" else parts
        name, rest = "/".join(parts[1:3]), parts[3:]
        if parts[0] != "datasets" or name not in self.repositories:
            self.respond(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif not is_api:  # resolve/REVISION/FILE
            self.send_file(self.repositories[name].joinpath(*rest[2:]))
        elif rest[:1] == ["tree"]:
            self.send_tree(self.repositories[name], rest[2:], is_deep="recursive=true" in url.query.lower())
        else:
            self.send_info(name)

    do_HEAD = do_GET

    def do_POST(self) -> None:  # paths-info
        parts = [urllib.parse.unquote(part) for part in self.path.strip("/").split("/")]
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        root = self.repositories["/".join(parts[2:4])]
        paths = json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body)["paths"]
        self.send_json([self.entry(root, root / path) for path in paths if (root / path).exists()])

    def send_file(self, path: Path) -> None:
        if not path.is_file():
            return self.respond(404, b"", {"X-Error-Code": "EntryNotFound"})
        body, status = path.read_bytes(), 200
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            whole, status = len(body), 206
            body = body[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{whole}"
        self.respond(status, body, headers)

    def send_tree(self, root: Path, parts: list[str], *, is_deep: bool) -> None:
        folder = root.joinpath(*parts)
        if not folder.is_dir():
            return self.respond(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        found = sorted(folder.rglob("*") if is_deep else folder.iterdir())
        self.send_json([self.entry(root, path) for path in found])

    def send_info(self, name: str) -> None:
        root = self.repositories[name]
        files = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
        info = {"id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": []}
        self.send_json(info | {"siblings": [{"rfilename": file} for file in files]})

    def entry(self, root: Path, path: Path) -> dict:
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": COMMIT, "size": 0}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}

    def send_json(self, value) -> None:
        self.respond(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def streaming_recognizer(processor) -> Recognizer:
    """A recogniser with a random model that streams, whose text depends on the audio."""
    torch.manual_seed(0)
    chunks = {"causal_conv": True, "conv_kernel_size": 8, "use_dynamic_chunk": True}
    chunks |= {"chunk_size": 4, "num_left_chunks": 3}
    config = TINY | chunks | {"num_hidden_layers": 2, "vocab_size": len(processor.tokenizer)}
    model = ConformerForCTC(ConformerConfig(**config))
    features = processor(0.1 * torch.randn(80000), sampling_rate=16000)["input_features"][0]
    with torch.no_grad():
        model.encoder.feature_mean.copy_(features.mean(0))
        model.encoder.feature_istd.copy_(1 / features.std(0))
        model.ctc_head.weight.mul_(4)
        model.ctc_head.bias[0] = 3  # some blanks
    return Recognizer(model, processor)
