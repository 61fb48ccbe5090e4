"""Two replicas of the same application behind one address."""

import json
import os
import socket
import subprocess
import sys

import pytest

from hf_asr.data.audio import read_audio
from hf_asr.decoding.recognizer import recognize

SCRIPT = """
import concurrent.futures, json, sys, time, urllib.request
import ray
from ray import serve
from hf_asr.serving.ray_serve import build

def post(path):
    body = b'--B\\r\\nContent-Disposition: form-data; name="audio"; filename="a"\\r\\n\\r\\n'
    body += open(path, "rb").read() + b"\\r\\n--B--\\r\\n"
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    request = urllib.request.Request("http://127.0.0.1:%d/transcribe" % port, body, headers)
    return json.load(urllib.request.urlopen(request, timeout=120))["text"]

checkpoint, path, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(build({"model_name_or_path": checkpoint, "min_replicas": "2", "num_cpus": "0.5"}))
replicas = serve.status().applications["default"].deployments["hf_asr"].replica_states
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    texts = set(pool.map(post, [path] * 32))
print(json.dumps({"texts": sorted(texts), "running": replicas.get("RUNNING")}))
serve.shutdown()
ray.shutdown()
"""


def test_two_replicas_answer_as_one(checkpoint, parts, recording, repository, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two.py").write_text(SCRIPT)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(repository)}
    command = [sys.executable, str(tmp_path / "two.py"), str(checkpoint), str(recording), str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    expected = recognize(*parts, [read_audio(recording)])[0].text
    assert answer == {"texts": [expected], "running": 2}


def test_arguments_are_checked():
    pytest.importorskip("ray")
    from hf_asr.serving.ray_serve import build

    with pytest.raises(ValueError, match="unknown: replicas; there are: api_key"):
        build({"model_name_or_path": "M", "replicas": "2"})
    with pytest.raises(ValueError, match="model_name_or_path=M is required"):
        build({})
