"""The server under load, beside a plain Flask app as in the article, and under abuse.

    python benchmarks/serving.py --model_name_or_path runs/quickstart --dataset_name runs/quickstart-corpus
    python benchmarks/serving.py … --soak_seconds 120      # 64 clients; errors and memory
    python benchmarks/serving.py … --malformed 10000       # broken uploads; what may not come back is a 500

The same recordings, the same model, closed-loop clients (each sends its next request when it has its answer) from this
machine, whose cores they share with the server: report the ratios. Each server is a process of its own, one at a time.
The Flask app is the article's: it decodes and runs the model in the request (`pip install flask`).
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
import psutil
import soundfile

from hf_asr.data.sources import load_source, read_row

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
    """What clients saw."""

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
    """A server as a child process, with what it uses."""

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
    """`clients` at a time for so long; a 503 is waited out as Retry-After says."""
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
    """Recordings as wav files in memory, and their seconds."""
    bodies = []
    for row in load_source(dataset_name, split=split).select(range(count)):
        waveform, target = read_row(row, sampling_rate=16000), io.BytesIO()
        soundfile.write(target, waveform, 16000, format="WAV")
        bodies.append((target.getvalue(), len(waveform) / 16000))
    return bodies


def measure(args: argparse.Namespace, bodies: list[tuple[bytes, float]], flask_app: Path) -> None:
    serve = [sys.executable, "scripts/serve.py", "--model_name_or_path", args.model_name_or_path, "--port", "PORT"]
    commands = {
        "ours": serve,
        "ours, no batching": [*serve, "--max_batch_seconds", "0"],
        "plain Flask": [sys.executable, str(flask_app), args.model_name_or_path, "PORT"],
    }
    if args.graph:
        commands["ours, int8 graph"] = [part.replace(args.model_name_or_path, args.graph) for part in serve]
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
    server = Server(
        [sys.executable, "scripts/serve.py", "--model_name_or_path", args.model_name_or_path, "--port", "PORT"]
    )
    asyncio.run(load(server.url, bodies, clients=64, seconds=10))
    print(f"before: {server.usage()}")
    for part in range(1, 5):
        result = asyncio.run(load(server.url, bodies, clients=64, seconds=args.soak_seconds / 4))
        print(f"64 clients, {part * args.soak_seconds / 4:g} s: {server.usage()}, {result.describe()}", flush=True)
    server.stop()


# Abuse


def malformed(pick: random.Random, wav: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a request that is wrong in one of many ways."""
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
    """Begins an upload, then goes away, or dawdles until the server has enough of it."""
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


async def abuse(args: argparse.Namespace, server: Server, wav: bytes) -> Counter:
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


def misuse(args: argparse.Namespace, wav: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # where the server would leave files
        server = Server(
            [
                *(
                    sys.executable,
                    "scripts/serve.py",
                    "--model_name_or_path",
                    args.model_name_or_path,
                    "--port",
                    "PORT",
                ),
                *("--upload_timeout_s", "3"),
            ]
        )
        before = server.usage()
        statuses = asyncio.run(abuse(args, server, wav))
        time.sleep(5)
        after, left = server.usage(), [str(path) for path in Path(folder).rglob("*")]
        works = httpx.post(f"{server.url}/transcribe", files={"audio": ("a.wav", wav)}, timeout=60).status_code
        server.stop()
    print(f"{args.malformed} malformed requests: {dict(statuses)}\nbefore {before}\nafter  {after}")
    print(f"files left: {left}; a proper request after them: {works}")
    assert works == 200 and not any(str(status).startswith("5") for status in statuses), "the server is not sound"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--graph", help="an exported graph to measure too: runs/onnx/model.int8.onnx")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak_seconds", type=float, default=0.0)
    parser.add_argument("--malformed", type=int, default=0)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    bodies = read_bodies(args.dataset_name, args.eval_split_name, 50)
    if args.malformed:
        return misuse(args, bodies[0][0])
    if args.soak_seconds:
        return soak(args, bodies)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain_app.py"
        path.write_text(FLASK_APP, encoding="utf-8")
        measure(args, bodies, path)


if __name__ == "__main__":
    main()
