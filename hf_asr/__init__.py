"""hf_asr: train a Conformer speech recogniser on your own recordings, inside the Hugging Face ecosystem."""

from . import model
from .decoding.recognizer import Recognizer, load
from .decoding.transcript import Transcript, Word
from .model import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [*model.__all__, "Recognizer", "Transcript", "Word", "load"]
