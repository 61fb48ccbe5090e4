"""Cut long recordings at pauses, which a voice activity detector finds: Silero VAD (`pip install 'hf_asr[vad]'`)."""

import functools
import importlib.util
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .windows import Window, split_windows

if TYPE_CHECKING:
    import onnxruntime

SAMPLING_RATE = 16000  # of the detector, in Hz
FRAME = 512  # samples of a frame of the detector
CONTEXT = 64  # samples before a frame that the detector also takes
STATE = (1, 1, 128)  # of its LSTM
AT_ONCE = 10 * SAMPLING_RATE  # greatest number of samples that it takes at once

THRESHOLD = 0.2  # probability from which a frame is speech; a word that is missed costs more than noise
PADDING = 0.3  # seconds around speech that are recognised as well, so no sound of a word is cut off

NO_SAMPLES = np.zeros(0, np.float32)


def check_vad(sampling_rate: int) -> None:
    """Raise an error if recordings of this sampling rate (in Hz) cannot be cut at pauses.

    Raises:
        ImportError: The extra `vad` is not installed.
        ValueError: The detector takes another rate.
    """
    if importlib.util.find_spec("silero_vad") is None or importlib.util.find_spec("onnxruntime") is None:
        raise ImportError("--vad needs silero-vad and onnxruntime: pip install 'hf_asr[vad]'")
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"--vad needs a checkpoint for {SAMPLING_RATE} Hz, and this one is for {sampling_rate} Hz")


@functools.cache
def _session() -> "onnxruntime.InferenceSession":
    import onnxruntime

    # silero_vad itself is not imported: it would set the number of torch's threads to one.
    folder = importlib.util.find_spec("silero_vad").submodule_search_locations[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(folder) / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class VoiceActivityDetector:
    """The detector's state in one recording."""

    def __init__(self):
        self._hidden = self._cell = np.zeros(STATE, np.float32)
        self._context = np.zeros(CONTEXT, np.float32)

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """Return the probability of speech in each of the next frames of `FRAME` samples, float32 (frames,).

        Args:
            samples: (samples,), float in [-1, 1]; the last frame is filled up with silence.
        """
        frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
        contexts = np.concatenate([self._context[None], frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:]
        inputs = {"input": np.concatenate([contexts, frames], 1), "h": self._hidden, "c": self._cell}
        probabilities, self._hidden, self._cell = _session().run(["speech_probs", "hn", "cn"], inputs)
        return probabilities.reshape(-1)


def split_at_pauses(
    pieces: Iterable[np.ndarray],
    *,
    sampling_rate: int,
    samples_per_frame: int,
    chunk_seconds: float = 30.0,
    stride_seconds: float = 3.0,
) -> Iterator[Window]:
    """Yield windows over the speech of a recording, and the pauses between them; together they are the recording.

    Speech without a pause that is longer than `chunk_seconds` is split into windows that overlap, as `split_windows`
    does. A recording that is not longer than `chunk_seconds` is one window.

    Args:
        pieces: The recording in consecutive pieces (samples,); no more of them are read than the next window needs.
        sampling_rate: Of the recording, in Hz; `check_vad` says which.
        samples_per_frame: Samples that one frame of logits covers.
    """
    options = {"sampling_rate": sampling_rate, "samples_per_frame": samples_per_frame}
    options |= {"chunk_seconds": chunk_seconds, "stride_seconds": stride_seconds}
    pieces, begin, longest = iter(pieces), NO_SAMPLES, round(chunk_seconds * sampling_rate)
    while len(begin) <= longest:
        if (piece := next(pieces, None)) is None:
            yield from split_windows([begin], **options)
            return
        begin = np.concatenate([begin, piece])
    # Blocks end at frames of the detector and of the logits, so that later words keep their times.
    blocks = speech_blocks(itertools.chain([begin], pieces), block_samples=math.lcm(FRAME, samples_per_frame))
    for is_speech, group in itertools.groupby(blocks, key=lambda block: block[1]):
        parts = (samples for samples, _ in group)
        if is_speech:
            yield from split_windows(parts, **options)
            continue
        pause = 0
        for part in parts:
            if pause and pause + len(part) > longest:
                yield Window(NO_SAMPLES, pause=pause)
                pause = 0
            pause += len(part)
        yield Window(NO_SAMPLES, pause=pause)


def speech_blocks(pieces: Iterable[np.ndarray], *, block_samples: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield consecutive blocks (samples,) of a recording, and whether speech is in them or up to `PADDING` s from them.

    Args:
        block_samples: A multiple of `FRAME`; the last block may be shorter.
    """
    padding = math.ceil(PADDING * SAMPLING_RATE / block_samples)  # in blocks
    waiting: deque[np.ndarray] = deque()  # blocks without speech, before which speech is more than `padding` blocks ago
    since_speech = padding  # blocks
    for block, is_speech in _detected(pieces, block_samples=block_samples):
        waiting.append(block)
        since_speech = 0 if is_speech else since_speech + 1
        if since_speech <= padding:
            while waiting:
                yield waiting.popleft(), True
        elif len(waiting) > padding:
            yield waiting.popleft(), False
    for block in waiting:
        yield block, False


def _detected(pieces: Iterable[np.ndarray], *, block_samples: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield consecutive blocks (samples,) of a recording, and whether the detector finds speech in them."""
    detector, signal = VoiceActivityDetector(), NO_SAMPLES
    parts = (piece[i : i + AT_ONCE] for piece in pieces for i in range(0, len(piece), AT_ONCE))
    for piece in itertools.chain(parts, [None]):
        signal = signal if piece is None else np.concatenate([signal, piece])
        ready = len(signal) if piece is None else len(signal) // block_samples * block_samples
        if not ready:
            continue
        is_speech = detector.probabilities(signal[:ready]) >= THRESHOLD
        for start in range(0, ready, block_samples):
            frames = is_speech[start // FRAME : (start + block_samples) // FRAME]
            yield signal[start : min(start + block_samples, ready)], bool(frames.any())
        signal = signal[ready:]
