"""The folder of an export: one set of files that belong together, whatever lay there before.

An export is written into a folder inside the one it is for, and its files are moved out at the end. Whoever ends it
before leaves the older one as it was. Files of an earlier export go, files of somebody else stay.
"""

import contextlib
import filecmp
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files import WEIGHTS, write_text
from ..provenance import weights_sha256
from ..runtime.providers import ENGINE, PROFILE
from .gate import graph_files

REPORT = "export_report.json"
TOKENS = "tokens.txt"
PARTIAL = ".export.partial"
OF_TARGET = {"sherpa-onnx": {TOKENS}, "tensorrt": {PROFILE, ENGINE}}  # beside the graphs
PROCESSOR = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")


def check_folder(output_dir: Path, *, checkpoint: str) -> None:
    """Raises ValueError where an export must not be written."""
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--output_dir {output_dir}: {existing} is a file, a folder is expected")
    if (output_dir / WEIGHTS).is_file() and weights_sha256(output_dir) != weights_sha256(checkpoint):
        raise ValueError(
            f"--output_dir {output_dir} holds another checkpoint, whose configuration would be lost: give another"
        )


@contextlib.contextmanager
def partial_folder(output_dir: Path) -> Iterator[Path]:
    """An empty folder to write to; `output_dir` is made for it, and removed with it if nothing comes of that."""
    is_new = not output_dir.exists()
    folder = output_dir / PARTIAL
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new and not any(output_dir.iterdir()):
            output_dir.rmdir()


def move_in(folder: Path, output_dir: Path, *, graphs: Sequence[dict], refused: Sequence[dict]) -> None:
    """Replace the export in `output_dir` by the one in `folder`.

    Of the earlier one, graphs that this one did not try stay, if they are of the same weights, target and processor.
    Without a single graph nothing is replaced, and the report says what was refused.
    """
    earlier = read_report(output_dir)
    if not graphs:
        write_report(output_dir, earlier | {"refused": list(refused)})
        return
    tried = {entry["file"] for entry in [*graphs, *refused]}
    kept = [
        entry
        for entry in earlier["graphs"]
        if entry["file"] not in tried
        and entry.get("model_sha256") == graphs[0]["model_sha256"] is not None
        and entry.get("target") == graphs[0]["target"]
        and _has_same_processor(folder, output_dir)
    ]
    new = {path.name for path in folder.iterdir()}
    stale = (_files(earlier["graphs"]) | set(earlier.get("stale", []))) - _files(kept) - new - {REPORT}
    # If this process ends in the middle, the next export knows what to remove, and nobody publishes a mixture.
    write_report(output_dir, {"graphs": [], "stale": sorted(stale | new)})
    for name in stale | ({ENGINE} & new):
        remove(output_dir / Path(name).name)
    for name in new:
        (folder / name).replace(output_dir / name)
    write_report(output_dir, {"graphs": [*kept, *graphs], "refused": list(refused)})


def read_report(output_dir: Path) -> dict:
    """`export_report.json`; one that is not there or damaged has no graphs."""
    try:
        report = json.loads((output_dir / REPORT).read_text(encoding="utf-8"))
        if all(isinstance(entry["file"], str) for entry in report["graphs"]):
            return report
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"graphs": []}


def write_report(output_dir: Path, report: dict) -> None:
    write_text(output_dir / REPORT, json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def _files(entries: Sequence[dict]) -> set[str]:
    """Names of graphs and of what their target puts beside them."""
    names = {file.name for entry in entries for file in graph_files(Path(entry["file"]))}
    return names.union(*(OF_TARGET.get(entry.get("target"), set()) for entry in entries))


def _has_same_processor(folder: Path, output_dir: Path) -> bool:
    return not any(filecmp.cmpfiles(folder, output_dir, PROCESSOR, shallow=False)[1:])


def remove(path: Path) -> None:
    """A file, or the folder of an engine: a report that somebody else wrote removes no other folder."""
    if path.name == ENGINE:
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_file():
        path.unlink()
