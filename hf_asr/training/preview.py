"""Write what a recipe's augmentations do to an utterance, so that it can be listened to and looked at."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import soundfile

from ..data.augment import SAMPLING_RATE, Augmentation
from ..data.sources import read_row
from ..model import ConformerFeatureExtractor


def preview(row: dict, augment: Augmentation, folder: Path, epoch: int) -> Path:
    """Write NAME-before.wav, NAME-after.wav and NAME.png with the log-mel of both; return the path of the picture."""
    before = read_row(row, sampling_rate=SAMPLING_RATE)
    after = augment(before, SAMPLING_RATE, epoch, row["utterance_id"])
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", row["utterance_id"]).strip("_")[-100:]
    for kind, waveform in (("before", before), ("after", after)):
        soundfile.write(folder / f"{name}-{kind}.wav", np.clip(waveform, -1, 1), SAMPLING_RATE)
    _plot({"before": before, "after": after}, folder / f"{name}.png")
    return folder / f"{name}.png"


def _plot(waveforms: dict[str, np.ndarray], path: Path) -> None:
    """Draw the log-mel of each waveform (samples,) into a PNG file."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    extractor = ConformerFeatureExtractor()
    features = {name: extractor(waveform)["input_features"][0] for name, waveform in waveforms.items()}  # (T, M)
    loudest = max(value.max() for value in features.values())
    figure, axes = plt.subplots(2, 1, figsize=(10, 6), constrained_layout=True)
    for axis, (name, value) in zip(axes, features.items(), strict=True):
        # The same colour scale for both, so that a louder recording also looks louder.
        axis.imshow(value.T, origin="lower", aspect="auto", vmin=loudest - 12, vmax=loudest)
        seconds = np.linspace(0, len(value), 6)
        axis.set_xticks(seconds, [f"{frame / 100:.1f}" for frame in seconds])
        axis.set(title=f"{name}: {len(waveforms[name]) / SAMPLING_RATE:.2f} s", xlabel="seconds", ylabel="mel bin")
    figure.savefig(path, dpi=100)
    plt.close(figure)
