"""Train a tiny model in two steps, each of which is scored and saved."""

from hf_asr.cli import main

TINY_MODEL = (
    "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, subsampling_channels: 8}"
)
TINY_TRAINING = {
    "model": TINY_MODEL,
    "max_batch_seconds": 20,
    "max_steps": 2,
    "eval_steps": 1,
    "save_steps": 1,
    "dataloader_num_workers": 0,
    "precision": "fp32",
}


def command(name: str, options: dict[str, object]) -> list[str]:
    """Return the command line of a sub-command of hf-asr."""
    return [name, *(word for key, value in options.items() for word in (f"--{key}", str(value)))]


def train(**options: object) -> None:
    """Train with the options of `TINY_TRAINING` and the given ones."""
    main(command("train", TINY_TRAINING | options))
