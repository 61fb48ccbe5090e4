"""What is taken out of a file before it leaves this machine: transcripts, names and paths."""

import io
import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

CONFIGURATIONS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
PEOPLE = {"--exclude_speakers", "--speakers"}  # arguments whose values are names
ELSEWHERE = {"--hub_model_id"}  # arguments whose values are never on this machine
WRITTEN_HERE = ("configs/", "scripts/")  # folders that everybody has who has hf_asr
LEFT_OUT = "…"


def public_configuration(content: bytes) -> bytes:
    """Return a checkpoint's JSON without the entries that say where it lay; as it is if there are none."""
    found = json.loads(content)
    kept = _without_places(found)
    return content if kept == found else (json.dumps(kept, ensure_ascii=False, indent=2) + "\n").encode()


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items() if not (_is_text(item) and _is_place(item))}
    return [_without_places(item) for item in value] if isinstance(value, list) else value


def public_figures(value: Any) -> Any:
    """Return what a command of ours wrote as JSON, with the last part of each path alone."""
    if isinstance(value, dict):
        return {key: public_figures(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public_figures(item) for item in value]
    return _last(value) if _is_text(value) and _is_place(value) else value


def public_training(record: dict[str, Any]) -> dict[str, Any]:
    """Return training.json for everybody: its recipe and command without paths and without names of speakers."""
    names = [record.get("base_model"), record.get("replayed"), *(item.get("name") for item in record["datasets"])]
    ids = {name for name in names if name and "/" in name}
    public = public_figures(record)
    public.pop("artifacts_sha256", None)  # of no use to anybody else
    public["recipe"] = _without_folders(record["recipe"], ids)
    public["command"] = public_command(record["command"], ids)
    return public


def public_command(command: str, ids: Collection[str] = ()) -> str:
    """Return a command line that starts the same training elsewhere, once the data are there.

    Args:
        ids: Names with a slash that are ids of the Hub.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation mark without its other
        words = command.split()
    public, argument = [], ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if name:  # argparse takes hyphens as well
            argument = "--" + name[2:].replace("-", "_")
        if name and not equals:
            public.append(name)
        else:
            public.append(name + equals + _public_word(value, argument, ids))
    return " ".join(word if word.endswith(LEFT_OUT) else shlex.quote(word) for word in public)


def _public_word(value: str, argument: str, ids: Collection[str]) -> str:
    if argument in PEOPLE or argument.endswith("token"):
        return LEFT_OUT
    if argument in ELSEWHERE or (value.startswith(WRITTEN_HERE) and ".." not in value):
        return value
    if value.startswith(("{", "[")):
        try:
            inner = _without_folders(yaml.safe_load(value), ids)
        except yaml.YAMLError:
            return LEFT_OUT
        return yaml.safe_dump(inner, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False).strip()
    return _without_folders(value, ids)


def _without_folders(value: Any, ids: Collection[str]) -> Any:
    """The last part of whatever may be a path, relative ones as well."""
    if isinstance(value, dict):
        return {key: _without_folders(item, ids) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item, ids) for item in value]
    is_path = _is_text(value) and value not in ids and (re.search(r"[/\\]", value) or _is_place(value))
    return _last(value) if is_path else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_place(text: str) -> bool:
    """Whether it is a path that does not depend on where one is."""
    return re.match(r"/[^/]|~[\w-]*[/\\]|[A-Za-z]:[/\\]|\\\\", text) is not None


def _last(path: str) -> str:
    return PureWindowsPath(path).name or LEFT_OUT  # which knows both kinds of slashes


def public_graphs(report: list[dict[str, Any]]) -> dict[str, Any]:
    """Return export_report.json of the graphs that go: figures, and what each was made for and tried on."""
    words = ("file", "target", "provider", "tried_on", "model_sha256", "quantize", "precision", "reason")
    graphs = [
        {name: value for name, value in graph.items() if name in words or not isinstance(value, str | list | dict)}
        for graph in report
    ]
    return {"graphs": public_figures(graphs)}


def public_graph(path: Path) -> bytes:
    """Return an ONNX graph without the source files, lines and notes that the exporter keeps with each node.

    What the model itself says (`metadata_props` of sherpa-onnx) stays.

    Raises:
        ValueError: It is no ONNX graph.
        ImportError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"{path}: its notes are taken out by onnx: pip install hf_asr[export] ({error})") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is no ONNX graph: {error}") from error
    notes = list(model.metadata_props)
    _clear_notes(model)
    model.metadata_props.extend(notes)
    return model.SerializeToString()


def _clear_notes(message: Any) -> None:
    """Of a message and of all inside it."""
    names = {field.name for field in message.DESCRIPTOR.fields}
    for name in names & {"doc_string", "metadata_props"}:
        message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if isinstance(value, list) or hasattr(value, "add") else [value]:
                _clear_notes(inner)


def public_log(path: Path) -> bytes | None:
    """Return a TensorBoard log's curves, None if it holds none.

    Its texts, which stay here, hold every argument of the run and the folders among them.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    file, has_curve = io.BytesIO(), False
    writer = RecordWriter(file)
    try:
        events = [Event.FromString(data) for data in RawEventFileLoader(str(path)).Load()]
    except Exception:  # whatever a damaged log makes TensorBoard raise
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
