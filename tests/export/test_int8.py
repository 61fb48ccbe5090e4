"""A convolution of several channels becomes a matrix product, so that it is quantised; it computes the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hf_asr import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC
from hf_asr.export.int8 import convolutions_to_products, quantize_int8
from hf_asr.export.onnx import export_onnx

from ..conftest import TINY


def log_probs(path, frames: int) -> np.ndarray:
    features = np.random.default_rng(0).normal(0, 3, (2, frames, 80)).astype(np.float32)
    mask = (np.arange(frames) < np.array([[frames], [frames - 5]])).astype(np.int64)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_features": features, "attention_mask": mask})[0]


@pytest.mark.parametrize("options", [{}, {"subsampling_factor": 6}, {"subsampling_factor": 8}])
def test_the_product_of_a_convolution_is_the_same(tmp_path, options):
    torch.manual_seed(0)
    model = ConformerForCTC(ConformerConfig(**TINY, vocab_size=9, **options)).eval()
    export_onnx(model, ConformerFeatureExtractor(), tmp_path / "graph.onnx")
    proto = onnx.load(tmp_path / "graph.onnx")
    convolutions_to_products(proto.graph)
    onnx.checker.check_model(proto)
    onnx.save(proto, tmp_path / "product.onnx")
    kernels = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(kernels) == 2, "the subsampling's first convolution has one channel, the layer's one is depthwise"
    for frames in (40, 203):
        expected, found = (log_probs(tmp_path / name, frames) for name in ("graph.onnx", "product.onnx"))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_convolutions_of_one_channel_stay_in_float(tmp_path):
    torch.manual_seed(0)
    model = ConformerForCTC(ConformerConfig(**TINY, vocab_size=9)).eval()
    export_onnx(model, ConformerFeatureExtractor(), tmp_path / "graph.onnx")
    quantize_int8(tmp_path / "graph.onnx", tmp_path / "graph.int8.onnx")
    graph = onnx.load(tmp_path / "graph.int8.onnx").graph
    weights = {weight.name: weight for weight in graph.initializer}
    channels = [weights[node.input[1]].dims[1] for node in graph.node if node.op_type == "Conv"]
    assert channels == [1, 1]
    assert np.abs(log_probs(tmp_path / "graph.int8.onnx", 90) - log_probs(tmp_path / "graph.onnx", 90)).max() < 0.2
