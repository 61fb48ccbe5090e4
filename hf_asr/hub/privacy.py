"""Remove transcripts, names and paths from files before they are uploaded."""

import io
import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

CONFIGURATIONS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
PEOPLE = {"--exclude_speakers", "--speakers"}  # options whose values are names of people
NEVER_PATHS = {"--hub_model_id"}  # options whose values are never paths
REPOSITORY_FOLDERS = ("configs/", "scripts/")  # folders of the repository of hf_asr, the same on every machine
LEFT_OUT = "…"


def public_configuration(content: bytes) -> bytes:
    """Return a checkpoint's JSON without entries that are paths; unchanged if it has none."""
    found = json.loads(content)
    kept = _without_paths(found)
    return content if kept == found else (json.dumps(kept, ensure_ascii=False, indent=2) + "\n").encode()


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if not (_is_text(item) and _is_path(item))}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def public_figures(value: Any) -> Any:
    """Return JSON that a command of hf_asr wrote, with each path reduced to its last component."""
    if isinstance(value, dict):
        return {key: public_figures(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public_figures(item) for item in value]
    return _last(value) if _is_text(value) and _is_path(value) else value


def public_training(record: dict[str, Any]) -> dict[str, Any]:
    """Return a public training.json: recipe and command without paths and names of speakers."""
    names = [record.get("base_model"), record.get("replayed"), *(item.get("name") for item in record["datasets"])]
    ids = {name for name in names if name and "/" in name}
    public = public_figures(record)
    public.pop("artifacts_sha256", None)  # useful on this machine only
    public["recipe"] = _without_folders(record["recipe"], ids)
    public["command"] = record["command"] and public_command(record["command"], ids)
    return public


def public_command(command: str, ids: Collection[str] = ()) -> str:
    """Return a command line with paths reduced to their last component and without names of speakers.

    On another machine with the same data, it starts the same training.

    Args:
        ids: Names with a slash that are ids of the Hub, not paths.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an unmatched quotation mark
        words = command.split()
    public, argument = [], ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if name:  # argparse accepts hyphens as well
            argument = "--" + name[2:].replace("-", "_")
        if name and not equals:
            public.append(name)
        else:
            public.append(name + equals + _public_word(value, argument, ids))
    return " ".join(word if word.endswith(LEFT_OUT) else shlex.quote(word) for word in public)


def _public_word(value: str, argument: str, ids: Collection[str]) -> str:
    if argument in PEOPLE or argument.endswith("token"):
        return LEFT_OUT
    if argument in NEVER_PATHS or (value.startswith(REPOSITORY_FOLDERS) and ".." not in value):
        return value
    if value.startswith(("{", "[")):
        try:
            inner = _without_folders(yaml.safe_load(value), ids)
        except yaml.YAMLError:
            return LEFT_OUT
        return yaml.safe_dump(inner, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False).strip()
    return _without_folders(value, ids)


def _without_folders(value: Any, ids: Collection[str]) -> Any:
    """Reduce everything that may be a path, also a relative one, to its last component."""
    if isinstance(value, dict):
        return {key: _without_folders(item, ids) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item, ids) for item in value]
    may_be_path = _is_text(value) and value not in ids and (re.search(r"[/\\]", value) or _is_path(value))
    return _last(value) if may_be_path else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(text: str) -> bool:
    """Return whether a text is an absolute path, or one that starts from a home folder."""
    return re.match(r"/[^/]|~[\w-]*[/\\]|[A-Za-z]:[/\\]|\\\\", text) is not None


def _last(path: str) -> str:
    return PureWindowsPath(path).name or LEFT_OUT  # PureWindowsPath accepts both kinds of slashes


def public_graphs(report: list[dict[str, Any]]) -> dict[str, Any]:
    """Return export_report.json for the published graphs: figures, the target, and the data of the check."""
    words = ("file", "target", "provider", "tried_on", "model_sha256", "quantize", "precision", "reason")
    graphs = [
        {name: value for name, value in graph.items() if name in words or not isinstance(value, str | list | dict)}
        for graph in report
    ]
    return {"graphs": public_figures(graphs)}


def public_graph(path: Path) -> bytes:
    """Return an ONNX graph without the source files, lines and notes that the exporter stores with each node.

    The properties of the model as a whole, which sherpa-onnx reads, are kept.

    Raises:
        ValueError: The file is not an ONNX graph.
        ImportError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"{path}: removing its notes needs onnx: pip install 'hf_asr[export]' ({error})") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX graph: {error}") from error
    notes = list(model.metadata_props)
    _clear_notes(model)
    model.metadata_props.extend(notes)
    return model.SerializeToString()


def _clear_notes(message: Any) -> None:
    """Remove the notes of a protobuf message and of all messages inside it."""
    names = {field.name for field in message.DESCRIPTOR.fields}
    for name in names & {"doc_string", "metadata_props"}:
        message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if isinstance(value, list) or hasattr(value, "add") else [value]:
                _clear_notes(inner)


def public_log(path: Path) -> bytes | None:
    """Return a TensorBoard log with its curves only, or None if it has no curve.

    Its texts are left out, because they contain all arguments of the run, with paths.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    file, has_curve = io.BytesIO(), False
    writer = RecordWriter(file)
    try:
        events = [Event.FromString(data) for data in RawEventFileLoader(str(path)).Load()]
    except Exception:  # a damaged log makes TensorBoard raise various exceptions
        return None
    for event in events:
        public = Event(wall_time=event.wall_time, step=event.step)
        if event.HasField("file_version"):
            public.file_version = event.file_version
        elif curves := [value for value in event.summary.value if value.HasField("simple_value")]:
            values = [Summary.Value(tag=value.tag, simple_value=value.simple_value) for value in curves]
            public.summary.CopyFrom(Summary(value=values))
            has_curve = True
        else:
            continue
        writer.write(public.SerializeToString())
    return file.getvalue() if has_curve else None
