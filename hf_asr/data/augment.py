"""Augment waveforms with classes of audiomentations.

The random choices depend only on seed, epoch and utterance id. SpecAugment, on features, is part of the model: see
`spec_augment_conformer.py`.
"""

import difflib
import hashlib
import inspect
import random
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import audiomentations
import numpy as np
from audiomentations.core.transforms_interface import BaseWaveformTransform

from .audio import AudioError
from .sources import read_row
from .transforms import AddBabble, Codec, Denoise, SpeedPerturbation

SAMPLING_RATE = 16000  # Hz, of all training audio
OWN_TRANSFORMS = {cls.__name__: cls for cls in (SpeedPerturbation, AddBabble, Codec, Denoise)}


@dataclass
class Augmentation:
    """Augment a waveform: a function of waveform (samples,), sampling rate in Hz, epoch and utterance id."""

    compose: audiomentations.Compose
    seed: int

    def __call__(self, waveform: np.ndarray, sampling_rate: int, epoch: int, utterance_id: str) -> np.ndarray:
        digest = hashlib.blake2b(
            f"{self.seed}/{epoch}/{utterance_id}".encode(errors="backslashreplace"), digest_size=4
        ).digest()
        # audiomentations draws from the two global generators: their states are restored for other users.
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            random.seed(digest)
            np.random.seed(int.from_bytes(digest, "big"))
            return self.compose(waveform, sample_rate=sampling_rate).astype(np.float32)
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)

    def set_voices(self, rows: Sequence[dict]) -> None:
        """Let `AddBabble` choose its voices among the recordings of `rows`."""
        for transform in self.compose.transforms:
            if isinstance(transform, AddBabble):
                transform.voice, transform.num_voices = partial(_voice, rows), len(rows)

    def longest(self, seconds: float) -> float:
        """Return the maximum duration in seconds after augmentation of a recording of `seconds`."""
        for transform in self.compose.transforms:
            seconds = max(seconds, _longest(transform, seconds))
        return seconds


def longest_durations(durations: Sequence[float], augment: Augmentation | None) -> list[float]:
    """Return the maximum durations in seconds after augmentation; these bound the batches."""
    return [seconds if augment is None else augment.longest(seconds) for seconds in durations]


def build_augmentation(
    transforms: Sequence[dict[str, Any]], *, seed: int, rows: Sequence[dict] | None = None
) -> Augmentation | None:
    """Return the augmentation that `transforms` describe; None for an empty list.

    Args:
        transforms: A dict for each transform: `name`, a class of audiomentations or of `transforms.py`, and its
            arguments.
        rows: The training set, whose utterances are the voices of `AddBabble`.

    Raises:
        ValueError: A class or argument is unknown; the message lists the known ones.
    """
    if not transforms:
        return None
    built = [_build(transform) for transform in transforms]
    # A picklable class and not a closure, because macOS and Windows pickle it for workers.
    augmentation = Augmentation(audiomentations.Compose(built), seed)
    augmentation.set_voices(rows or [])
    return augmentation


def _longest(transform: BaseWaveformTransform, seconds: float) -> float:
    """Return the maximum duration in seconds after `transform`; all other classes keep the duration."""
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
        return np.zeros(sampling_rate, np.float32)  # reported when the row itself is read


def _condition(error: AssertionError) -> str:
    """Return what audiomentations has asserted without a message, such as a range of an argument."""
    condition = (traceback.extract_tb(error.__traceback__)[-1].line or "").removeprefix("assert").strip()
    if "sound_file_paths" in condition:
        return "no audio file found there"
    return f"{condition} is required" if condition.strip("(") else "an argument is outside its range"


def _build(transform: dict[str, Any]) -> BaseWaveformTransform:
    if not isinstance(transform, dict):
        raise ValueError(f"augmentations: {transform!r} is not a mapping with a name, such as {{name: Gain, p: 0.5}}")
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
        transform.setdefault("leave_length_unchanged", True)  # the default of the other classes
    try:
        built = known[name](**transform)
    except TypeError as error:
        accepted = [argument for argument in inspect.signature(known[name]).parameters if argument != "self"]
        raise ValueError(f"augmentations: {name} takes {', '.join(accepted)} ({error})") from error
    except (AssertionError, ValueError, OSError) as error:
        raise ValueError(f"augmentations: {name} {transform}: {str(error) or _condition(error)}") from error
    if name != "TimeStretch" and not getattr(built, "leave_length_unchanged", True):
        raise ValueError(
            f"augmentations: {name} with leave_length_unchanged: false makes recordings longer without a limit, and "
            "batches could not be bounded: remove this argument"
        )
    # The order of the file system differs between machines, but a drawn number must select the same file.
    for name in ("sound_file_paths", "ir_files"):
        if hasattr(built, name):
            files = [path for path in getattr(built, name) if not Path(path).name.startswith("._")]  # of macOS
            setattr(built, name, sorted(files))
    return built
