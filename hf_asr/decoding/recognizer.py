"""Waveforms to transcripts with word times: windows over long recordings, batches of similar length."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..checkpoint import output_lengths, samples_per_frame
from ..model import ConformerFeatureExtractor

MIN_SECONDS = 0.25  # other families' shorter windows are padded with silence: their convolutions do not fit into less


@dataclass
class Word:
    """A word (or Han character), where it was said, in seconds, and the mean probability of its frames."""

    word: str
    start: float
    end: float
    confidence: float = 1.0


BestPath = list[tuple[int, float]]  # best token of each frame, and its probability


@dataclass
class Transcript:
    """What was recognised; `path` is what the words were read from."""

    text: str
    words: list[Word] = field(default_factory=list)
    path: BestPath = field(default_factory=list, repr=False, compare=False)


@dataclass
class Window:
    """A part of a recording: its samples, and how many encoder frames of context at each end are thrown away."""

    waveform: np.ndarray
    left: int = 0
    right: int = 0


def cut(
    waveform: np.ndarray,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    chunk_seconds: float = 30.0,
    stride_seconds: float = 3.0,
) -> list[Window]:
    """Windows of a 16 kHz recording (samples,) that overlap by the stride on each side.

    Raises:
        ValueError: A window that is not longer than the context at its two ends.
    """
    if not 2 * stride_seconds < chunk_seconds < math.inf:
        raise ValueError(
            f"windows of {chunk_seconds:g} s cannot be used: they overlap by {stride_seconds:g} s at each end, so more "
            f"than {2 * stride_seconds:g} s are needed"
        )
    rate, ratio = processor.feature_extractor.sampling_rate, samples_per_frame(model.config)
    stride = round(stride_seconds * rate / ratio) * ratio
    chunk = max(round(chunk_seconds * rate / ratio) * ratio, 2 * stride + ratio)  # a frame of its own at least
    if len(waveform) <= chunk:
        return [Window(waveform)]
    windows, start = [], 0
    while True:
        is_last = start + chunk >= len(waveform)
        left, right = (0 if start == 0 else stride // ratio), (0 if is_last else stride // ratio)
        windows.append(Window(waveform[start : start + chunk], left, right))
        if is_last:
            return windows
        start += chunk - 2 * stride


@torch.inference_mode()
def best_paths(model: PreTrainedModel, processor: ProcessorMixin, windows: Sequence[Window]) -> list[BestPath]:
    """What CTC hears in each window, without its context; all of them in one batch."""
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    is_ours = isinstance(extractor, ConformerFeatureExtractor)  # which adds silence itself, to the features
    shortest = 1 if is_ours else round(MIN_SECONDS * extractor.sampling_rate)
    inputs = processor(
        [np.pad(window.waveform, (0, max(0, shortest - len(window.waveform)))) for window in windows],
        sampling_rate=extractor.sampling_rate,
        return_tensors="pt",
        padding=True,
        return_attention_mask=True,
        device=model.device,
    ).to(model.device)
    attention_mask = inputs["attention_mask"]
    if not extractor.return_attention_mask:  # wav2vec2's base models were trained without one
        inputs.pop("attention_mask")
    probabilities, ids = model(**inputs).logits.float().softmax(-1).max(-1)  # (batch, frames) each
    lengths = output_lengths(model, attention_mask).clamp(max=ids.shape[1]).tolist()
    paths = []
    for window, length, tokens, values in zip(windows, lengths, ids.tolist(), probabilities.tolist(), strict=True):
        # A window has a frame less than its samples would give; the blank keeps the time of what follows.
        expected = round(len(window.waveform) / samples_per_frame(model.config))
        path = list(zip(tokens[:length], values[:length], strict=True))
        path += [(tokenizer.pad_token_id, 1.0)] * (expected - length)
        paths.append(path[window.left : len(path) - window.right])
    return paths


def join(
    paths: Sequence[BestPath], model: PreTrainedModel, processor: ProcessorMixin, *, duration: float
) -> Transcript:
    """The transcript of a recording of `duration` seconds from the paths of its windows, in their order."""
    path = [frame for part in paths for frame in part]
    if not path:
        return Transcript("")
    seconds = samples_per_frame(model.config) / processor.feature_extractor.sampling_rate  # of a frame
    output = processor.tokenizer.decode([token for token, _ in path], output_word_offsets=True)
    words = []
    for offset in output["word_offsets"]:
        start, end = offset["start_offset"], offset["end_offset"]
        confidence = sum(probability for _, probability in path[start:end]) / max(1, end - start)
        # A short recording's last frames are of the silence that follows it.
        times = (round(min(frame * seconds, duration), 3) for frame in (start, end))
        words.append(Word(offset["word"], *times, confidence=round(confidence, 3)))
    return Transcript(output["text"], words, path)


def recognize(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    waveforms: Sequence[np.ndarray],
    *,
    chunk_seconds: float = 30.0,
    stride_seconds: float = 3.0,
    batch_seconds: float = 120.0,
    show_progress: bool = False,
) -> list[Transcript]:
    """Greedy CTC transcripts of 16 kHz waveforms, in their order.

    Args:
        chunk_seconds: Longer recordings are cut into windows of this length.
        stride_seconds: Context at each end of a window whose frames are not used.
        batch_seconds: Bound on the number of windows of a batch times the longest.
    """
    model.eval()
    options = {"chunk_seconds": chunk_seconds, "stride_seconds": stride_seconds}
    cuts = [cut(waveform, model, processor, **options) for waveform in waveforms]
    windows = [window for parts in cuts for window in parts]
    paths: list[BestPath] = [[] for _ in windows]
    progress = tqdm(total=len(windows), desc="Recognising", unit="window", disable=not show_progress)
    for batch in batches(windows, batch_seconds=batch_seconds, rate=processor.feature_extractor.sampling_rate):
        for i, path in zip(batch, best_paths(model, processor, [windows[i] for i in batch]), strict=True):
            paths[i] = path
        progress.update(len(batch))
    progress.close()
    ordered, rate = iter(paths), processor.feature_extractor.sampling_rate
    return [
        join([next(ordered) for _ in parts], model, processor, duration=len(waveform) / rate)
        for parts, waveform in zip(cuts, waveforms, strict=True)
    ]


def batches(windows: Sequence[Window], *, batch_seconds: float, rate: int) -> Iterator[list[int]]:
    """Places of windows of similar length, at most `batch_seconds` of them with their padding, the longest first."""
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].waveform))
    while order:
        limit = max(1, int(batch_seconds * rate // max(1, len(windows[order[-1]].waveform))))
        yield order[-limit:][::-1]
        del order[-limit:]
