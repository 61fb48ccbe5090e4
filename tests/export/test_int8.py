"""A convolution of several channels becomes a matrix product, so that it is quantised; it computes the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from hf_asr import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC
from hf_asr.export.int8 import convolutions_to_products, quantize_int8
from hf_asr.export.onnx import export_onnx

from ..conftest import TINY


def log_probs(path, frames: int) -> np.ndarray:
    features = np.random.default_rng(0).normal(0, 3, (2, frames, 80)).astype(np.float32)
    mask = (np.arange(frames) < np.array([[frames], [frames - 5]])).astype(np.int64)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_features": features, "attention_mask": mask})[0]


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 2, (17, 39)), (5, 3, (20, 39)), (3, 1, (3, 3)), (2, 2, (9, 8))]
)
def test_the_product_of_a_convolution_is_the_same(tmp_path, kernel, stride, size):
    convolution = torch.nn.Conv2d(3, 5, kernel, stride)
    weights = [numpy_helper.from_array(value.detach().numpy(), name) for name, value in convolution.named_parameters()]
    names = {"x": ["batch", 3, "time", "bins"], "y": ["batch", 5, "time2", "bins2"]}
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes) for name, axes in names.items())
    node = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], name="conv", strides=[stride, stride])
    graph = helper.make_graph([node], "graph", [x], [y], weights)
    convolutions_to_products(graph)
    assert "Conv" not in {node.op_type for node in graph.node}
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(proto)
    source = torch.randn(2, 3, *size)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": source.numpy()})
    np.testing.assert_allclose(found, convolution(source).detach().numpy(), atol=1e-5)


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
