"""The rules of the code: ruff, one direction of imports, short functions, no copies."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

# Each entry may import from the entries above it, and from itself; see docs/design.md.
BASE = ("arguments", "console", "files", "provenance")  # these import one another and nothing else of hf_asr
LAYERS = ("model", "families", "html", "runtime", "checkpoint", "data", "corpora", "decoding", "scoring", "hub")
LAYERS += ("training", "export", "serving", "commands", "cli", "__main__")
MAX_FUNCTION_LINES = 60
MAX_COMMON_LINES = 5


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(repository, command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def layer_of(module: str) -> str:
    """The first part of a module's name below hf_asr."""
    return (module.split(".") + [""])[1]


def imported_modules(path: Path, module: str) -> list[str]:
    """The modules of hf_asr that a file imports, anywhere in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, (base, node.module)))
            found += [name] if name != "hf_asr" else [f"{name}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "hf_asr"]


def test_imports_go_one_way(repository):
    wrong = []
    for path in sorted((repository / "hf_asr").rglob("*.py")):
        module = ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        if module == "hf_asr":  # the public names
            continue
        layer = layer_of(module)
        below = LAYERS[: LAYERS.index(layer) + 1] if layer in LAYERS else ()
        allowed = {*below, *(() if layer == "model" else BASE), "__version__"}
        wrong += [
            f"{module} imports {name}" for name in imported_modules(path, module) if layer_of(name) not in allowed
        ]
    assert not wrong


def source_files(repository: Path) -> list[Path]:
    return [*sorted((repository / "hf_asr").rglob("*.py")), *sorted((repository / "benchmarks").glob("*.py"))]


def test_functions_are_short(repository):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = [
        f"{path.relative_to(repository)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in source_files(repository)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, functions) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Numbered lines of code: no imports, signatures, docstrings, comments, and no lines of one name or of brackets."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            left_out |= set(range(node.lineno, first.end_lineno + 1 if is_docstring(first) else first.lineno))
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    return [
        (number, line)
        for number, line in lines
        if number not in left_out and not re.fullmatch(r"[\w()\[\]{},:]*|#.*", line)
    ]


def test_no_code_is_copied(repository):
    places = defaultdict(list)
    for path in source_files(repository):
        code = lines_of(path)
        for start in range(len(code) - MAX_COMMON_LINES):
            window = code[start : start + MAX_COMMON_LINES + 1]
            places[tuple(line for _, line in window)].append(f"{path.relative_to(repository)}:{window[0][0]}")
    copies = [" = ".join(found) for found in places.values() if len(found) > 1]
    assert not copies
