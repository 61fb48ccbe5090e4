"""Replace the export in a folder as a whole, so that its files always belong together.

An export is first written to a temporary folder inside the output folder; its files are moved out of it at the end. An
export that is interrupted leaves the earlier one unchanged. Moving deletes the files of the earlier export; other files
in the folder are kept.
"""

import contextlib
import filecmp
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files import EXPORT_REPORT, TOKENS, WEIGHTS, write_text
from ..provenance import weights_sha256
from ..runtime.providers import ENGINE, PROFILE
from .check import graph_files

PARTIAL = ".export.partial"
TARGET_FILES = {"sherpa-onnx": {TOKENS}, "tensorrt": {PROFILE, ENGINE}}  # files that a target has beside its graphs
PROCESSOR_FILES = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")


def check_folder(output_dir: Path, *, checkpoint: str) -> None:
    """Raise ValueError if an export must not be written to `output_dir`.

    It must not if the path is a file, or a folder with another checkpoint than the one to export.
    """
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--output_dir {output_dir}: {existing} is a file, a folder is expected")
    if (output_dir / WEIGHTS).is_file() and weights_sha256(output_dir) != weights_sha256(checkpoint):
        raise ValueError(
            f"--output_dir {output_dir} holds another checkpoint, whose configuration would be lost: give a new folder"
        )


@contextlib.contextmanager
def partial_folder(output_dir: Path) -> Iterator[Path]:
    """Yield an empty folder inside `output_dir`, and remove it at the end.

    `output_dir` is created if necessary. If it was created and is empty at the end, it is removed as well.
    """
    is_new = not output_dir.exists()
    folder = output_dir / PARTIAL
    shutil.rmtree(folder, ignore_errors=True)  # from an export that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new and not any(output_dir.iterdir()):
            output_dir.rmdir()


def move_in(folder: Path, output_dir: Path, *, graphs: Sequence[dict], refused: Sequence[dict]) -> None:
    """Replace the export in `output_dir` with the one in `folder`.

    An earlier graph is kept if this export did not try to build it, and if its weights, target and processor are the
    same. If there is no new graph, the earlier export is kept and its report lists the refused graphs.

    Args:
        graphs: Entries of `export_report.json` for the new graphs.
        refused: Entries for the graphs that were refused.
    """
    earlier = read_export_report(output_dir)
    if not graphs:
        write_export_report(output_dir, earlier | {"refused": list(refused)})
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
    stale = (_files(earlier["graphs"]) | set(earlier.get("stale", []))) - _files(kept) - new - {EXPORT_REPORT}
    # If this process ends while files are moved, the report has no graph to publish, and the next export removes these
    # files.
    write_export_report(output_dir, {"graphs": [], "stale": sorted(stale | new)})
    for name in stale | ({ENGINE} & new):
        remove(output_dir / Path(name).name)
    for name in new:
        (folder / name).replace(output_dir / name)
    write_export_report(output_dir, {"graphs": [*kept, *graphs], "refused": list(refused)})


def read_export_report(output_dir: Path) -> dict:
    """Return `export_report.json`; if it is missing or damaged, a report without graphs."""
    try:
        report = json.loads((output_dir / EXPORT_REPORT).read_text(encoding="utf-8"))
        if all(isinstance(entry["file"], str) for entry in report["graphs"]):
            return report
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"graphs": []}


def write_export_report(output_dir: Path, report: dict) -> None:
    """Write `export_report.json`."""
    write_text(output_dir / EXPORT_REPORT, json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def _files(entries: Sequence[dict]) -> set[str]:
    """Return the file names of graphs and of the files that their targets have beside them."""
    names = {file.name for entry in entries for file in graph_files(Path(entry["file"]))}
    return names.union(*(TARGET_FILES.get(entry.get("target"), set()) for entry in entries))


def _has_same_processor(folder: Path, output_dir: Path) -> bool:
    return not any(filecmp.cmpfiles(folder, output_dir, PROCESSOR_FILES, shallow=False)[1:])


def remove(path: Path) -> None:
    """Remove a file, or the folder of an engine.

    No other folder is removed, because names in a report may have been edited by hand.
    """
    if path.name == ENGINE:
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_file():
        path.unlink()
