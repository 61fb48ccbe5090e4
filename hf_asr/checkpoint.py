"""Loading a checkpoint: model and processor together."""

from pathlib import Path

import torch
from transformers import AutoModelForCTC, AutoProcessor, PreTrainedModel, ProcessorMixin

from . import model as _registers_our_classes  # noqa: F401


def load_checkpoint(
    model_name_or_path: str, *, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Model in evaluation mode on `device` (CUDA where there is one), and its processor.

    Raises:
        ValueError: A local folder that is no checkpoint, or is not there.
    """
    path = Path(model_name_or_path)
    if not path.exists() and (path.is_absolute() or model_name_or_path.startswith(".") or len(path.parts) > 2):
        raise ValueError(f"{path} does not exist")  # a Hub id has one slash at most
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path} is no checkpoint: it has no config.json (a training run's folder has one at its end)")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCTC.from_pretrained(model_name_or_path).to(device).eval()
    return model, AutoProcessor.from_pretrained(model_name_or_path)
