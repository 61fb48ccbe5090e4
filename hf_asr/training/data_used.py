"""Write and read data_arguments.json: which data a run was scored on, with their paths on this machine.

training.json names the same data without paths, for the public. This file is for later commands on the same machine and
is never uploaded.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path

import datasets

from ..files import DATA_ARGUMENTS, write_text
from ..provenance import public_name
from .arguments import DataArguments
from .splits import load_splits

# Arguments that decide which rows are scored
SELECTION_ARGUMENTS = ("speaker_column_name", "exclude_speakers", "held_out_share", "streaming")


def write_data_arguments(output_dir: str | Path, data_args: DataArguments, *, seed: int) -> None:
    """Write what `validation_rows` needs into the folder of a run."""
    sources = [asdict(source) | {"name": _absolute(source.name), "weight": 1} for source in data_args.sources()]
    values = {"dataset_name": sources} | {name: getattr(data_args, name) for name in SELECTION_ARGUMENTS}
    text = json.dumps({"arguments": values, "seed": seed}, ensure_ascii=False, indent=2) + "\n"
    write_text(Path(output_dir) / DATA_ARGUMENTS, text)


def validation_rows(checkpoint: str | Path) -> tuple[datasets.Dataset, str] | None:
    """Return the rows that a run was scored on and a description of them; None if the run did not record them.

    Args:
        checkpoint: The folder of a run, or one of the checkpoints in it.

    Raises:
        ValueError: The data no longer exist, or the file is damaged.
    """
    folder = Path(checkpoint)
    paths = [place / DATA_ARGUMENTS for place in (folder, folder.parent) if (place / DATA_ARGUMENTS).is_file()]
    if not folder.is_dir() or not paths:
        return None
    try:
        recorded = json.loads(paths[0].read_text(encoding="utf-8"))
        data_args = DataArguments(**recorded["arguments"])
        seed = int(recorded["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{paths[0]} is damaged: {error!r}") from error
    names = ", ".join(public_name(source.name) for source in data_args.sources())
    return load_splits(data_args, seed=seed).evaluation, f"the validation data of its training ({names})"


def _absolute(name: str) -> str:
    """Return a local path as an absolute path, and a Hub id unchanged."""
    path = Path(name).expanduser()
    is_hub_id = not path.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    return name if is_hub_id else str(path.absolute())
