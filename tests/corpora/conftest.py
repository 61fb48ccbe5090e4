"""A web server whose connections break."""

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping

import pytest


class Server:
    """A web server of files.

    Attributes:
        url: Its address.
        cuts: For each of the next answers, the bytes after which the connection is closed.
        ranges: The Range header of each request.
        knows_ranges: Answer a Range header with that part of the file.
    """

    def __init__(self, files: Mapping[str, bytes]):
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.ranges.append(wanted)
                wanted = wanted if outer.knows_ranges else None
                content = files.get(self.path.strip("/"))
                first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                if content is None or first >= len(content):
                    self.send_response(404 if content is None else 416)
                    self.send_header("Content-Range", f"bytes */{len(content or b'')}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(content) - first))
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                self.wfile.write(content[first:][: outer.cuts.pop(0) if outer.cuts else None])
                self.close_connection = True

            def log_message(self, *args) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch):
    """A context manager that serves {name: content} and yields the `Server`; tries again follow without a pause."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # What is received of a block is lost with its connection; usually a block has 10 MB.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)

    @contextlib.contextmanager
    def run(files: Mapping[str, bytes]) -> Iterator[Server]:
        server = Server(files)
        try:
            yield server
        finally:
            server.server.shutdown()
            server.server.server_close()

    return run
