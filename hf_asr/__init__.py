"""hf_asr: train a Conformer speech recogniser on your own recordings, inside the Hugging Face ecosystem."""

import os

# Threads of GNU OpenMP, which PyTorch uses on Linux, wait for one another in a loop, by default for so long that a
# training with all cores beside another busy process takes eight times as long. PyTorch reads this when it is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from . import model
from .decoding.recognizer import Recognizer, load
from .decoding.transcript import Transcript, Word
from .model import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [*model.__all__, "Recognizer", "Transcript", "Word", "load"]
