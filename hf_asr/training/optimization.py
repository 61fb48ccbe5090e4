"""What is trained at which rate: layer-wise learning rates, frozen steps, low-rank adapters; the largest batch."""

import logging
import re
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from ..families import is_head_parameter
from .devices import is_out_of_memory

logger = logging.getLogger("hf_asr")

LAYER = re.compile(r"\.layers\.(\d+)\.")


def parameter_groups(
    model: nn.Module, *, decayed: set[str], learning_rate: float, weight_decay: float, layer_lr_decay: float
) -> list[dict]:
    """Optimiser groups: each encoder layer learns at `layer_lr_decay` times the rate of the one above it, what lies
    under the first layer once more; heads and what else there is at the full rate.

    Args:
        decayed: Names of the parameters with weight decay.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    depths = [int(match[1]) for name, _ in named if "decoder." not in name and (match := LAYER.search(name))]
    top = max(depths, default=-1) + 1
    groups: dict[tuple[int, bool], dict] = {}
    for name, value in named:
        layer = None if "decoder." in name else LAYER.search(name)
        if layer:
            below = top - int(layer[1])
        else:
            below = 0 if is_head_parameter(name) or "decoder." in name or "final_norm" in name else top + 1
        group = groups.setdefault(
            (below, name in decayed),
            {
                "params": [],
                "lr": learning_rate * layer_lr_decay**below,
                "weight_decay": weight_decay if name in decayed else 0.0,
            },
        )
        group["params"].append(value)
    return list(groups.values())


class FreezeEncoder(TrainerCallback):
    """Trains the head alone for the first `steps`: gradients of the rest are dropped, its weights stay bit by bit."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step < self.steps:
            for name, parameter in model.named_parameters():
                if not is_head_parameter(name):
                    parameter.grad = None


def add_lora(model: PreTrainedModel, options: dict) -> nn.Module:
    """Low-rank adapters (Hu et al. 2021) on all linear layers of the encoder, the head trained whole.

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


def find_batch_seconds(
    try_batch: Callable[[float], None], *, longest: float, limit: float = 3600.0, margin: float = 0.9
) -> float:
    """The largest `max_batch_seconds` whose batch fits, found by doubling and then halving the step to 5 %.

    Args:
        try_batch: Runs a step on a batch of so many seconds; raises an error of no memory if it does not fit.
        longest: Seconds of the longest utterance, a batch of which has to fit.
        margin: Share of what fit that is used: other batches fragment the memory differently.

    Raises:
        ValueError: Not even the longest utterance fits.
    """

    def fits(seconds: float) -> bool:
        try:
            try_batch(seconds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
        return True

    if not fits(longest):
        raise ValueError(
            f"a batch of one utterance of {longest:.1f} s does not fit: lower --max_duration_seconds, or "
            "--gradient_checkpointing true"
        )
    good, bad = longest, 2 * longest
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit)
    while bad / good > 1.05:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return max(longest, margin * good)
