"""`hf-asr augment-preview`: a recipe's augmentations on a few utterances, to be heard and seen before training."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import matplotlib
import numpy as np
import soundfile

from ..arguments import parse_arguments
from ..console import command
from ..data.augment import build_augmentation
from ..data.sources import read_row
from ..model import ConformerFeatureExtractor
from .arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from .splits import load_splits


@dataclass
class PreviewArguments:
    num_utterances: int = field(default=4, metadata={"help": "Utterances of the training split, drawn by the seed."})
    preview_epoch: int = field(default=0, metadata={"help": "Epoch whose augmentation is shown."})


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """Takes what `train` takes."""
    datasets.disable_progress_bars()
    classes = (ModelArguments, DataArguments, ConformerTrainingArguments, PreviewArguments)
    _, data_args, args, preview_args = parse_arguments(classes, argv)
    rows = load_splits(data_args, seed=args.seed).train
    if data_args.streaming:
        rows = datasets.Dataset.from_list(list(rows.take(200)))
    augment = build_augmentation(data_args.augmentations, seed=args.seed, rows=rows)
    if augment is None:
        raise ValueError("the recipe has no augmentations: nothing to show")
    chosen = np.random.default_rng(args.seed).permutation(len(rows))[: preview_args.num_utterances]
    for i in chosen:
        print(preview(rows[int(i)], augment, Path(args.output_dir) / "augment-preview", preview_args.preview_epoch))


def preview(row: dict, augment, folder: Path, epoch: int) -> Path:
    """Writes NAME-before.wav, NAME-after.wav and NAME.png with the log-mel of both; returns the picture's path."""
    before = read_row(row, sampling_rate=16000)
    after = augment(before, 16000, epoch, row["utterance_id"])
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", row["utterance_id"]).strip("_")[-100:]
    for kind, waveform in (("before", before), ("after", after)):
        soundfile.write(folder / f"{name}-{kind}.wav", np.clip(waveform, -1, 1), 16000)
    _plot({"before": before, "after": after}, folder / f"{name}.png")
    return folder / f"{name}.png"


def _plot(waveforms: dict[str, np.ndarray], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    extractor = ConformerFeatureExtractor()
    features = {name: extractor(waveform)["input_features"][0] for name, waveform in waveforms.items()}  # (T, M)
    loudest = max(value.max() for value in features.values())
    figure, axes = plt.subplots(2, 1, figsize=(10, 6), constrained_layout=True)
    for axis, (name, value) in zip(axes, features.items(), strict=True):
        # One colour scale for both: what became louder looks louder.
        axis.imshow(value.T, origin="lower", aspect="auto", vmin=loudest - 12, vmax=loudest)
        seconds = np.linspace(0, len(value), 6)
        axis.set_xticks(seconds, [f"{frame / 100:.1f}" for frame in seconds])
        axis.set(title=f"{name}: {len(waveforms[name]) / 16000:.2f} s", xlabel="seconds", ylabel="mel bin")
    figure.savefig(path, dpi=100)
    plt.close(figure)
