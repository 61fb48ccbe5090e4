"""training.json: how a run came to its weights, for its card and for whoever wants to run it again."""

import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState

from ..files import write_text
from ..provenance import artifacts_sha256, hardware, public_name, weights_sha256
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments

FILE_NAME = "training.json"
PACKAGES = ("hf_asr", "torch", "transformers", "accelerate", "datasets", "tokenizers")
RECIPE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_batch_seconds",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "ema_decay",
    "average_checkpoints",
    "seed",
)  # of the training arguments, those that a reader of a card asks about


def training_record(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
    state: TrainerState,
    *,
    scored: dict[str, Any],
    durations: list[float] | None,
    is_resumed: bool,
) -> dict[str, Any]:
    """
    Args:
        scored: Which rows the scores are of: `dataset`, `dataset_config`, `split` and `selection` of metrics.json.
        durations: Seconds of each utterance trained on; None of a stream, which nobody counted.
    """
    # The data that picked the best of the checkpoints: scores on them flatter.
    chosen_on = scored if args.load_best_model_at_end else None
    recipe = {name: getattr(args, name) for name in RECIPE}
    recipe |= {"model": model_args.model, "lora": model_args.lora}
    recipe["augmentations"] = _without_paths(data_args.augmentations)
    return {
        "command": command_line(),
        "base_model": model_args.model_name_or_path and public_name(model_args.model_name_or_path),
        "datasets": [
            {"name": public_name(source.name), "config": source.config_name, "split": source.train_split_name}
            for source in data_args.sources()
        ],
        "synthetic_corpus": data_args.synthetic_corpus,
        "chosen_on": chosen_on,
        "replayed": data_args.replay_dataset_name and public_name(data_args.replay_dataset_name),
        "utterances": None if durations is None else len(durations),
        "hours": None if durations is None else round(sum(durations) / 3600, 4),
        "steps": state.global_step,
        "epochs": None if state.epoch is None else round(state.epoch, 2),
        "seconds": train_seconds(state.log_history),
        "resumed": is_resumed,
        "hardware": hardware(args.device),
        "processes": args.world_size,
        "precision": args.precision,
        "recipe": recipe,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "model_sha256": weights_sha256(args.output_dir),
        "artifacts_sha256": artifacts_sha256(args.output_dir),
    }


def write_record(output_dir: str | Path, record: dict[str, Any]) -> None:
    """Into the folder of the run."""
    text = json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n"
    write_text(Path(output_dir) / FILE_NAME, text)


def command_line() -> str:
    """What started this process, as somebody would type it; secrets and where things lie left out."""
    program = Path(sys.argv[0])
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        launcher = "accelerate launch " if "ACCELERATE_MIXED_PRECISION" in os.environ else "torchrun "
        processes = int(os.environ.get("WORLD_SIZE", 1))
        name = "--num_processes" if launcher.startswith("accelerate") else "--nproc_per_node"
        launcher += f"{name} {processes} " if processes > 1 else ""
    else:
        launcher = "python " if program.suffix == ".py" else ""
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    elif program.suffix != ".py":
        program = Path(program.name)  # hf-asr, wherever it is installed
    words = shlex.join([str(program), *sys.argv[1:]])
    words = re.sub(r"(--[\w-]*token)([ =])\S+", r"\1\2…", words)
    return launcher + re.sub(r"(?<![\w~./])(?:/[^\s/'\"]+)+/([^\s/'\"]+)", r"\1", words)


def _without_paths(value: Any) -> Any:
    """Of what lies on this machine, in mappings and lists, the last part of its path."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return public_name(value) if isinstance(value, str) and os.path.exists(value) else value


def train_seconds(log_history: list[dict]) -> float:
    """Of the last part, if the run was resumed."""
    found = (entry["train_runtime"] for entry in reversed(log_history) if "train_runtime" in entry)
    return round(next(found, 0.0), 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
