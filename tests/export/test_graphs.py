"""Graphs give PyTorch's outputs for every batch size and length."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.checkpoint import load_checkpoint
from hf_asr.export import sherpa
from hf_asr.export.check import run_graph, source_runner
from hf_asr.export.graphs import EXPORTERS, exporter_config, half_precision
from hf_asr.export.int8 import quantize_int8
from hf_asr.export.onnx import export_onnx
from hf_asr.runtime.ort_model import OrtConformerForCTC
from hf_asr.runtime.providers import open_session

RANDOM = np.random.default_rng(0)
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SHAPES = [(1, 1), (1, 51)] + [(int(RANDOM.integers(1, 6)), int(RANDOM.integers(8, 900))) for _ in range(8)]


@pytest.fixture
def model(checkpoint):
    return load_checkpoint(str(checkpoint), device="cpu")[0]


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))


def random_batch(batch: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(frames)
    features = 10 + 3 * torch.randn(batch, frames, 80, generator=generator)
    lengths = torch.randint(1, frames + 1, (batch,), generator=generator)
    lengths[0] = frames
    return features, (torch.arange(frames) < lengths[:, None]).long()


@torch.inference_mode()
def expected(model, features, mask):
    return model(features, mask).logits.log_softmax(-1).numpy()


@pytest.mark.parametrize("batch,frames", SHAPES)
def test_a_graph_of_features_equals_pytorch(graphs, model, batch, frames):
    features, mask = random_batch(batch, frames)
    (log_probs,) = run(graphs["onnx"], features, mask)
    np.testing.assert_allclose(log_probs, expected(model, features, mask), atol=1e-4)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


def test_a_graph_of_waveforms_equals_pytorch_padded_or_short(graphs, model, processor):
    waveforms = [noise(samples) for samples in (30000, 47111, 3000, 1)]
    padded = np.zeros((4, 47111), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    log_probs, lengths = run(graphs["onnx-waveform"], padded, [len(waveform) for waveform in waveforms])
    inputs = processor(waveforms, sampling_rate=16000)
    found = expected(model, **dict(zip(("features", "mask"), inputs.values(), strict=True)))
    assert lengths.tolist() == model.get_output_lengths(inputs["attention_mask"].sum(-1)).tolist()
    np.testing.assert_allclose(log_probs, found, atol=1e-3)


@pytest.mark.parametrize("name", ["onnx", "onnx-waveform", "sherpa-onnx"])
@pytest.mark.parametrize("samples", [1, 50, 320, 1600, 4800, 7984, 8000, 8016, 11200])
def test_every_graph_equals_pytorch_on_short_recordings(graphs, model, processor, name, samples):
    waveform = noise(samples)
    session = onnxruntime.InferenceSession(graphs[name], providers=["CPUExecutionProvider"])
    (found,) = run_graph(session, [waveform], model=model, processor=processor)
    exact = source_runner(model, processor)(waveform)
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"block_type": "e_branchformer"},
        {"subsampling_factor": 8, "subsampling_depthwise": True},
        {"subsampling_factor": 6, "causal_conv": True},
        {"causal_conv": True, "chunk_size": 4, "num_left_chunks": 2},
        {"position_embeddings": "absolute", "conv_norm": "batch_norm", "conv_bias": True, "scale_input": True},
        {"decoder_layers": 1},
    ],
)
def test_every_kind_of_encoder_equals_pytorch(processor, tmp_path, options):
    torch.manual_seed(0)
    config = ConformerConfig(**TINY, vocab_size=len(processor.tokenizer), **options)
    model = ConformerForCTC(config).eval()
    export_onnx(model, processor.feature_extractor, tmp_path / "m.onnx")
    for batch, frames in ((1, 2), (3, 14), (2, 333)):
        features, mask = random_batch(batch, frames)
        (log_probs,) = run(tmp_path / "m.onnx", features, mask)
        np.testing.assert_allclose(log_probs, expected(model, features, mask), atol=1e-4)


def test_silence_gives_no_nan(graphs):
    log_probs, _ = run(graphs["onnx-waveform"], np.zeros((1, 16000), np.float32), [16000])
    assert np.isfinite(log_probs).all()


def test_sherpas_graph_ignores_the_padding_of_a_batch(graphs, model, processor):
    waveforms = [noise(samples) for samples in (1600, 4800, 11200)]
    inputs = sherpa.inputs(processor.feature_extractor, waveforms)
    assert inputs["x"].shape == (3, 70, 80) and inputs["x_lens"].tolist() == [10, 30, 70]
    assert inputs["x"][0, 10:] == pytest.approx(np.log(1e-10), abs=1e-5)  # sherpa-onnx's padding
    for filling in (np.log(1e-10), 0.0, 50.0):
        for row, count in zip(inputs["x"], inputs["x_lens"], strict=True):
            row[count:] = filling
        log_probs, frames = run(graphs["sherpa-onnx"], inputs["x"], inputs["x_lens"])
        for row, count, waveform in zip(log_probs, frames, waveforms, strict=True):
            np.testing.assert_allclose(row[:count], source_runner(model, processor)(waveform), atol=1e-3)


@pytest.mark.parametrize("name", ["onnx", "onnx-waveform", "sherpa-onnx"])
def test_a_batch_equals_pytorch_on_each_recording(graphs, model, processor, name):
    waveforms = [noise(samples) for samples in (320, 30000, 4800, 47111)]
    session = onnxruntime.InferenceSession(graphs[name], providers=["CPUExecutionProvider"])
    batch = run_graph(session, waveforms, model=model, processor=processor)
    for found, waveform in zip(batch, waveforms, strict=True):
        np.testing.assert_allclose(found, source_runner(model, processor)(waveform), atol=1e-3)


LIVE = {"causal_conv": True, "chunk_size": 4, "num_left_chunks": 2, "conv_kernel_size": 8}


def live_model(processor, **options) -> ConformerForCTC:
    torch.manual_seed(0)
    return ConformerForCTC(ConformerConfig(**TINY | LIVE | options, vocab_size=len(processor.tokenizer))).eval()


def export_live(model: ConformerForCTC, processor, path) -> OrtConformerForCTC:
    export_onnx(model, processor.feature_extractor, path, exporter="onnx-streaming")
    return OrtConformerForCTC(open_session(path, provider="cpu"), model.config, path)


@torch.inference_mode()
def differences(graph: OrtConformerForCTC, model: ConformerForCTC, *, steps: int, batch: int) -> list[float]:
    """Return the differences of each step of streams, of which one begins later; the last step is shorter."""
    caches, found = [model.encoder.empty_cache(batch)] * 2, []
    for step in range(steps):
        features, mask = random_batch(batch, model.encoder.frames_of_step())
        mask = mask if step == steps - 1 else torch.ones_like(mask)
        if step == steps // 2:
            caches = [cache._replace(offset=cache.offset * torch.tensor([1] * (batch - 1) + [0])) for cache in caches]
        outputs = [side(features, mask, cache=cache) for side, cache in zip((graph, model), caches, strict=True)]
        log_probs = [output.logits.log_softmax(-1) for output in outputs]
        caches = [output.cache for output in outputs]
        is_real = torch.arange(log_probs[1].shape[1]) < model.get_output_lengths(mask.sum(-1))[:, None]
        found.append(float((log_probs[0] - log_probs[1])[is_real].abs().max()))
    assert (caches[0].offset == caches[1].offset).all() and len(set(caches[0].offset.tolist())) == 2
    return found


def test_a_step_equals_pytorch_over_a_hundred_chunks_of_streams_at_other_places(processor, tmp_path):
    model = live_model(processor, num_hidden_layers=2)
    graph = export_live(model, processor, tmp_path / "m.onnx")
    assert max(differences(graph, model, steps=100, batch=3)) < 1e-4
    features, mask = random_batch(3, 500)  # a whole recording is one step
    with torch.inference_mode():
        found, exact = (side(features, mask) for side in (graph, model))
    torch.testing.assert_close(found.logits, exact.logits.log_softmax(-1), rtol=0, atol=1e-4)
    assert found.cache is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"num_left_chunks": 0},
        {"chunk_size": 1, "num_left_chunks": 1},
        {"subsampling_factor": 6, "subsampling_depthwise": True, "chunk_size": 3},
        {"position_embeddings": "absolute", "conv_norm": "batch_norm", "conv_bias": True, "scale_input": True},
    ],
)
def test_every_kind_of_encoder_equals_pytorch_in_steps(processor, tmp_path, options):
    model = live_model(processor, **options)
    graph = export_live(model, processor, tmp_path / "m.onnx")
    assert max(differences(graph, model, steps=7, batch=2)) < 1e-4


def test_the_properties_of_a_step_are_stored(processor, tmp_path):
    graph = export_live(live_model(processor), processor, tmp_path / "m.onnx")
    properties = graph.model.get_modelmeta().custom_metadata_map
    assert properties == {
        "chunk_size": "4",
        "num_left_chunks": "2",
        "frames_of_step": "19",
        "frames_between_steps": "16",
    }
    assert [value.shape[:2] for value in graph.model.get_inputs()[:2]] == [["batch", "frames"]] * 2


@pytest.mark.slow
def test_a_step_in_float16_or_int8_is_close_to_float32(processor, tmp_path):
    model = live_model(processor)
    export_live(model, processor, tmp_path / "m.onnx")
    export_live(half_precision(model), processor, tmp_path / "m.fp16.onnx")
    quantize_int8(tmp_path / "m.onnx", tmp_path / "m.int8.onnx")
    for name in ("m.fp16.onnx", "m.int8.onnx"):
        session = open_session(tmp_path / name, provider="cpu")
        graph = OrtConformerForCTC(session, model.config, tmp_path / name)
        assert 1e-5 < max(differences(graph, model, steps=20, batch=2)) < 0.3


@pytest.mark.slow
def test_float16_equals_pytorch_within_its_precision(graphs, model, processor, tmp_path):
    export_onnx(half_precision(model), processor.feature_extractor, tmp_path / "half.onnx")
    features, mask = random_batch(2, 300)
    (log_probs,) = run(tmp_path / "half.onnx", features, mask)
    found = expected(model, features, mask)
    real = model.get_output_lengths(mask.sum(-1))
    for row, other, length in zip(log_probs, found, real, strict=True):
        np.testing.assert_allclose(row[:length], other[:length], atol=0.05)
        assert np.abs(row[:length] - other[:length]).max() > 1e-5  # it is float16
    assert model.encoder.feature_mean.dtype == torch.float32 and next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("is_static", [False, True])
def test_int8_is_close_to_float32_and_its_weights_are_int8(graphs, model, tmp_path, is_static):
    import onnx

    features, mask = random_batch(2, 300)
    calibration = [{"input_features": features.numpy(), "attention_mask": mask.numpy()}] if is_static else None
    quantize_int8(graphs["onnx"], tmp_path / "int8.onnx", calibration=calibration)
    (log_probs,) = run(tmp_path / "int8.onnx", features, mask)
    exact, real = expected(model, features, mask), model.get_output_lengths(mask.sum(-1))
    for row, other, length in zip(log_probs, exact, real, strict=True):
        difference = np.abs(row[:length] - other[:length])
        assert 1e-5 < difference.max() < 0.3
        assert difference.max() < 0.1 * np.ptp(other[:length])  # a wrong graph would leave the range of the values
    weights = {item.name: item for item in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    matrices = [item for item in weights.values() if len(item.dims) == 2 and min(item.dims) > 1]
    is_int8 = [item.data_type == onnx.TensorProto.INT8 for item in matrices]
    assert sum(is_int8) >= 10  # one layer: two feed-forwards, attention, convolution, subsampling and head
    assert [list(item.dims) for item, quantized in zip(matrices, is_int8, strict=True) if not quantized] == []


def test_int8_leaves_the_frontend_in_float32(graphs, processor, tmp_path):
    import onnx

    quantize_int8(graphs["onnx-waveform"], tmp_path / "int8.onnx")
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    products = [node for node in nodes if node.op_type == "MatMul"]
    weights = {item.name: list(item.dims) for item in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert [257, 80] in [weights.get(node.input[1]) for node in products]
    assert sum(node.op_type == "MatMulInteger" for node in nodes) > 5
    waveform = RANDOM.normal(0, 0.1, (1, 20000)).astype(np.float32)
    exact, near = (run(path, waveform, [20000])[0] for path in (graphs["onnx-waveform"], tmp_path / "int8.onnx"))
    assert np.abs(exact - near).max() < 0.3


@pytest.mark.slow
def test_axes_have_names_and_metadata_is_stored(graphs):
    import onnx

    proto = onnx.load(graphs["sherpa-onnx"])
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", "frames", 80]
    assert {item.key: item.value for item in proto.metadata_props}["model_type"] == "zipformer2_ctc"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_attention_is_a_few_operators_and_the_model_keeps_its_kernel(processor, tmp_path, exporter):
    model = live_model(processor)
    export_onnx(model, processor.feature_extractor, tmp_path / "model.onnx", exporter=exporter)
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Softmax") == model.config.num_hidden_layers and "IsNaN" not in operators
    assert model.config._attn_implementation == "sdpa"


def test_inputs_for_tracing(model):
    config = exporter_config(model, "onnx")
    inputs = config.generate_dummy_inputs(frames=60)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "input_features": (2, 60, 80),
        "attention_mask": (2, 60),
    }
