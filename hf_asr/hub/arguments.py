"""Options of publishing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class PublishArguments:
    """The options of `hf-asr publish`, whose --help explains them; `token` and `revision` come from the Trainer."""

    model_name_or_path: Path
    hub_model_id: str
    public: bool = False
    onnx_dir: Path | None = None
    evaluations: Sequence[Path] = ()
    examples: Sequence[Path] = ()
    language: Sequence[str] | None = None
    license: str | None = None
    create_space: bool = False
    space_id: str | None = None
    include_transcripts: bool = False
    allow_partial_score: bool = False
    dry_run: bool = False
    token: str | None = None
    revision: str | None = None
