"""Make a Gradio Space of the demo: app.py, the package hf_asr, and the requirements."""

import configparser
import importlib.metadata
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

ROOT = Path(__file__).resolve().parents[2]  # the repository


def space_files(model_id: str) -> dict[str, Path | bytes]:
    """Return the files of the Space by their path; the app reads the model's id from the variable HF_ASR_MODEL.

    A Space installs requirements.txt before it has its other files. So hf_asr, which is not on PyPI, is not installed
    but imported from the folder of app.py.

    Raises:
        ValueError: hf_asr was installed without its repository, or gradio is not installed.
    """
    app, setup = ROOT / "app.py", ROOT / "setup.cfg"
    if not (app.is_file() and setup.is_file()):
        raise ValueError(f"{ROOT} has no app.py and setup.cfg: a Space needs a clone of the repository of hf_asr")
    try:
        gradio_version = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError("a Space needs the version of gradio: pip install 'hf_asr[demo]'") from error
    source = [path for suffix in ("*.py", "templates/*") for path in (ROOT / "hf_asr").rglob(suffix)]
    files: dict[str, Path | bytes] = {path.relative_to(ROOT).as_posix(): path for path in source}
    return files | {
        "app.py": app,
        "requirements.txt": requirements(setup).encode(),
        "README.md": space_card(model_id, gradio_version=gradio_version).encode(),
    }


def requirements(setup: Path) -> str:
    """Return requirements.txt from setup.cfg, without gradio, which the Space installs by its `sdk_version`."""
    parser = configparser.ConfigParser()
    parser.read(setup, encoding="utf-8")
    needed = parser["options"]["install_requires"] + parser["options.extras_require"]["demo"]
    lines = [line.strip() for line in needed.splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith(("#", "gradio"))) + "\n"


def space_card(model_id: str, *, gradio_version: str) -> str:
    """Return the README.md of the Space; its metadata configure the Space."""
    name = model_id.split("/")[1]
    data = SpaceCardData(
        title=name,
        sdk="gradio",
        sdk_version=gradio_version,
        python_version="3.11",  # the oldest that hf_asr supports; the default of a Space is older
        app_file="app.py",
        models=[model_id],
        tags=["hf_asr", "automatic-speech-recognition"],
    )
    text = f"Speech recognition by [{model_id}](https://huggingface.co/{model_id}), trained with hf_asr."
    return str(SpaceCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{text}\n"))
