"""Waveform augmentation: audiomentations classes by name, drawn from (seed, epoch, utterance id) alone."""

import difflib
import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import audiomentations
import numpy as np
from audiomentations.core.transforms_interface import BaseWaveformTransform

from .audio import AudioError
from .sources import read_row
from .transforms import AddBabble, Codec, Denoise, SpeedPerturbation

OWN_TRANSFORMS = {cls.__name__: cls for cls in (SpeedPerturbation, AddBabble, Codec, Denoise)}


def build_augmentation(
    transforms: Sequence[dict[str, Any]], *, seed: int, rows: Sequence[dict] | None = None
) -> Callable[[np.ndarray, int, int, str], np.ndarray] | None:
    """A function of (waveform, sampling rate in Hz, epoch, utterance id) that augments; None for an empty list.

    Args:
        transforms: One dict a transform: `name`, a class of audiomentations or of `transforms.py`, and its arguments.
        rows: The training set, out of which `AddBabble` takes its voices.

    Raises:
        ValueError: An unknown class or argument; the message says what there is.
    """
    if not transforms:
        return None
    built = [_build(dict(transform)) for transform in transforms]
    for transform in built:
        if isinstance(transform, AddBabble):
            transform.voice, transform.num_voices = partial(_voice, rows or []), len(rows or [])
    return partial(_augment, audiomentations.Compose(built), seed)  # on macOS and Windows, workers are sent a pickle


def _augment(
    compose: audiomentations.Compose,
    seed: int,
    waveform: np.ndarray,
    sampling_rate: int,
    epoch: int,
    utterance_id: str,
) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{utterance_id}".encode(), digest_size=4).digest()
    # audiomentations draws from the two global generators: seeded here, and put back for everybody else.
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        random.seed(digest)
        np.random.seed(int.from_bytes(digest, "big"))
        return compose(waveform, sample_rate=sampling_rate).astype(np.float32)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _voice(rows: Sequence[dict], number: int, sampling_rate: int) -> np.ndarray:
    try:
        return read_row(rows[number], sampling_rate=sampling_rate)
    except AudioError:
        return np.zeros(sampling_rate, np.float32)  # told when its own turn comes


def _build(transform: dict[str, Any]) -> BaseWaveformTransform:
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
    try:
        built = known[name](**transform)
    except TypeError as error:
        accepted = [argument for argument in inspect.signature(known[name]).parameters if argument != "self"]
        raise ValueError(f"augmentations: {name} takes {', '.join(accepted)} ({error})") from error
    except (AssertionError, ValueError, OSError) as error:  # an assertion without a word: a folder without audio
        raise ValueError(f"augmentations: {name} {transform}: {str(error) or 'no audio file found there'}") from error
    # Found in the order of the file system, which differs between machines: a drawn number must mean the same file.
    for files in ("sound_file_paths", "ir_files"):
        if hasattr(built, files):
            getattr(built, files).sort()
    return built
