"""Checkpoints and their graphs, written once per session.

Checkpoints for sherpa-onnx have its energy floor, whatever the default is.
"""

import shutil
from pathlib import Path

import pytest
import torch

from hf_asr import ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor
from hf_asr.checkpoint import load_checkpoint
from hf_asr.export import build
from hf_asr.export.graphs import EXPORTERS
from hf_asr.export.onnx import export_onnx

from .tones import save_tone_checkpoint, write_tones


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """Return a folder of recordings of tones: 40 for validation (435 letters), 8 for calibration."""
    return write_tones(tmp_path_factory.mktemp("tones") / "data", validation=40, train=8)


@pytest.fixture(scope="session")
def tone_checkpoint(tmp_path_factory) -> Path:
    return save_tone_checkpoint(tmp_path_factory.mktemp("tones") / "checkpoint")


@pytest.fixture(scope="session")
def live_tone_checkpoint(tmp_path_factory) -> Path:
    """Return a checkpoint for live audio, without a chunk size of its own."""
    chunks = {"causal_conv": True, "use_dynamic_chunk": True, "num_left_chunks": 2}
    return save_tone_checkpoint(tmp_path_factory.mktemp("tones") / "live", **chunks)


@pytest.fixture(scope="session")
def other_tone_checkpoint(tmp_path_factory) -> Path:
    """Return a checkpoint like `tone_checkpoint` with other weights."""
    return save_tone_checkpoint(tmp_path_factory.mktemp("tones") / "other", seed=1)


@pytest.fixture(scope="session")
def silent_checkpoint(tone_checkpoint, tmp_path_factory) -> Path:
    """Return `tone_checkpoint` with the blank as the best token of every frame: every transcript is empty."""
    model, processor = load_checkpoint(str(tone_checkpoint), device="cpu")
    with torch.no_grad():
        model.ctc_head.bias[0] += 100.0
    return saved(model, processor, tmp_path_factory.mktemp("silent"))


@pytest.fixture(scope="session")
def talkative(checkpoint, tmp_path_factory) -> Path:
    """Return the tiny checkpoint with an unlikely blank: every recording has a transcript, a random one."""
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    torch.manual_seed(3)
    torch.nn.init.normal_(model.ctc_head.weight, std=1.0)
    # A trained model never writes <unk> or <sos/eos>, which sherpa-onnx would print.
    model.ctc_head.bias.data[1:3] = -100.0
    processor = ConformerProcessor(ConformerFeatureExtractor(energy_floor=128.0), processor.tokenizer)
    return saved(model, processor, tmp_path_factory.mktemp("talkative"))


def saved(model: ConformerForCTC, processor: ConformerProcessor, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def graphs(checkpoint, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    paths = {name: folder / f"{name}.onnx" for name in EXPORTERS if not name.endswith("streaming")}
    for name, path in paths.items():
        export_onnx(model, processor.feature_extractor, path, exporter=name)
    return paths


@pytest.fixture(scope="session")
def exported_before(tmp_path_factory) -> dict[tuple, Path]:
    return {}


@pytest.fixture
def quick_export(monkeypatch, exported_before, tmp_path_factory) -> None:
    """Make the command trace each set of weights once; afterwards it copies the file of the first time."""

    def export(model, extractor, path: Path, **options) -> None:
        weights = model.ctc_head.weight
        chunks = (model.config.chunk_size, model.config.num_left_chunks)
        key = (options["exporter"], *chunks, weights.dtype, weights.sum().item(), model.ctc_head.bias.sum().item())
        if key not in exported_before:
            export_onnx(model, extractor, path, **options)
            exported_before[key] = Path(shutil.copy(path, tmp_path_factory.mktemp("traced")))
        else:
            shutil.copy(exported_before[key], path)

    monkeypatch.setattr(build, "export_onnx", export)
