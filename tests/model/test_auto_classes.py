"""transformers' Auto classes load a checkpoint folder, with hf_asr installed or with trust_remote_code alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC, AutoProcessor, pipeline

WAVEFORM = np.random.default_rng(0).normal(0, 0.1, 16000 * 3).astype(np.float32)
WITHOUT_HF_ASR = """
import sys
sys.modules["hf_asr"] = None  # `import hf_asr` now fails, as if it was not installed
try:
    import hf_asr
    raise SystemExit("hf_asr was imported")
except ImportError:
    pass
import numpy as np, torch
from transformers import AutoModel, AutoModelForCTC, AutoProcessor, pipeline
folder, waveform = sys.argv[1], np.load(sys.argv[2])
model = AutoModelForCTC.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.inference_mode():
    inputs = processor(waveform, sampling_rate=16000)
    logits = model(**inputs).logits
    states = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**inputs).last_hidden_state
recognizer = pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)
np.savez(sys.argv[3], logits=logits.numpy(), states=states.numpy(), text=recognizer(waveform)["text"])
"""


@pytest.fixture(scope="module")
def recognizer(checkpoint):
    return pipeline("automatic-speech-recognition", model=str(checkpoint))


@pytest.mark.slow
def test_trust_remote_code_without_hf_asr_gives_equal_logits(checkpoint, recognizer, tmp_path):
    np.save(tmp_path / "waveform.npy", WAVEFORM)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HF_ASR, checkpoint, tmp_path / "waveform.npy", tmp_path / "out.npz"],
        cwd=tmp_path,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = np.load(tmp_path / "out.npz")
    model = AutoModelForCTC.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        expected = model(**processor(WAVEFORM, sampling_rate=16000), output_hidden_states=True)
    np.testing.assert_array_equal(result["logits"], expected.logits.numpy())
    np.testing.assert_array_equal(result["states"], expected.hidden_states[-1].numpy())
    assert str(result["text"]) == recognizer(WAVEFORM)["text"]


@pytest.mark.parametrize("timestamps", ["char", "word"])
def test_pipeline_in_chunks_returns_ascending_timestamps(recognizer, timestamps):
    output = recognizer(WAVEFORM, chunk_length_s=1, stride_length_s=0.2, return_timestamps=timestamps)
    assert output["text"]
    starts, ends = zip(*(chunk["timestamp"] for chunk in output["chunks"]), strict=True)
    assert list(starts) == sorted(starts) and max(ends) <= 3.1
    if timestamps == "char":
        assert "".join(chunk["text"] for chunk in output["chunks"]) == output["text"]
