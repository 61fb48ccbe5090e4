"""A graph as a model: which graphs are loaded, and the chunks of one for live audio."""

import pickle
from pathlib import Path

import pytest
import torch

from hf_asr.checkpoint import load_checkpoint
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer, load
from hf_asr.export.onnx import export_onnx
from hf_asr.runtime.ort_model import OrtConformerForCTC


def write(recognizer: Recognizer, folder: Path, name: str, *, exporter: str) -> None:
    """Write a graph in chunks of 4 frames, beside the configuration of a checkpoint without chunks."""
    model, processor = recognizer.model, recognizer.processor
    export_onnx(model, processor.feature_extractor, folder / name, exporter=exporter)
    model.config.chunk_size = model.config.num_left_chunks = -1
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.slow
def test_the_chunks_of_a_streaming_graph_replace_those_of_the_configuration(streaming_recognizer, tmp_path):
    write(streaming_recognizer, tmp_path, "model-streaming.onnx", exporter="onnx-streaming")
    model, _ = load_checkpoint(str(tmp_path))
    assert model.takes_cache and (model.config.chunk_size, model.config.num_left_chunks) == (4, 3)
    # A graph of whole recordings beside it is preferred.
    write(streaming_recognizer, tmp_path, "model.onnx", exporter="onnx")
    model, _ = load_checkpoint(str(tmp_path))
    assert not model.takes_cache and model.config.chunk_size == -1
    output = model(torch.zeros(1, 50, 80))
    assert output.logits.shape[:2] == (1, 11) and output.cache is None
    with pytest.raises(ValueError, match="model.onnx is an exported graph, which has its own precision"):
        load(tmp_path, arguments=DecodingArguments(dtype="bfloat16"))


@pytest.mark.slow
def test_a_pickled_graph_is_opened_again(checkpoint, tmp_path):
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    export_onnx(model, processor.feature_extractor, tmp_path / "model.onnx")
    graph = OrtConformerForCTC.from_pretrained(checkpoint, file_name=tmp_path / "model.onnx", provider="cpu", threads=2)
    opened, features = pickle.loads(pickle.dumps(graph)), torch.randn(1, 50, 80)
    assert torch.equal(opened(features).logits, graph(features).logits)
    assert opened.model.get_session_options().intra_op_num_threads == 2


@pytest.mark.slow
def test_a_graph_with_other_inputs_is_refused(streaming_recognizer, tmp_path):
    write(streaming_recognizer, tmp_path, "model-streaming.onnx", exporter="sherpa-onnx-streaming")
    with pytest.raises(ValueError, match="takes x, offset, .* not features: give a graph of --target onnx"):
        load_checkpoint(str(tmp_path))
