"""Save with a checkpoint how far each process has read a stream, so that a resumed training goes on there."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ..files import write_text
from .arguments import ConformerTrainingArguments

logger = logging.getLogger("hf_asr")


def save_place(checkpoint: Path, states: Sequence[dict], args: ConformerTrainingArguments) -> None:
    """Write stream-RANK.json: the last state of each dataloader worker of this process (see `StreamedBatches`)."""
    write_text(_file(checkpoint, args), json.dumps(_division(args) | {"states": list(states)}) + "\n")


def load_place(checkpoint: Path, args: ConformerTrainingArguments) -> list[dict]:
    """Return the states that `save_place` wrote; none if the stream has to be read from its start.

    Raises:
        ValueError: The stream was divided in another way.
    """
    if args.ignore_data_skip:
        return []
    if not list(checkpoint.glob("stream-*.json")):
        logger.info(f"{checkpoint} does not contain the place in the stream: it is read again from its start")
        return []
    file = _file(checkpoint, args)
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    before = saved or json.loads(next(checkpoint.glob("stream-*.json")).read_text(encoding="utf-8"))
    changed = {name: before[name] for name, value in _division(args).items() if before[name] != value}
    if changed:
        wanted = ", ".join(f"{name} {value}" for name, value in changed.items())
        raise ValueError(
            f"{checkpoint}: the stream was read with {wanted}: resume with the same, or with ignore_data_skip true, "
            "which reads the stream from its start"
        )
    return saved["states"]


def _file(checkpoint: Path, args: ConformerTrainingArguments) -> Path:
    return checkpoint / f"stream-{args.process_index}.json"


def _division(args: ConformerTrainingArguments) -> dict[str, int]:
    """Return what divides the stream into the batches of a step."""
    return {
        "processes": args.world_size,
        "dataloader_num_workers": args.dataloader_num_workers,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }
