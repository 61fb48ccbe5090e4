"""Write training.json: how the weights were trained, for the model card and for reproducing the run."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState

from ..files import TRAINING, write_text
from ..provenance import artifacts_sha256, hardware, public_name, weights_sha256
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments

PACKAGES = ("hf_asr", "torch", "transformers", "accelerate", "datasets", "tokenizers")
# Training arguments that a reader of the model card looks for
RECIPE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_batch_seconds",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "regularization_start",
    "regularization_ramp_steps",
    "ema_decay",
    "average_checkpoints",
    "seed",
)


def training_record(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: ConformerTrainingArguments,
    state: TrainerState,
    *,
    scored: dict[str, Any],
    durations: list[float] | None,
    is_resumed: bool,
    synthetic_speech: dict[str, Any] | None = None,
    plateau_left_at: int | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Return the content of training.json.

    Args:
        scored: Rows that were scored: `dataset`, `dataset_config`, `split` and `selection` of metrics.json.
        durations: Seconds of each training utterance; None for a stream, whose utterances are not counted.
        synthetic_speech: With `warm_start`, how much of it there is and what share of the batches it was.
        plateau_left_at: Optimiser step at which CTC's plateau was left; None if it was not.
        command: Command line that started the run; None if it was not started from a command line.
    """
    # The data that the best checkpoint was chosen on: scores on them are optimistic.
    chosen_on = scored if args.load_best_model_at_end else None
    recipe = {name: getattr(args, name) for name in RECIPE}
    recipe |= {"model": model_args.model, "lora": model_args.lora}
    recipe |= {name: _without_paths(getattr(data_args, name)) for name in ("augmentations", "warm_start")}
    given = {name: getattr(data_args, name) for name in ("concatenation", "splicing")}
    recipe |= {name: value for name, value in given.items() if value is not None}
    return {
        "command": command,
        "base_model": model_args.model_name_or_path and public_name(model_args.model_name_or_path),
        "datasets": [
            {"name": public_name(source.name), "config": source.config_name, "split": source.train_split_name}
            for source in data_args.sources()
        ],
        "synthetic_corpus": data_args.synthetic_corpus,
        "synthetic_speech": synthetic_speech,
        "chosen_on": chosen_on,
        "replayed": data_args.replay_dataset_name and public_name(data_args.replay_dataset_name),
        "utterances": None if durations is None else len(durations),
        "hours": None if durations is None else round(sum(durations) / 3600, 4),
        "steps": state.global_step,
        "plateau_left_at_step": plateau_left_at,
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
    """Write training.json into the folder of the run."""
    text = json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n"
    write_text(Path(output_dir) / TRAINING, text)


def _without_paths(value: Any) -> Any:
    """Return a value in whose mappings and lists existing local paths are reduced to their last component."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return public_name(value) if isinstance(value, str) and os.path.exists(value) else value


def train_seconds(log_history: list[dict]) -> float:
    """Return the seconds that training took; of a resumed run, since it was resumed."""
    found = (entry["train_runtime"] for entry in reversed(log_history) if "train_runtime" in entry)
    return round(next(found, 0.0), 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
