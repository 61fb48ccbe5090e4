"""Open an exported graph with onnxruntime: choose the providers, and describe the shapes of TensorRT's engine."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch

from ..files import GRAPH

logger = logging.getLogger("hf_asr")

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
PROFILE = "tensorrt_profile.json"  # shapes of the engine of GRAPH
ENGINE = "tensorrt_engine"
# (batch, frames of 10 ms) of an engine: it takes every shape from min to max, and is fastest at opt.
SHAPES = {"min": (1, 50), "opt": (4, 1000), "max": (16, 3000)}


def tensorrt_profile(num_mel_bins: int) -> dict[str, dict[str, list[int]]]:
    """Return the shapes that an engine is built for: {"min" | "opt" | "max": {input name: shape}}."""
    return {
        size: {"input_features": [batch, frames, num_mel_bins], "attention_mask": [batch, frames]}
        for size, (batch, frames) in SHAPES.items()
    }


def choose_providers(
    wanted: str = "auto", *, available: Sequence[str] | None = None, profile: Path | None = None
) -> list[str | tuple[str, dict]]:
    """Return providers in the order in which onnxruntime tries them: TensorRT, CUDA, CPU.

    Args:
        wanted: The first provider to use: tensorrt, cuda or cpu. `auto` uses all that are available, but TensorRT only
            with a `profile`.
        available: Providers of onnxruntime; by default, those of the installed package.
        profile: File with the shapes of `tensorrt_profile`; onnxruntime stores the engine in the same folder.

    Raises:
        ValueError: The name is unknown, or this onnxruntime does not have the provider.
    """
    available = onnxruntime.get_available_providers() if available is None else available
    if wanted not in ("auto", *PROVIDERS):
        raise ValueError(f"provider is auto, {', '.join(PROVIDERS)}, not {wanted!r}")
    if wanted != "auto" and PROVIDERS[wanted] not in available:
        raise ValueError(f"{missing(wanted)}; available: {', '.join(available)}")
    order = list(PROVIDERS)[0 if wanted == "auto" else list(PROVIDERS).index(wanted) :]
    chosen: list[str | tuple[str, dict]] = []
    for name in order:
        if PROVIDERS[name] not in available or (name == "tensorrt" and wanted == "auto" and profile is None):
            continue
        if name == "tensorrt":
            chosen.append((PROVIDERS[name], tensorrt_options(profile)))
        elif name == "cuda":
            # Each length is a new shape, and the search for its fastest convolution takes longer than it saves.
            chosen.append((PROVIDERS[name], {"cudnn_conv_algo_search": "HEURISTIC"}))
        else:
            chosen.append(PROVIDERS[name])
    return chosen


def missing(name: str) -> str:
    """Return a sentence that names what a provider needs."""
    if name == "cpu":
        return "onnxruntime has no CPU provider: pip install onnxruntime"
    needs = "an NVIDIA GPU and onnxruntime-gpu (pip install onnxruntime-gpu in place of onnxruntime)"
    if name == "tensorrt":
        needs += " and TensorRT's libraries (pip install tensorrt, from a machine that reaches NVIDIA's index)"
    return f"{name} needs {needs}"


def tensorrt_options(profile: Path | None) -> dict[str, str | bool]:
    """Return options of onnxruntime's TensorRT provider: float16, the profile's shapes, the engine stored on disk."""
    options: dict[str, str | bool] = {"trt_fp16_enable": True}
    if profile is None:
        return options
    for size, shapes in json.loads(profile.read_text(encoding="utf-8")).items():
        text = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        options[f"trt_profile_{size}_shapes"] = text
    cache = str(profile.parent / ENGINE)
    return options | {"trt_engine_cache_enable": True, "trt_engine_cache_path": cache, "trt_timing_cache_enable": True}


def open_session(path: Path, *, provider: str = "auto", threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open a graph on the first provider that accepts it, and log which one that is.

    Args:
        threads: Number of threads on the CPU; by default, as many as PyTorch uses (`torch.set_num_threads`).

    Raises:
        ValueError: The file is not a graph, or the wanted provider is not available.
    """
    profile = path.parent / PROFILE
    has_profile = path.name == GRAPH and profile.is_file()
    providers = choose_providers(provider, profile=profile if has_profile else None)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Waiting threads that spin would take the cores from PyTorch, which computes the features.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime does not export its exception classes
        raise ValueError(f"{path}: onnxruntime cannot load it: {error}") from error
    used, first = session.get_providers(), providers[0] if isinstance(providers[0], str) else providers[0][0]
    if provider != "auto" and used[0] != first:
        raise ValueError(f"{first} did not start, {used[0]} would run instead: {missing(provider)}")
    logger.info(f"{path.name} runs on {used[0].removesuffix('ExecutionProvider')}")
    return session
