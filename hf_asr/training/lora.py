"""Add low-rank adapters to a model."""

from torch import nn
from transformers import PreTrainedModel

from ..families import is_head_parameter


def add_lora(model: PreTrainedModel, options: dict) -> nn.Module:
    """Return the model with low-rank adapters (Hu et al. 2021) on all linear layers of the encoder.

    The adapters and the output head are trained; the other weights are frozen.

    Raises:
        ImportError: peft is not installed.
        ValueError: An option that LoraConfig does not have.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("lora needs peft: pip install 'hf_asr[lora]'") from error
    heads = [name for name, _ in model.named_children() if is_head_parameter(f"{name}.")]
    try:
        config = LoraConfig(**({"target_modules": "all-linear", "modules_to_save": heads} | options))
    except TypeError as error:
        raise ValueError(f"lora: {error}") from error
    return get_peft_model(model, config)
