"""Waveform augmentation: audiomentations classes by name, drawn from (seed, epoch, utterance id) alone."""

import difflib
import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import audiomentations
import numpy as np
import soxr
from audiomentations.core.transforms_interface import BaseWaveformTransform


class SpeedPerturbation(BaseWaveformTransform):
    """Plays faster or slower, pitch and all (Ko et al. 2015); `factors` are drawn evenly."""

    supports_multichannel = False

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1), p: float = 1.0):
        super().__init__(p)
        self.factors = list(factors)

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        super().randomize_parameters(samples, sample_rate)
        self.parameters["factor"] = random.choice(self.factors)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        factor = self.parameters["factor"]
        return samples if factor == 1.0 else soxr.resample(samples, sample_rate * factor, sample_rate)


OWN_TRANSFORMS = {"SpeedPerturbation": SpeedPerturbation}


def build_augmentation(
    transforms: Sequence[dict[str, Any]], *, seed: int
) -> Callable[[np.ndarray, int, int, str], np.ndarray] | None:
    """A function of (waveform, sampling rate in Hz, epoch, utterance id) that augments; None for an empty list.

    Args:
        transforms: One dict a transform: `name`, a class of audiomentations or `SpeedPerturbation`, and its arguments.

    Raises:
        ValueError: An unknown class or argument; the message says what there is.
    """
    if not transforms:
        return None
    compose = audiomentations.Compose([_build(dict(transform)) for transform in transforms])

    def augment(waveform: np.ndarray, sampling_rate: int, epoch: int, utterance_id: str) -> np.ndarray:
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

    return augment


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
        return known[name](**transform)
    except TypeError as error:
        accepted = [argument for argument in inspect.signature(known[name]).parameters if argument != "self"]
        raise ValueError(f"augmentations: {name} takes {', '.join(accepted)} ({error})") from error
