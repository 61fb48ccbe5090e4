"""Create optimiser groups with a learning rate per layer."""

import re

from torch import nn

from ..families import is_head_parameter

LAYER = re.compile(r"\.layers\.(\d+)\.")


def parameter_groups(
    model: nn.Module, *, decayed: set[str], learning_rate: float, weight_decay: float, layer_lr_decay: float
) -> list[dict]:
    """Return optimiser groups in which lower encoder layers learn more slowly (Howard and Ruder 2018).

    Each encoder layer has `layer_lr_decay` times the rate of the layer above it, and subsampling, before the first
    layer, has `layer_lr_decay` times the rate of that layer. Heads, the decoder and the final norm have the full rate.

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
