"""Links in the documents resolve, their commands have the options they name, and their Python and the notebook run."""

import argparse
import ast
import importlib.util
import json
import re
import shlex
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import soundfile
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from hf_asr.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
LAUNCHERS = {"accelerate": launch_command_parser, "torchrun": get_args_parser}
RUNNABLE = [
    "README.md",
    "README.zh-CN.md",
    "docs/decoding.md",
]  # the Python of other documents needs a graph or a server
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)


def blocks(path: Path, *languages: str) -> list[str]:
    """Return the fenced code blocks of a document in these languages."""
    return [body for language, body in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", FENCE.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE):
        text = re.sub(r"!?\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        repeated = [f"{anchor}-{i}" for i in range(1, 10)]
        found.add(next(name for name in (anchor, *repeated) if name not in found))
    return found


def test_anchors_are_those_of_github(tmp_path):
    headings = ["# Levers: what they cost", "## `--one` [two](x.md)", "## 从文件夹到服务（一）", "# Twice", "# Twice"]
    (tmp_path / "a.md").write_text("\n".join([*headings, "```bash", "# not a heading", "```", ""]), encoding="utf-8")
    assert anchors(tmp_path / "a.md") == {"levers-what-they-cost", "--one-two", "从文件夹到服务一", "twice", "twice-1"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(document):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", document.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document):
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    folders = "hf_asr|tests|configs|benchmarks|scripts|docs|examples|optimum"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        if not re.search("[A-Z]", path):  # a capital letter is a placeholder
            assert (ROOT / path).exists(), path


def commands(document: Path) -> list[tuple[str, bool]]:
    """Return the commands of a document, and whether each one is complete: in a block, not inside a sentence."""
    found = []
    text = document.read_text(encoding="utf-8")
    for language, body in FENCE.findall(text):
        lines = body.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if language in ("bash", "console"):
            found += [(part, "…" not in part) for line in lines for part in re.split(r" (?:&&|\|) ", line)]
    found += [(part, False) for part in re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]
    starts = ("python ", "python3 ", "hf-asr ", "accelerate launch ", "torchrun ", "optimum-cli export hf-asr ")
    return [(command, is_complete) for command, is_complete in found if command.startswith(starts)]


def check_command(command: str, *, is_complete: bool) -> None:
    """Raise AssertionError if a command names a file, a sub-command, an option or a choice that does not exist."""
    words = shlex.split(command, comments=True)
    if words[0] in LAUNCHERS:
        if "…" in words:
            words = words[: words.index("…")]
        is_launch = words[0] == "accelerate"
        place = next((i for i, word in enumerate(words) if word.endswith(".py")), len(words))
        launch = words[2 if is_launch else 1 : place]
        check_options(launch, known=set(LAUNCHERS[words[0]]()._option_string_actions))
        check_files(launch)
        words = ["python", *words[place:]]
    elif words[0] == "optimum-cli":
        words = ["hf-asr", "export", *words[3:]]
    elif words[1:3] == ["-m", "hf_asr"]:
        words = ["hf-asr", *words[3:]]
    if words[0] == "hf-asr" and words[1] != "--help":
        check_arguments(words[1], words[2:], is_complete=is_complete)
    elif words[1:2] == ["-c"]:
        ast.parse(words[2])
    elif words[1:2] == ["-m"]:
        assert words[2] in ("pytest", "venv"), command
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests/")), command
    elif words[0] != "hf-asr" and len(words) > 1:
        script = ROOT / words[1]
        assert script.is_file(), command
        if script.parent.name == "scripts":
            name = "prepare" if script.stem == "prepare_data" else script.stem.replace("_", "-")
            check_arguments(name, words[2:], is_complete=is_complete)
        else:
            check_options(words[2:], known=set(re.findall(r'"(--\w+)"', script.read_text(encoding="utf-8"))))


def check_arguments(name: str, arguments: list[str], *, is_complete: bool) -> None:
    """Raise AssertionError if the sub-command `name` refuses these arguments."""
    parser = build_parser(name)
    check_options(arguments, known=set(parser._option_string_actions))
    check_files(arguments)
    if is_complete:
        try:
            _, unknown = parser.parse_known_args(arguments)
        except SystemExit as error:
            raise AssertionError(f"{name} refuses {arguments}") from error
        assert not unknown, unknown


def check_options(words: list[str], *, known: set[str]) -> None:
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= known | {"--help"}, options - known


def check_files(words: list[str]) -> None:
    for option, value in zip(words, words[1:], strict=False):
        assert option not in ("--config", "--config_file") or (ROOT / value).is_file(), value


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_their_options(document):
    for command, is_complete in commands(document):
        check_command(command, is_complete=is_complete)


@pytest.mark.parametrize(
    "command",
    [
        "hf-asr evaluat --model_name_or_path M",
        "hf-asr evaluate --model_name_or_path M --dataset_nam D",
        "python scripts/train.py --confg configs/tiny.yaml",
        "accelerate launch scripts/train.py --config configs/none.yaml --dataset_name D --output_dir R",
        "accelerate launch --num_proceses 2 scripts/train.py --config configs/tiny.yaml",
        "torchrun --nproc_per_node 2 scripts/trai.py",
        "python scripts/export.py --model_name_or_path M --output_dir R --target coreml",
        "python scripts/import_wenet.py --output_dir R",
        "python benchmarks/noise.py --noises N",
        "python app.py --model M",
    ],
)
def test_a_wrong_command_is_found(command):
    with pytest.raises((AssertionError, SystemExit, KeyError, ValueError, argparse.ArgumentError)):
        check_command(command, is_complete=True)


@pytest.fixture
def workplace(checkpoint, corpus, recording, streaming_recognizer, tmp_path, monkeypatch) -> Path:
    """The current directory of the documents' Python: a model and a corpus where the quickstart writes them."""
    (tmp_path / "runs").mkdir()
    for name in ("quickstart", "mine"):
        (tmp_path / "runs" / name).symlink_to(checkpoint)
    streaming_recognizer.model.save_pretrained(tmp_path / "runs" / "streaming")
    streaming_recognizer.processor.save_pretrained(tmp_path / "runs" / "streaming")
    (tmp_path / "runs" / "quickstart-corpus").symlink_to(corpus)
    waveform, rate = soundfile.read(recording, dtype="float32")
    soundfile.write(tmp_path / "recording.wav", waveform, rate)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a wrong path fails at once
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize("name", RUNNABLE)
def test_python_runs(name, workplace):
    snippets = blocks(ROOT / name, "python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_parses(document):
    for snippet in blocks(document, "python"):
        ast.parse(snippet, document.name)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(notebook, workplace, monkeypatch):
    plt.switch_backend("agg")
    if importlib.util.find_spec("IPython") is None:  # a notebook brings it
        display = types.ModuleType("IPython.display")
        display.Audio = lambda *args, **kwargs: None
        monkeypatch.setitem(sys.modules, "IPython.display", display)
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    namespace: dict = {}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"{notebook.name}, {cell['id']}", "exec"), namespace)
    plt.close("all")


def test_both_readmes_state_the_same_figures():
    figures = []
    for name, title in (("README.md", "| what | figure |"), ("README.zh-CN.md", "| 项目 | 结果 |")):
        table = (ROOT / name).read_text(encoding="utf-8").split(title)[1].split("\n\n")[0]
        figures.append([sorted(re.findall(r"\d+\.\d+", row)) for row in table.splitlines()])
    assert figures[0] == figures[1] and any(figures[0])
