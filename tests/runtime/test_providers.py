"""Which provider onnxruntime uses, and what happens if a wanted provider is not available."""

import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch

from hf_asr.checkpoint import load_checkpoint
from hf_asr.export.onnx import export_onnx
from hf_asr.runtime.providers import choose_providers, open_session, tensorrt_options, tensorrt_profile

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "tensorrt_profile.json"
    path.write_text(json.dumps(tensorrt_profile(80)))
    return path


@pytest.fixture(scope="module")
def graph(checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    export_onnx(model, processor.feature_extractor, path)
    return path


def names(providers):
    return [provider if isinstance(provider, str) else provider[0] for provider in providers]


def test_the_order_is_tensorrt_cuda_cpu(profile):
    everything = [CPU, CUDA, TENSORRT, "AzureExecutionProvider"]
    assert names(choose_providers("auto", available=everything, profile=profile)) == [TENSORRT, CUDA, CPU]
    assert names(choose_providers("tensorrt", available=everything)) == [TENSORRT, CUDA, CPU]
    assert names(choose_providers("cuda", available=everything, profile=profile)) == [CUDA, CPU]


def test_auto_uses_the_available_providers(profile):
    assert names(choose_providers("auto", available=[CPU], profile=profile)) == [CPU]
    assert names(choose_providers("auto", available=[CPU, CUDA, TENSORRT])) == [
        CUDA,
        CPU,
    ]  # without a profile, TensorRT has no shapes


def test_a_wanted_provider_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="tensorrt needs an NVIDIA GPU and onnxruntime-gpu"):
        choose_providers("tensorrt", available=[CPU])
    with pytest.raises(ValueError, match="provider is auto"):
        choose_providers("npu", available=[CPU])


def test_the_profile_becomes_options_of_the_provider(profile):
    options = tensorrt_options(profile)
    assert options["trt_profile_min_shapes"] == "input_features:1x50x80,attention_mask:1x50"
    assert options["trt_profile_max_shapes"] == "input_features:16x3000x80,attention_mask:16x3000"
    assert options["trt_engine_cache_path"] == str(profile.parent / "tensorrt_engine")


def test_a_session_falls_back_to_the_cpu_and_logs_it(graph, tmp_path, monkeypatch, caplog):
    """onnxruntime offers TensorRT, which does not start, as on a machine without its libraries."""
    caplog.set_level("INFO", logger="hf_asr")
    shutil.copy(graph, tmp_path / "model.onnx")
    (tmp_path / "tensorrt_profile.json").write_text(json.dumps(tensorrt_profile(80)))
    asked, start = [], onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CPU])

    def remember(path, options, providers):
        asked.append(providers)
        return start(path, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    session = open_session(tmp_path / "model.onnx")
    assert names(asked[0]) == [TENSORRT, CPU]
    assert asked[0][0][1]["trt_profile_opt_shapes"] == "input_features:4x1000x80,attention_mask:4x1000"
    assert session.get_providers() == [CPU] and "model.onnx runs on CPU" in caplog.text
    with pytest.raises(ValueError, match="TensorrtExecutionProvider did not start"):
        open_session(tmp_path / "model.onnx", provider="tensorrt")
    shutil.copy(graph, tmp_path / "model.int8.onnx")  # the profile applies to model.onnx only
    open_session(tmp_path / "model.int8.onnx")
    (tmp_path / "tensorrt_profile.json").unlink()
    open_session(tmp_path / "model.onnx")
    assert [names(providers) for providers in asked[-2:]] == [[CPU], [CPU]]


def test_a_file_that_is_not_a_graph_is_an_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"model\.onnx: onnxruntime cannot load it"):
        open_session(tmp_path / "model.onnx")


def test_a_session_has_as_many_threads_as_pytorch_unless_a_number_is_given(graph):
    def number_of_threads(**options) -> int:
        return open_session(graph, provider="cpu", **options).get_session_options().intra_op_num_threads

    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert number_of_threads() == count
    finally:
        torch.set_num_threads(before)
    assert number_of_threads(threads=1) == 1
