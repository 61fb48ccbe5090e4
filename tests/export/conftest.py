"""Checkpoints and their graphs, written once.

What goes to sherpa-onnx needs its floor of energies, whatever the default is.
"""

import shutil
from pathlib import Path

import pytest
import torch

from hf_asr import ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor
from hf_asr.checkpoint import load_checkpoint
from hf_asr.export import run as export_module
from hf_asr.export.graphs import EXPORTERS
from hf_asr.export.onnx import export_onnx

from .tones import save_tone_checkpoint, write_tones


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """Recordings of tones: 40 to validate on (435 letters), 8 to find ranges in."""
    return write_tones(tmp_path_factory.mktemp("tones") / "data", validation=40, train=8)


@pytest.fixture(scope="session")
def tone_checkpoint(tmp_path_factory) -> Path:
    return save_tone_checkpoint(tmp_path_factory.mktemp("tones") / "checkpoint")


@pytest.fixture(scope="session")
def other_tone_checkpoint(tmp_path_factory) -> Path:
    """The same with other weights."""
    return save_tone_checkpoint(tmp_path_factory.mktemp("tones") / "other", seed=1)


@pytest.fixture(scope="session")
def silent_checkpoint(tone_checkpoint, tmp_path_factory) -> Path:
    """The same with the blank as the best token of every frame: it transcribes nothing."""
    model, processor = load_checkpoint(str(tone_checkpoint), device="cpu")
    with torch.no_grad():
        model.ctc_head.bias[0] += 100.0
    return saved(model, processor, tmp_path_factory.mktemp("silent"))


@pytest.fixture(scope="session")
def talkative(checkpoint, tmp_path_factory) -> Path:
    """Random weights that say something of anything: the tiny checkpoint with its blank made unlikely."""
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    torch.manual_seed(1)
    torch.nn.init.normal_(model.ctc_head.weight, std=1.0)
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
    paths = {name: folder / f"{name}.onnx" for name in EXPORTERS}
    for name, path in paths.items():
        export_onnx(model, processor.feature_extractor, path, exporter=name)
    return paths


@pytest.fixture(scope="session")
def exported_before(tmp_path_factory) -> dict[tuple, Path]:
    return {}


@pytest.fixture
def quick_export(monkeypatch, exported_before, tmp_path_factory) -> None:
    """The command traces the same weights once: the second time it gets the file of the first."""

    def export(model, extractor, path: Path, **options) -> None:
        weights = model.ctc_head.weight
        key = (options["exporter"], weights.dtype, weights.sum().item(), model.ctc_head.bias.sum().item())
        if key not in exported_before:
            export_onnx(model, extractor, path, **options)
            exported_before[key] = Path(shutil.copy(path, tmp_path_factory.mktemp("traced")))
        else:
            shutil.copy(exported_before[key], path)

    monkeypatch.setattr(export_module, "export_onnx", export)
