"""The options of decoding that `hf-asr tune-decoding` stores in a checkpoint, and that every command reads."""

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..files import DECODING, write_text
from .arguments import DEFAULTS, SearchArguments


def write_tuned(folder: Path, options: dict[str, Any], **origin: Any) -> None:
    """Write the options of a checkpoint.

    Args:
        options: The language model is the name of a file in `folder`.
        origin: How the options were found.
    """
    write_text(folder / DECODING, json.dumps({**options, **origin}, ensure_ascii=False, indent=2) + "\n")


def read_tuned(model_name_or_path: str | Path) -> dict[str, Any]:
    """Return the options of a checkpoint or of the folder of a graph, with the path of the language model.

    It is empty for a checkpoint that was not tuned.

    Raises:
        ValueError: The file is damaged, or its language model is missing.
    """
    path = _file(model_name_or_path, DECODING)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        options = {name: value for name, value in found.items() if name in DEFAULTS}
        SearchArguments(**options)  # checks them
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, or run hf-asr tune-decoding again") from error
    if options.get("language_model") is not None:
        name = Path(str(options["language_model"])).name  # a file of the checkpoint, never another path
        model = _file(model_name_or_path, name)
        if model is None:
            raise ValueError(f"{path} names the language model {name}, which is not there: copy it beside this file")
        options["language_model"] = str(model)
    return options


def _file(model_name_or_path: str | Path, name: str) -> Path | None:
    """Return the local path of a checkpoint's file, in a folder or on the Hub; None if there is none."""
    folder = Path(model_name_or_path)
    folder = folder.parent if folder.suffix == ".onnx" else folder
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.is_absolute():
        return None
    repository, subfolder = "/".join(folder.parts[:2]), "/".join(folder.parts[2:])
    found = cached_file(
        repository,
        name,
        subfolder=subfolder,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None
