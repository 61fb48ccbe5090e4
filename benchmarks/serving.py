"""Measure the server under load, compare it with the article's plain Flask app, and send it malformed requests.

    python benchmarks/serving.py --model_name_or_path runs/quickstart --dataset_name runs/quickstart-corpus
    python benchmarks/serving.py … --soak_seconds 120      # 64 clients; errors and memory
    python benchmarks/serving.py … --malformed 10000       # broken uploads; no answer may be a 5xx
    python benchmarks/serving.py … --streams 1 20 100      # live streams, and 300 of them

All servers get the same recordings and use the same model; one server process runs at a time. Each client sends its
next request when it has its answer. The clients share the cores of this machine with the server, so report ratios, not
absolute figures. The Flask app decodes the file and runs the model in the request (`pip install flask`).
"""

import argparse
import asyncio
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import httpx
import numpy as np
import psutil
import soundfile
import websockets

from hf_asr.data.sources import Source, read_row

FLASK_APP = """
import sys, torch
from flask import Flask, jsonify, request
from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.audio import read_audio
model, processor = load_checkpoint(sys.argv[1], device="cpu")
app = Flask(__name__)
@app.route("/transcribe", methods=["POST"])
def transcribe():
    waveform = read_audio(request.files["audio"].read())
    with torch.no_grad():
        inputs = processor(waveform, sampling_rate=16000)
        ids = model(**inputs).logits.argmax(-1)[0].tolist()
    return jsonify({"text": processor.tokenizer.decode(ids)})
@app.route("/health")
def health():
    return "ok"
app.run(host="127.0.0.1", port=int(sys.argv[2]))
"""


@dataclass
class Load:
    """Latencies in seconds, statuses, and seconds of audio of a load test that lasted `elapsed` seconds."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    audio: float = 0.0
    elapsed: float = 0.0

    def describe(self) -> dict:
        ordered = sorted(self.latencies) or [float("nan")]
        at = {f"p{p}": ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] for p in (50, 95, 99)}
        rate = len(self.latencies) / self.elapsed
        return {"requests_per_s": rate, "audio_per_s": self.audio / self.elapsed, **at, "statuses": dict(self.statuses)}


class Server:
    """A server as a child process; in `command`, PORT stands for its port."""

    def __init__(self, command: list[str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [part.replace("PORT", str(self.port)) for part in command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                httpx.get(f"{self.url}/health", timeout=5)
                return
            except httpx.TransportError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended at once") from None
                time.sleep(0.2)

    def usage(self) -> dict:
        """Return memory, open files and threads of the process."""
        process = psutil.Process(self.process.pid)
        return {
            "memory_mb": process.memory_info().rss / 1e6,
            "files": process.num_fds(),
            "threads": process.num_threads(),
        }

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


async def load(url: str, bodies: list[tuple[bytes, float]], *, clients: int, seconds: float) -> Load:
    """Send requests from `clients` clients for so many seconds; after a 503, a client waits for Retry-After."""
    result, started = Load(), time.perf_counter()

    async def client(number: int) -> None:
        pick = random.Random(number)
        async with httpx.AsyncClient(timeout=120) as http:
            while time.perf_counter() - started < seconds:
                data, duration = pick.choice(bodies)
                sent = time.perf_counter()
                try:
                    answer = await http.post(f"{url}/transcribe", files={"audio": ("a.wav", data)})
                except httpx.TransportError as error:
                    result.statuses[type(error).__name__] += 1
                    continue
                result.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    result.latencies.append(time.perf_counter() - sent)
                    result.audio += duration
                elif answer.status_code == 503:
                    await asyncio.sleep(float(answer.headers["Retry-After"]))

    await asyncio.gather(*(client(number) for number in range(clients)))
    result.elapsed = time.perf_counter() - started
    return result


def read_bodies(dataset_name: str, split: str, count: int) -> list[tuple[bytes, float]]:
    """Return the first recordings of a split as wav files, with their durations in seconds."""
    bodies = []
    for row in Source(dataset_name).load(split).select(range(count)):
        waveform, target = read_row(row, sampling_rate=16000), io.BytesIO()
        soundfile.write(target, waveform, 16000, format="WAV")
        bodies.append((target.getvalue(), len(waveform) / 16000))
    return bodies


def serve_command(model_name_or_path: str) -> list[str]:
    """Return the command of our server."""
    return [sys.executable, "scripts/serve.py", "--model_name_or_path", model_name_or_path, "--port", "PORT"]


def measure(args: argparse.Namespace, bodies: list[tuple[bytes, float]], flask_app: Path) -> None:
    """Print requests per second and latencies of each server for each number of clients."""
    serve = serve_command(args.model_name_or_path)
    commands = {
        "ours": serve,
        "ours, no batching": [*serve, "--max_batch_seconds", "0"],
        "plain Flask": [sys.executable, str(flask_app), args.model_name_or_path, "PORT"],
    }
    if args.graph:
        commands["ours, int8 graph"] = serve_command(args.graph)
    results: dict[str, dict[int, list[dict]]] = {name: {n: [] for n in args.clients} for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            server = Server(command)
            asyncio.run(load(server.url, bodies, clients=4, seconds=2))
            for clients in args.clients:
                found = asyncio.run(load(server.url, bodies, clients=clients, seconds=args.seconds))
                results[name][clients].append(found.describe())
            server.stop()
    summary = {}
    for clients in args.clients:
        print(f"\n{clients} clients (medians of {args.rounds} rounds of {args.seconds:g} s)")
        plain = statistics.median(item["requests_per_s"] for item in results["plain Flask"][clients])
        for name in commands:
            items = results[name][clients]
            rate, p50, p95, p99 = (
                statistics.median(item[key] for item in items) for key in ("requests_per_s", "p50", "p95", "p99")
            )
            statuses = sum((Counter(item["statuses"]) for item in items), Counter())
            summary[f"{name}/{clients}"] = {"requests_per_s": rate, "p50": p50, "p95": p95, "p99": p99}
            print(
                f"  {name:20} {rate:7.1f} requests a second ({rate / plain:.2f} times Flask's), "
                f"p50 {p50:.3f}, p95 {p95:.3f}, p99 {p99:.3f} s, {dict(statuses)}"
            )
    print(json.dumps(summary))


def soak(args: argparse.Namespace, bodies: list[tuple[bytes, float]]) -> None:
    """Print what the server uses under a long load of 64 clients."""
    server = Server(serve_command(args.model_name_or_path))
    asyncio.run(load(server.url, bodies, clients=64, seconds=10))
    print(f"before: {server.usage()}")
    for part in range(1, 5):
        result = asyncio.run(load(server.url, bodies, clients=64, seconds=args.soak_seconds / 4))
        print(f"64 clients, {part * args.soak_seconds / 4:g} s: {server.usage()}, {result.describe()}", flush=True)
    server.stop()


# Malformed requests


def malformed(pick: random.Random, wav: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Return path, body and headers of a request with one of many faults."""
    path = pick.choice(["/transcribe", "/v1/audio/transcriptions"])
    name = "audio" if path == "/transcribe" else "file"
    audio = pick.choice(
        [
            b"",
            pick.randbytes(pick.randrange(1, 5000)),
            wav[: pick.randrange(len(wav))],
            wav[:44],
            wav[:22] + pick.randbytes(22) + wav[44:],
            b"fLaC" + pick.randbytes(500),
            b"OggS" + pick.randbytes(500),
            b"\x1aE\xdf\xa3" + pick.randbytes(500),
            b"ID3" + pick.randbytes(500),
            b"ffconcat version 1.0\nfile app.py\n",
            b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
            bytes(pick.randrange(10_000)),
        ]
    )
    filename = pick.choice(["a.wav", "../../../etc/passwd", "", "a" * 3000, "\u0000.wav", "ü.mp3"])
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
    body = head + audio + b"\r\n--B--\r\n"
    kind = pick.randrange(8)
    content_type = "multipart/form-data; boundary=B"
    if kind == 0:
        body = body[: pick.randrange(len(body))]
    elif kind == 1:
        content_type = pick.choice(["", "application/json", "multipart/form-data", "text/plain; charset=x", "\x01"])
    elif kind == 2:
        body = pick.randbytes(300)
    elif kind == 3:
        body = body.replace(name.encode(), pick.choice([b"", b"other", pick.randbytes(5).hex().encode()]))
    elif kind == 4:
        extra = b'--B\r\nContent-Disposition: form-data; name="response_format"\r\n\r\n' + pick.randbytes(20) + b"\r\n"
        body = extra + body
    elif kind == 5:
        body = head * 3 + body
    return path, body, {"Content-Type": content_type} if content_type else {}


async def slow_or_gone(port: int, pick: random.Random, wav: bytes) -> str:
    """Start an upload, then disconnect, or wait until the server ends it; return the outcome."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        f"Content-Length: {len(wav) + 500}\r\n\r\n"
    )
    writer.write(head.encode() + b'--B\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n')
    writer.write(wav[: pick.randrange(len(wav))])
    await writer.drain()
    outcome = "gone"
    if pick.random() < 0.2:
        answer = await reader.read(100)  # the server's time limit
        outcome = answer.split(b" ")[1].decode() if answer else "closed"
    writer.close()
    return outcome


async def send_malformed(args: argparse.Namespace, server: Server, wav: bytes) -> Counter:
    """Send all malformed requests from 16 clients and return the number of each status."""
    statuses, numbers = Counter(), iter(range(args.malformed))

    async def client() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            for number in numbers:
                pick = random.Random(number)
                if number % 10 == 0:
                    statuses[f"slow or gone: {await slow_or_gone(server.port, pick, wav)}"] += 1
                    continue
                path, body, headers = malformed(pick, wav)
                try:
                    answer = await http.post(f"{server.url}{path}", content=body, headers=headers)
                    statuses[answer.status_code] += 1
                except httpx.TransportError as error:
                    statuses[type(error).__name__] += 1

    await asyncio.gather(*(client() for _ in range(16)))
    return statuses


def check_robustness(args: argparse.Namespace, wav: bytes) -> None:
    """Print what malformed requests leave behind.

    Raises:
        AssertionError: A request was answered with a 5xx, or a proper request fails afterwards.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # the server would leave its files here
        server = Server([*serve_command(args.model_name_or_path), "--upload_timeout_s", "3"])
        before = server.usage()
        statuses = asyncio.run(send_malformed(args, server, wav))
        time.sleep(5)
        after, left = server.usage(), [str(path) for path in Path(folder).rglob("*")]
        works = httpx.post(f"{server.url}/transcribe", files={"audio": ("a.wav", wav)}, timeout=60).status_code
        server.stop()
    print(f"{args.malformed} malformed requests: {dict(statuses)}\nbefore {before}\nafter  {after}")
    print(f"files left: {left}; a proper request after them: {works}")
    assert works == 200 and not any(str(status).startswith("5") for status in statuses), (
        "malformed requests break the server"
    )


@dataclass
class Delays:
    """Seconds that a client of a stream waits for its first partial result, and for the end after its last sample."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    refused: int = 0


async def stream_once(url: str, pcm: bytes, delays: Delays) -> None:
    """Send a recording at the speed of speech, in pieces of 0.1 s."""
    started, first, ended = time.perf_counter(), None, float("inf")

    async def send(socket: websockets.ClientConnection) -> None:
        nonlocal ended
        for number, begin in enumerate(range(0, len(pcm), 3200), start=1):
            await asyncio.sleep(max(0.0, started + 0.1 * number - time.perf_counter()))
            await socket.send(pcm[begin : begin + 3200])
        ended = time.perf_counter()
        await socket.send('{"type": "end"}')

    try:
        async with websockets.connect(f"{url.replace('http', 'ws')}/v1/stream", compression=None) as socket:
            started = time.perf_counter()
            sending = asyncio.create_task(send(socket))
            try:
                async for message in socket:
                    kind, now = json.loads(message)["type"], time.perf_counter()
                    if first is None and kind in ("partial", "final"):
                        first = now - started
                    if kind == "done":
                        delays.last.append(now - ended)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except websockets.WebSocketException:
        delays.refused += 1
        await asyncio.sleep(1)
    delays.first += [first] if first else []


async def stream_many(url: str, bodies: list[tuple[bytes, float]], *, streams: int, seconds: float) -> Delays:
    """Keep so many streams open for so many seconds; each begins at another time, and again when it is done."""
    delays, started = Delays(), time.perf_counter()

    async def client(number: int) -> None:
        pick = random.Random(number)
        await asyncio.sleep(2 * pick.random())
        while time.perf_counter() - started < seconds:
            await stream_once(url, pick.choice(bodies)[0][44:], delays)

    await asyncio.gather(*(client(number) for number in range(streams)))
    return delays


def measure_streams(args: argparse.Namespace, bodies: list[tuple[bytes, float]]) -> None:
    """Print the delays at the client for each number of streams, then what happens above the limit."""
    command = [*serve_command(args.model_name_or_path), "--chunk_size", "16", "--num_left_chunks", "8"]
    server = Server(command)
    try:
        print("| streams | first partial p50 | p95 | final p50 | p95 | streams done | refused |")
        print("|---|---|---|---|---|---|---|")
        for streams in [*args.streams, 300]:
            delays = asyncio.run(stream_many(server.url, bodies, streams=streams, seconds=args.seconds))
            figures = [np.percentile(values or [np.nan], p) for values in (delays.first, delays.last) for p in (50, 95)]
            cells = " | ".join(f"{figure:.2f} s" for figure in figures)
            print(f"| {streams} | {cells} | {len(delays.last)} | {delays.refused} |", flush=True)
        asyncio.run(stream_many(server.url, bodies, streams=1, seconds=1))
        print("after them:", {name: round(value) for name, value in server.usage().items()})
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Checkpoint folder or Hub id.")
    parser.add_argument("--graph", help="Exported graph to measure too, such as runs/onnx/model.int8.onnx.")
    parser.add_argument("--dataset_name", required=True, help="Dataset with the recordings to send.")
    parser.add_argument("--eval_split_name", default="validation", help="Split of the dataset.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64], help="Numbers of clients.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Seconds of each measurement.")
    parser.add_argument("--rounds", type=int, default=3, help="Measurements of each server and number of clients.")
    parser.add_argument("--soak_seconds", type=float, default=0.0, help="Run only a long load of so many seconds.")
    parser.add_argument("--streams", type=int, nargs="+", help="Measure only live streams, so many at a time.")
    parser.add_argument("--malformed", type=int, default=0, help="Send only so many malformed requests.")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    bodies = read_bodies(args.dataset_name, args.eval_split_name, 50)
    if args.malformed:
        return check_robustness(args, bodies[0][0])
    if args.streams:
        return measure_streams(args, bodies)
    if args.soak_seconds:
        return soak(args, bodies)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain_app.py"
        path.write_text(FLASK_APP, encoding="utf-8")
        measure(args, bodies, path)


if __name__ == "__main__":
    main()
