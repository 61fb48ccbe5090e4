import json

import pytest

from hf_asr.export.providers import choose_providers, open_session, tensorrt_options, tensorrt_profile

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "tensorrt_profile.json"
    path.write_text(json.dumps(tensorrt_profile(80)))
    return path


def names(providers):
    return [provider if isinstance(provider, str) else provider[0] for provider in providers]


def test_tensorrt_then_cuda_then_cpu(profile):
    everything = [CPU, CUDA, TENSORRT, "AzureExecutionProvider"]
    assert names(choose_providers("auto", available=everything, profile=profile)) == [TENSORRT, CUDA, CPU]
    assert names(choose_providers("tensorrt", available=everything)) == [TENSORRT, CUDA, CPU]
    assert names(choose_providers("cuda", available=everything, profile=profile)) == [CUDA, CPU]


def test_auto_takes_what_there_is(profile):
    assert names(choose_providers("auto", available=[CPU], profile=profile)) == [CPU]
    assert names(choose_providers("auto", available=[CPU, CUDA, TENSORRT])) == [CUDA, CPU]  # no shapes to build for


def test_what_is_asked_for_and_missing_is_told():
    with pytest.raises(ValueError, match="tensorrt needs an NVIDIA GPU and onnxruntime-gpu"):
        choose_providers("tensorrt", available=[CPU])
    with pytest.raises(ValueError, match="provider is auto"):
        choose_providers("npu", available=[CPU])


def test_the_profile_as_the_provider_reads_it(profile):
    options = tensorrt_options(profile)
    assert options["trt_profile_min_shapes"] == "input_features:1x50x80,attention_mask:1x50"
    assert options["trt_profile_max_shapes"] == "input_features:16x3000x80,attention_mask:16x3000"
    assert options["trt_engine_cache_path"] == str(profile.parent / "tensorrt_engine")


def test_a_session_falls_back_to_the_cpu_and_tells(graphs, caplog):
    caplog.set_level("INFO", logger="hf_asr")
    (graphs["onnx"].parent / "tensorrt_profile.json").write_text(json.dumps(tensorrt_profile(80)))
    try:
        session = open_session(graphs["onnx"])
    finally:
        (graphs["onnx"].parent / "tensorrt_profile.json").unlink()
    assert session.get_providers()[-1] == CPU
    assert "runs on" in caplog.text


def test_a_file_that_is_no_graph_is_one_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"model\.onnx: onnxruntime cannot load it"):
        open_session(tmp_path / "model.onnx")
