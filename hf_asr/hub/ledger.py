"""List the files that a publication uploads, so that the next one deletes these and no others."""

import json
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import HfApi, ModelCard

LEDGER = "published_files.json"
# Earlier versions of hf_asr wrote no list. Files with these names are certainly theirs, and so are the graphs that the
# export report names.
CERTAIN = re.compile(r"runs/\d+/events\.out\.tfevents\.\d+|training\.json|curves\.png|report\.html")
GRAPHS = "onnx/export_report.json"


def ledger(names: Collection[str]) -> bytes:
    """Return the list of the uploaded files, with the list itself, as JSON."""
    note = "written by hf_asr, which deletes only these files, if a later publication does not contain them"
    return (json.dumps({"note": note, "files": sorted({*names, LEDGER})}, ensure_ascii=False, indent=2) + "\n").encode()


def written_before(api: HfApi, repo_id: str, existing: Collection[str], *, revision: str | None = None) -> set[str]:
    """Return the existing files of a repository that an earlier publication has certainly written.

    Args:
        existing: All files of the repository.
    """

    def read(name: str) -> str:
        if name not in existing:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            path = api.hf_hub_download(repo_id, name, revision=revision, local_dir=folder)
            return Path(path).read_text(encoding="utf-8", errors="replace")

    if LEDGER in existing:
        return set(existing) & set(_parsed(read(LEDGER)).get("files", []))
    if "hf_asr" not in (ModelCard(read("README.md"), ignore_metadata_errors=True).data.tags or []):
        return set()
    found = {name for name in existing if CERTAIN.fullmatch(name)}
    if graphs := [str(graph.get("file")) for graph in _parsed(read(GRAPHS)).get("graphs", [])]:
        found |= {GRAPHS, "onnx/config.json", *(f"onnx/{name}" for name in graphs)}
    return set(existing) & found


def _parsed(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
