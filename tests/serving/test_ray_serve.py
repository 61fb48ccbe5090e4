"""Ray Serve: two replicas of the application behind one address."""

import json
import os
import socket
import subprocess
import sys

import pytest

from hf_asr.data.audio import read_audio
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.serving.engine import EngineOptions
from hf_asr.serving.options import ServerOptions
from hf_asr.serving.ray_serve import ReplicaOptions, read_options

SCRIPT = """
import concurrent.futures, json, os, sys, time, urllib.request
if hasattr(os, "sched_setaffinity"):  # all cores: Ray starts a dozen processes, and tests/conftest.py gives us one
    os.sched_setaffinity(0, range(os.cpu_count()))
import ray
from ray import serve
from hf_asr.serving.ray_serve import build

def post(path):
    body = b'--B\\r\\nContent-Disposition: form-data; name="audio"; filename="a"\\r\\n\\r\\n'
    body += open(path, "rb").read() + b"\\r\\n--B--\\r\\n"
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    request = urllib.request.Request("http://127.0.0.1:%d/transcribe" % port, body, headers | key)
    return json.load(urllib.request.urlopen(request, timeout=120))["text"]

checkpoint, path, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(build({"model_name_or_path": checkpoint, "min_replicas": "2", "num_cpus": "0.5"}))
key = {}
try:
    post(path)
except urllib.error.HTTPError as error:
    without_key = error.code
key = {"Authorization": "Bearer secret"}
replicas = serve.status().applications["default"].deployments["hf_asr"].replica_states
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    texts = set(pool.map(post, [path] * 32))
print(json.dumps({"texts": sorted(texts), "running": replicas.get("RUNNING"), "without_key": without_key}))
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.slow
def test_two_replicas_give_the_same_text(checkpoint, parts, recording, repository, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two.py").write_text(SCRIPT)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(repository)}
    environment["HF_ASR_API_KEY"] = "secret"
    command = [sys.executable, str(tmp_path / "two.py"), str(checkpoint), str(recording), str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    expected = Recognizer(*parts).transcribe([read_audio(recording)])[0].text
    assert answer == {"texts": [expected], "running": 2, "without_key": 401}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"model_name_or_path": "M", "replicas": "2"}, "unknown arguments: replicas; known: api_key"),
        ({}, "model_name_or_path=M is required"),
        ({"model_name_or_path": "M", "min_replicas": "two"}, "min_replicas.*two"),
        ({"model_name_or_path": "M", "max_client_share": "2"}, "max_client_share must be above 0"),
    ],
)
def test_invalid_argument_is_an_error(args, message):
    with pytest.raises(ValueError, match=message):
        read_options(args)


def test_every_server_option_is_an_argument():
    args = {"model_name_or_path": "M", "max_replicas": "3", "num_gpus": "0.5", "max_upload_mb": "20"}
    args |= {"cors_origins": "https://a.example https://b.example", "max_wait_ms": "1", "api_key": "--odd key"}
    replica, server, engine = read_options(args)
    assert replica == ReplicaOptions("M", max_replicas=3, num_gpus=0.5)
    assert server == ServerOptions(
        max_upload_mb=20, cors_origins=["https://a.example", "https://b.example"], api_key="--odd key"
    )
    assert engine == EngineOptions(max_wait_ms=1)


def test_numbers_and_lists_of_a_configuration_file_are_accepted():
    args = {"model_name_or_path": "M", "max_upload_mb": 20, "cors_origins": ["https://a.example"], "api_key": None}
    assert read_options(args)[1] == ServerOptions(max_upload_mb=20, cors_origins=["https://a.example"])


def test_api_key_of_replicas_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("HF_ASR_API_KEY", "secret")
    assert read_options({"model_name_or_path": "M"})[1].api_key == "secret"
    assert read_options({"model_name_or_path": "M", "api_key": "other"})[1].api_key == "other"
