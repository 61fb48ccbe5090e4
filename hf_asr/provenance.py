"""What a measurement is of: which weights, which data, which machine. metrics.json says so beside its figures."""

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
    """What identifies an evaluation; a card is only written from one of the very weights that it describes."""
    return {
        "decoding": decoding,
        "dataset": ", ".join(public_name(name) for name in dataset_names),
        "dataset_config": config_name,
        "hardware": hardware(device),
        "model_sha256": weights_sha256(model_name_or_path),
    }


def weights_sha256(folder: str | Path) -> str | None:
    """Of a checkpoint's model.safetensors; None where there is no such file (a Hub id, a graph, shards)."""
    path = Path(folder) / WEIGHTS
    return file_sha256(path) if path.is_file() else None


def file_sha256(path: Path) -> str:
    """Return the digest of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifacts_sha256(folder: str | Path) -> list[str]:
    """Return the digests of the curves and logs of a run, which training.json ties to its weights.

    No names: those of the logs hold the name of the machine.
    """
    folder = Path(folder)
    return [file_sha256(path) for path in sorted([*folder.glob(CURVES), *folder.glob(LOGS)])]


def public_name(name: str) -> str:
    """A Hub id as it is; of what lies on this machine the last part, without a slash: where is nobody else's matter."""
    is_hub_id = not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    return name if is_hub_id else Path(name).resolve().name


def hardware(device: str | torch.device) -> str:
    """Name the processor that computed; of a CPU, with how many threads.

    `torch.cuda` is asked about CUDA devices alone: it raises wherever there is none.
    """
    device = torch.device(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
    name = getattr(getattr(torch, device.type, None), "get_device_name", None)  # of cuda, xpu and npu; mps has none
    return name(device) if name else f"{_cpu_name()} ({device.type})"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
