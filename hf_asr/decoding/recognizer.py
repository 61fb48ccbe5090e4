"""Waveforms to transcripts with word times: windows over long recordings, batches of similar length."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..checkpoint import output_lengths, samples_per_frame


@dataclass
class Word:
    """A word (or Han character) and where it was said, in seconds."""

    word: str
    start: float
    end: float


@dataclass
class Transcript:
    text: str
    words: list[Word] = field(default_factory=list)


@dataclass
class _Window:
    """Part of recording `source`: its samples, and how many encoder frames of context at each end are thrown away."""

    source: int
    waveform: np.ndarray
    left: int
    right: int


def _windows(source: int, waveform: np.ndarray, *, chunk: int, stride: int, ratio: int) -> list[_Window]:
    """Windows of `chunk` samples that overlap by `stride` samples on each side, all multiples of `ratio`."""
    if len(waveform) <= chunk:
        return [_Window(source, waveform, 0, 0)]
    windows, start = [], 0
    while True:
        end = start + chunk
        is_last = end >= len(waveform)
        left = 0 if start == 0 else stride // ratio
        windows.append(_Window(source, waveform[start:end], left, 0 if is_last else stride // ratio))
        if is_last:
            return windows
        start += chunk - 2 * stride


@torch.inference_mode()
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
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    rate, ratio = extractor.sampling_rate, samples_per_frame(model.config)
    chunk = max(1, round(chunk_seconds * rate / ratio)) * ratio
    stride = round(stride_seconds * rate / ratio) * ratio
    if chunk <= 2 * stride:
        raise ValueError(f"chunk_seconds {chunk_seconds} must be more than twice stride_seconds {stride_seconds}")
    windows = [
        window
        for source, waveform in enumerate(waveforms)
        for window in _windows(source, waveform, chunk=chunk, stride=stride, ratio=ratio)
    ]
    best_paths: dict[int, list[int]] = {}
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].waveform))
    progress = tqdm(total=len(windows), desc="Recognising", unit="window", disable=not show_progress)
    while order:
        batch = [order.pop()]  # the longest bounds the batch
        limit = max(1, int(batch_seconds * rate // max(1, len(windows[batch[0]].waveform))))
        while order and len(batch) < limit:
            batch.append(order.pop())
        inputs = processor(
            [windows[i].waveform for i in batch],
            sampling_rate=rate,
            return_tensors="pt",
            padding=True,
            return_attention_mask=True,
            device=model.device,
        ).to(model.device)
        attention_mask = inputs["attention_mask"]
        if not extractor.return_attention_mask:  # wav2vec2's base models were trained without one
            inputs.pop("attention_mask")
        ids = model(**inputs).logits.argmax(-1).cpu()  # (batch, frames)
        lengths = output_lengths(model, attention_mask).clamp(max=ids.shape[1]).tolist()
        for i, path, length in zip(batch, ids.tolist(), lengths, strict=True):
            window = windows[i]
            # A window has a frame less than its samples would give; the blank keeps the time of what follows.
            expected = round(len(window.waveform) / ratio)
            path = path[:length] + [tokenizer.pad_token_id] * (expected - length)
            best_paths[i] = path[window.left : len(path) - window.right]
        progress.update(len(batch))
    progress.close()
    paths: list[list[int]] = [[] for _ in waveforms]
    for i, window in enumerate(windows):
        paths[window.source] += best_paths[i]
    return [_transcript(tokenizer, path, seconds_per_frame=ratio / rate) for path in paths]


def _transcript(tokenizer, path: list[int], *, seconds_per_frame: float) -> Transcript:
    output = tokenizer.decode(path, output_word_offsets=True) if path else {"text": "", "word_offsets": []}
    return Transcript(
        text=output["text"],
        words=[
            Word(
                offset["word"],
                round(offset["start_offset"] * seconds_per_frame, 3),
                round(offset["end_offset"] * seconds_per_frame, 3),
            )
            for offset in output["word_offsets"]
        ],
    )
