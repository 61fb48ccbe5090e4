"""Transcribe the recordings of the demo, or refuse them with a reason."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ...data.audio import AudioError, AudioTooLongError, read_recording
from ...decoding.arguments import DecodingArguments, TextArguments
from ...decoding.recognizer import Recognizer, load
from ...decoding.transcript import Transcript
from ...model.feature_extraction_conformer import denoise
from ..hotwords import HotwordsError, read_hotwords

MAX_SECONDS = 300.0
SILENCE = 1e-4  # peak amplitude; a microphone that is switched on is always louder


@dataclass
class Recognition:
    """The result of one recogniser for one recording.

    Attributes:
        waveform: The recogniser's input (samples,).
        seconds: Time of the recognition in seconds.
        notes: What is damaged in the file, unusual ways in which it had to be read, and hotwords that are left out.
    """

    transcript: Transcript
    waveform: np.ndarray
    seconds: float
    notes: list[str] = field(default_factory=list)


class RefusedError(ValueError):
    """A recording or a checkpoint that cannot be used; `translations.py` has the message under `key`."""

    def __init__(self, key: str, **values: object):
        super().__init__(key)
        self.key, self.values = key, values


def load_warm(model_name_or_path: str, *, search: TextArguments | None = None) -> Recognizer:
    """Load a recogniser and run it once, because the first run of a model is slower than later ones.

    Args:
        search: The decoder, and the chunks in which a checkpoint encodes that was trained in chunks.

    Raises:
        ValueError, OSError, ImportError: The name is not a checkpoint, or the checkpoint cannot run here or in chunks.
    """
    arguments = DecodingArguments(**asdict(search)) if search else None
    recognizer = load(model_name_or_path, arguments=arguments)
    recognizer.transcribe(np.zeros(recognizer.sampling_rate, dtype=np.float32))
    return recognizer


def transcribe_recording(
    recognizer: Recognizer, path: str | None, *, use_denoise: bool, hotwords: str = ""
) -> Recognition:
    """Read and transcribe the recording in a file.

    Raises:
        RefusedError: The recording is missing, unreadable, too long or silent, or the hotwords cannot be used.
    """
    if not path:
        raise RefusedError("missing_audio")
    remarks: Sequence[str] = ()
    if hotwords.strip():
        try:
            own, remarks = read_hotwords(hotwords, recognizer)
        except HotwordsError as error:
            raise RefusedError("bad_hotwords", reason=error.reason) from error
        recognizer = recognizer.with_hotwords(own)
    sampling_rate = recognizer.sampling_rate
    try:
        recording = read_recording(path, sampling_rate=sampling_rate, max_seconds=MAX_SECONDS)
    except AudioTooLongError as error:
        raise RefusedError("too_long") from error
    except AudioError as error:
        raise RefusedError("unreadable") from error
    waveform = recording.waveform
    if np.abs(waveform).max() < SILENCE:
        raise RefusedError("silent")
    # A processor that denoises would do it a second time.
    if use_denoise and not getattr(recognizer.processor.feature_extractor, "denoise", False):
        waveform = denoise(waveform, sampling_rate=sampling_rate)
    started = time.perf_counter()
    transcript = recognizer.transcribe(waveform)
    seconds = time.perf_counter() - started
    return Recognition(transcript, waveform, seconds, [*recording.damage, *recording.remarks, *remarks])
