"""Score new and old data before and after fine-tuning, with `replay_dataset_name`."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from ..decoding.recognizer import Recognizer
from ..files import write_text
from ..model import ConformerProcessor
from ..scoring.evaluation import evaluate_rows
from .run_folder import SCORES_BEFORE
from .splits import Splits


def score_before(
    model: PreTrainedModel, processor: ConformerProcessor, splits: Splits, *, folder: Path, resume_from: Path | None
) -> dict[str, float]:
    """Return the CER on new and old data before training; nothing if no old data are replayed.

    The scores are written into `folder`; a resumed run reads them from there.
    """
    if splits.replayed is None:
        return {}
    path = folder / SCORES_BEFORE
    if resume_from is None:
        recognizer = Recognizer(model, processor)
        rows = {"cer_before": splits.evaluation, "replay_cer_before": splits.replayed}
        write_text(path, json.dumps({name: evaluate_rows(recognizer, part)[0]["cer"] for name, part in rows.items()}))
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def score_after(recognizer: Recognizer, splits: Splits, before: dict[str, float]) -> dict[str, float]:
    """Score the old data after training; print and return this CER with the scores before training."""
    scores = before | {"replay_cer": evaluate_rows(recognizer, splits.replayed)[0]["cer"]}
    print(f"old data: CER {before['replay_cer_before']:.2%} before training, {scores['replay_cer']:.2%} after it")
    print(f"new data: CER {before['cer_before']:.2%} before training")
    return scores
