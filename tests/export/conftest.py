"""Graphs of the tiny checkpoint, written once."""

from pathlib import Path

import pytest

from hf_asr.checkpoint import load_checkpoint
from hf_asr.export.graphs import EXPORTERS
from hf_asr.export.onnx import export_onnx


@pytest.fixture(scope="session")
def graphs(checkpoint, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    paths = {name: folder / f"{name}.onnx" for name in EXPORTERS}
    for name, path in paths.items():
        export_onnx(model, processor.feature_extractor, path, exporter=name)
    return paths
