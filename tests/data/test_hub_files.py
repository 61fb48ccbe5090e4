"""Check that repositories of recordings load without FFmpeg, at once and as a stream without downloading all audio."""

import os
import subprocess
import sys

import pytest

from .test_shards import tar

# Runs in a separate process with a fake Hub, because the address of the Hub is read at import.
CODE = """
import pathlib, sys
from hf_asr.data.sources import Source, read_row

sys.modules["torchcodec"] = None
for name in ("someone/recordings", "someone/shards", "someone/pairs"):
    for streaming in (True, False):
        assert Source(name).split_names(streaming=streaming) == ["dev", "train"], (name, Source(name).split_names())
        downloaded = [path for path in pathlib.Path(sys.argv[1]).rglob("*") if path.suffix in (".wav", ".tar")]
        is_here = any(name.replace("/", "--") in str(path) for path in downloaded)
        assert is_here == (not streaming or name == "someone/pairs")
        for split, count in (("train", 2), ("dev", 1)):
            rows = list(Source(name).load(split, streaming=streaming))
            assert [row["text"] for row in rows] == ["one", "two"][:count], rows
            assert [len(read_row(row, sampling_rate=16000)) for row in rows] == [1600, 3200][:count]
try:
    Source("someone/nothing").split_names()
except ValueError as error:
    assert "neither a local path nor a dataset on the Hub" in str(error)
else:
    raise AssertionError
"""


@pytest.fixture
def repositories(folder):
    recordings, shards, pairs = (folder / name for name in ("recordings", "shards", "pairs"))
    wav = {name: (folder / f"{name}.wav").read_bytes() for name in "ab"}
    shards.mkdir()
    tar(shards / "dev-0.tar", {"1.wav": wav["a"], "1.txt": b"one"})
    tar(shards / "train-0.tar", {"1.wav": wav["a"], "1.txt": b"one"})
    tar(shards / "train-1.tar", {"2.txt": b"two", "2.wav": wav["b"]})
    for split, names in (("train", "ab"), ("dev", "a")):
        (recordings / "data" / split / "clips").mkdir(parents=True)
        (pairs / split).mkdir(parents=True)
        lines = ["file_name,transcription"]
        for name, text in zip(names, ("one", "two"), strict=False):
            (recordings / "data" / split / "clips" / f"{name} 1.wav").write_bytes(wav[name])
            lines.append(f"clips/{name} 1.wav,{text}")
            (pairs / split / f"{name}.wav").write_bytes(wav[name])
            (pairs / split / f"{name}.txt").write_text(text)
        (recordings / "data" / split / "metadata.csv").write_text("\n".join(lines))
    return {"someone/recordings": recordings, "someone/shards": shards, "someone/pairs": pairs}


def test_recordings_shards_and_pairs_on_the_hub_are_read(repositories, fake_hub, tmp_path):
    with fake_hub(repositories) as endpoint:
        more = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment = os.environ | more | {"HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", CODE, str(tmp_path / "home")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
