"""Waveform augmentation: audiomentations classes by name, drawn from (seed, epoch, utterance id) alone."""

import difflib
import hashlib
import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import audiomentations
import numpy as np
from audiomentations.core.transforms_interface import BaseWaveformTransform

from .audio import AudioError
from .sources import read_row
from .transforms import AddBabble, Codec, Denoise, SpeedPerturbation

SAMPLING_RATE = 16000  # Hz, of all that is trained on
OWN_TRANSFORMS = {cls.__name__: cls for cls in (SpeedPerturbation, AddBabble, Codec, Denoise)}


@dataclass
class Augmentation:
    """A function of (waveform, sampling rate in Hz, epoch, utterance id) that augments."""

    compose: audiomentations.Compose
    seed: int

    def __call__(self, waveform: np.ndarray, sampling_rate: int, epoch: int, utterance_id: str) -> np.ndarray:
        digest = hashlib.blake2b(f"{self.seed}/{epoch}/{utterance_id}".encode(), digest_size=4).digest()
        # audiomentations draws from the two global generators: seeded here, and put back for everybody else.
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            random.seed(digest)
            np.random.seed(int.from_bytes(digest, "big"))
            return self.compose(waveform, sample_rate=sampling_rate).astype(np.float32)
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)

    def longest(self, seconds: float) -> float:
        """Return how long a recording of `seconds` can become: what has to fit into a batch."""
        for transform in self.compose.transforms:
            seconds = max(seconds, _longest(transform, seconds))
        return seconds


def longest_durations(durations: Sequence[float], augment: Augmentation | None) -> list[float]:
    """Return how long recordings of these seconds can become, which is what their batches are bounded by."""
    return [seconds if augment is None else augment.longest(seconds) for seconds in durations]


def build_augmentation(
    transforms: Sequence[dict[str, Any]], *, seed: int, rows: Sequence[dict] | None = None
) -> Augmentation | None:
    """The augmentation that `transforms` describe; None for an empty list.

    Args:
        transforms: One dict a transform: `name`, a class of audiomentations or of `transforms.py`, and its arguments.
        rows: The training set, out of which `AddBabble` takes its voices.

    Raises:
        ValueError: An unknown class or argument; the message says what there is.
    """
    if not transforms:
        return None
    built = [_build(transform) for transform in transforms]
    for transform in built:
        if isinstance(transform, AddBabble):
            transform.voice, transform.num_voices = partial(_voice, rows or []), len(rows or [])
    return Augmentation(audiomentations.Compose(built), seed)  # on macOS and Windows, workers are sent a pickle


def _longest(transform: BaseWaveformTransform, seconds: float) -> float:
    """The most seconds that `transform` makes of a recording; the classes that are not here keep its length."""
    if not transform.p:
        return seconds
    if isinstance(transform, SpeedPerturbation):
        return seconds / min(transform.factors)
    if isinstance(transform, audiomentations.TimeStretch) and not transform.leave_length_unchanged:
        return seconds / transform.min_rate
    if isinstance(transform, audiomentations.Resample):
        return seconds * transform.max_sample_rate / SAMPLING_RATE
    if isinstance(transform, audiomentations.AdjustDuration):
        return transform.duration_seconds or transform.duration_samples / SAMPLING_RATE
    if isinstance(transform, audiomentations.RepeatPart) and transform.mode == "insert":
        return seconds + transform.max_repeats * transform.max_part_duration
    return seconds


def _voice(rows: Sequence[dict], number: int, sampling_rate: int) -> np.ndarray:
    try:
        return read_row(rows[number], sampling_rate=sampling_rate)
    except AudioError:
        return np.zeros(sampling_rate, np.float32)  # told when its own turn comes


def _build(transform: dict[str, Any]) -> BaseWaveformTransform:
    if not isinstance(transform, dict):
        raise ValueError(f"augmentations: {transform!r} is no mapping with a name, as {{name: Gain, p: 0.5}} is")
    transform = dict(transform)
    known = OWN_TRANSFORMS | {
        name: value
        for name, value in vars(audiomentations).items()
        if inspect.isclass(value) and issubclass(value, BaseWaveformTransform)
    }
    name = transform.pop("name", None)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
        raise ValueError(f"augmentations: unknown class {name!r}, {hint}")
    if name == "RoomSimulator":
        transform.setdefault("leave_length_unchanged", True)  # as the other classes have it
    try:
        built = known[name](**transform)
    except TypeError as error:
        accepted = [argument for argument in inspect.signature(known[name]).parameters if argument != "self"]
        raise ValueError(f"augmentations: {name} takes {', '.join(accepted)} ({error})") from error
    except (AssertionError, ValueError, OSError) as error:  # an assertion without a word: a folder without audio
        raise ValueError(f"augmentations: {name} {transform}: {str(error) or 'no audio file found there'}") from error
    if name != "TimeStretch" and not getattr(built, "leave_length_unchanged", True):
        raise ValueError(
            f"augmentations: {name} with leave_length_unchanged: false makes recordings longer without a limit, and "
            "nothing would bound a batch: leave it out"
        )
    # Found in the order of the file system, which differs between machines: a drawn number must mean the same file.
    for files in ("sound_file_paths", "ir_files"):
        if hasattr(built, files):
            getattr(built, files).sort()
    return built
