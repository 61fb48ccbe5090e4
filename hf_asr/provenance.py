"""What a measurement is of: which weights, which data, which machine. metrics.json says so beside its figures."""

import hashlib
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

WEIGHTS = "model.safetensors"


def measured_on(
    model_name_or_path: str | Path,
    dataset_names: Sequence[str],
    *,
    config_name: str | None = None,
    device: str | torch.device,
) -> dict:
    """What identifies an evaluation; a card is only written from one of the very weights that it describes."""
    return {
        "decoding": "greedy",
        "dataset": ", ".join(public_name(name) for name in dataset_names),
        "dataset_config": config_name,
        "hardware": hardware(device),
        "model_sha256": weights_sha256(model_name_or_path),
    }


def weights_sha256(folder: str | Path) -> str | None:
    """Of a checkpoint's model.safetensors; None where there is no such file (a Hub id, a graph, shards)."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def public_name(name: str) -> str:
    """A Hub id as it is; of what lies on this machine the last part, without a slash: where is nobody else's matter."""
    is_hub_id = not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    return name if is_hub_id else Path(name).resolve().name


def hardware(device: str | torch.device) -> str:
    """The processor that computed, and with how many threads if it is a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
