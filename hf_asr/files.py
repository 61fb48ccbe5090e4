"""Find files. Names of the files that commands write, and writing them atomically: under a temporary name first."""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

# Of a checkpoint
WEIGHTS = "model.safetensors"
# Of a training run or an evaluation
METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"
REPORT = "report.html"
# Of a training run
TRAINING = "training.json"
CURVES = "curves.png"
LOGS = "runs/**/events.out.tfevents.*"  # what TensorBoard reads
DATA_REPORT = "data_report.jsonl"
DATA_REPORT_PAGE = "data_report.html"
DATA_ARGUMENTS = "data_arguments.json"
# Of the transcription of a dataset
TRANSCRIPTION = "transcription.json"
# Of `hf-asr lm`
LANGUAGE_MODEL = "lm.arpa.gz"
# Of `hf-asr tune-decoding`, in the folder of the checkpoint
DECODING = "decoding.json"
# Of an export
GRAPH = "model.onnx"
STREAMING_GRAPH = "model-streaming.onnx"
EXPORT_REPORT = "export_report.json"
TOKENS = "tokens.txt"


def find_files(folder: str | Path) -> list[Path]:
    """Return the files at any depth of a folder, sorted.

    Linked folders are followed, but no folder is searched twice. A link to nothing is a file, so that it is reported
    when it is read. Files that macOS writes beside others for their attributes, `._name`, are left out.
    """
    found, waiting, seen = [], [os.fspath(folder)], set()
    while waiting:
        for place, folders, names in os.walk(waiting.pop(0)):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            waiting += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            paths = [os.path.join(place, name) for name in names if not name.startswith("._")]
            found += [Path(path) for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return sorted(found)


@contextlib.contextmanager
def written_beside(path: str | Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Yield a path to write to, with the same suffix; it is renamed to `path` if the block ends without an error.

    Args:
        is_shared: Yield a path that no other process gets, without the suffix: several may write the file at once.
    """
    path = Path(path)
    name = f"{path.name}.{uuid.uuid4().hex}" if is_shared else f"{path.stem}.partial{path.suffix}"
    partial = path.with_name(name)
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def write_text(path: str | Path, text: str) -> None:
    """Write any text as UTF-8.

    Half of a surrogate pair, as in a file name that is not UTF-8, is written as its escape `\\udcff`, which JSON
    parsers read back.
    """
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def let_others_read_weights(folder: str | Path) -> None:
    """Give the weights in a folder the permissions of any new file.

    safetensors from 0.8 on lets only their owner read them (https://github.com/safetensors/safetensors/issues/782), so
    that a server that runs as another user, as in many containers, could not load them.
    """
    umask = os.umask(0o077)  # it cannot be read without being set
    os.umask(umask)
    for path in Path(folder).glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


def check_empty_folder(folder: str | Path) -> None:
    """Raise ValueError unless `folder` is new or an empty folder."""
    if Path(folder).exists() and (Path(folder).is_file() or os.listdir(folder)):
        raise ValueError(f"{folder} must be a new or an empty folder, but it is not empty")


@contextlib.contextmanager
def folder_written_beside(folder: str | Path) -> Iterator[Path]:
    """Yield a folder to write to; it becomes `folder`, new or empty, if the block ends without an error."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.partial") as partial:
        written = Path(partial) / "written"
        written.mkdir()
        yield written
        written.replace(folder)
