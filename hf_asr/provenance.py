"""Identify what a measurement was made on: weights, data and machine. metrics.json records it beside the results."""

import hashlib
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from .files import CURVES, LOGS, WEIGHTS


def measured_on(
    model_name_or_path: str | Path,
    dataset_names: Sequence[str],
    *,
    decoding: str,
    config_name: str | None = None,
    device: str | torch.device,
) -> dict:
    """Return what identifies an evaluation: a model card is written only from evaluations of its own weights.

    Args:
        decoding: Name of the decoder.
        device: Where the model computed.
    """
    return {
        "decoding": decoding,
        "dataset": ", ".join(public_name(name) for name in dataset_names),
        "dataset_config": config_name,
        "hardware": hardware(device),
        "model_sha256": weights_sha256(model_name_or_path),
    }


def weights_sha256(folder: str | Path) -> str | None:
    """Return the SHA-256 digest of a checkpoint's model.safetensors; None for a Hub id, a graph or shards."""
    path = Path(folder) / WEIGHTS
    return file_sha256(path) if path.is_file() else None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifacts_sha256(folder: str | Path) -> list[str]:
    """Return the SHA-256 digests of the curves and logs of a run; training.json ties them to its weights.

    Names are left out, because the names of the logs contain the name of the machine.
    """
    folder = Path(folder)
    return [file_sha256(path) for path in sorted([*folder.glob(CURVES), *folder.glob(LOGS)])]


def public_name(name: str) -> str:
    """Return a name safe to publish: Hub ids unchanged, local paths reduced to their last component."""
    is_hub_id = not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    return name if is_hub_id else Path(name).resolve().name


def hardware(device: str | torch.device) -> str:
    """Return the name of the processor that computes, and of a CPU the number of threads."""
    device = torch.device(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
    name = getattr(
        getattr(torch, device.type, None), "get_device_name", None
    )  # cuda, xpu and npu have it; mps does not
    return name(device) if name else f"{_cpu_name()} ({device.type})"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
