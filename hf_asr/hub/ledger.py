"""What a publication wrote into a repository, so that the next one takes that away and nothing else."""

import json
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import HfApi, ModelCard

NAME = "published_files.json"  # in the repository
# Versions that kept no list: names that nobody else gives, and those of the graphs that their own report names.
CERTAIN = re.compile(r"runs/\d+/events\.out\.tfevents\.\d+|training\.json|curves\.png|report\.html")
GRAPHS = "onnx/export_report.json"


def ledger(names: Collection[str]) -> bytes:
    """Return the list of what goes, itself included."""
    note = "written by hf_asr, which deletes these files alone when it publishes without them"
    return (json.dumps({"note": note, "files": sorted({*names, NAME})}, ensure_ascii=False, indent=2) + "\n").encode()


def written_before(api: HfApi, repo_id: str, there: Collection[str], *, revision: str | None = None) -> set[str]:
    """Return those files in the repository that an earlier publication is certain to have written."""

    def read(name: str) -> str:
        if name not in there:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            path = api.hf_hub_download(repo_id, name, revision=revision, local_dir=folder)
            return Path(path).read_text(encoding="utf-8", errors="replace")

    if NAME in there:
        return set(there) & set(_parsed(read(NAME)).get("files", []))
    if "hf_asr" not in (ModelCard(read("README.md"), ignore_metadata_errors=True).data.tags or []):
        return set()
    found = {name for name in there if CERTAIN.fullmatch(name)}
    if graphs := [str(graph.get("file")) for graph in _parsed(read(GRAPHS)).get("graphs", [])]:
        found |= {GRAPHS, "onnx/config.json", *(f"onnx/{name}" for name in graphs)}
    return set(there) & found


def _parsed(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
