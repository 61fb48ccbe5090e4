"""Encode streams of audio step by step, several streams in one forward, equal to the masked pass over each of them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..files import STREAMING_GRAPH
from ..model import ConformerFeatureExtractor, ConformerForCTC
from ..model.configuration_conformer import required_frames
from ..model.streaming_conformer import empty_cache, join_caches, split_cache
from .streaming_features import FeatureStream


class Encoded(NamedTuple):
    """What a model gives for consecutive frames of a recording.

    Attributes:
        log_probs: (frames, vocabulary).
        states: Of the encoder, (frames, hidden_size); None for a decoder that does not need them.
    """

    log_probs: torch.Tensor
    states: torch.Tensor | None = None


def check_streams(model: PreTrainedModel, extractor: ConformerFeatureExtractor) -> None:
    """Raise ValueError if a model and its features cannot encode streams."""
    config = model.config
    if not (isinstance(model, ConformerForCTC) or getattr(model, "takes_cache", False)):
        raise ValueError(
            f"{type(model).__name__}, which takes no cache, cannot stream: use a checkpoint of our Conformer, or a "
            f"graph of hf-asr export --streaming true ({STREAMING_GRAPH})"
        )
    if not (config.causal_conv and config.block_type == "conformer"):
        raise ValueError(
            "the checkpoint cannot stream, because its layers look at later frames: train one with "
            "configs/streaming.yaml"
        )
    if extractor.denoise:
        raise ValueError("a checkpoint with denoise cannot stream, because denoising needs the whole recording")
    if extractor.frame_shift > extractor.frame_length:
        raise ValueError("a checkpoint whose frame_shift is longer than its frame_length cannot stream")
    if config.chunk_size < 1 or config.num_left_chunks < 0:
        raise ValueError(
            f"streaming needs a chunk_size above 0 and num_left_chunks of 0 or more, not {config.chunk_size} and "
            f"{config.num_left_chunks}: give both, for example --chunk_size 16 --num_left_chunks 8"
        )


def can_stream(model: PreTrainedModel, extractor: ConformerFeatureExtractor) -> bool:
    """Return whether a model and its features can encode streams."""
    try:
        check_streams(model, extractor)
    except ValueError:
        return False
    return True


class EncoderStream:
    """A stream's samples and features that are not yet encoded, and the encoder's cache.

    Raises:
        ValueError: The model or its features cannot stream.
    """

    def __init__(self, model: PreTrainedModel, extractor: ConformerFeatureExtractor):
        check_streams(model, extractor)
        self.config, self.features = model.config, FeatureStream(extractor)
        self.cache = empty_cache(model.config, batch_size=1, device=model.device, dtype=model.dtype)
        self.frames = torch.zeros(0, extractor.num_mel_bins)
        self.is_finished = False

    def add(self, samples: np.ndarray) -> None:
        """Add samples (samples,), float in [-1, 1]; any number of them."""
        self.frames = torch.cat([self.frames, self.features.accept(samples)])

    def end(self) -> None:
        """End the stream: `step` also encodes its last frames."""
        self.frames = torch.cat([self.frames, self.features.finish()])
        self.is_finished = True

    def is_ready(self, num_chunks: int = 1) -> bool:
        """Return whether a step of `num_chunks` chunks has its frames, or the stream is finished and has any."""
        encoder_frames = 1 if self.is_finished else num_chunks * self.config.chunk_size
        return len(self.frames) >= required_frames(self.config.subsampling_factor, encoder_frames)


@torch.inference_mode()
def step(
    model: PreTrainedModel, streams: Sequence[EncoderStream], *, num_chunks: int = 1, needs_states: bool = False
) -> list[Encoded]:
    """Encode the next chunks of each stream in one forward.

    The streams can be at any place. All of them must be ready.
    """
    config, encoder_frames = model.config, num_chunks * model.config.chunk_size
    size, hop = required_frames(config.subsampling_factor, encoder_frames), encoder_frames * config.subsampling_factor
    pieces = [stream.frames[:size] for stream in streams]
    if all(len(piece) == size for piece in pieces):  # all but the last step of a stream; it needs no mask
        features, mask, counts = torch.stack(pieces), None, [encoder_frames] * len(pieces)  # (B, T, M)
    else:
        lengths = torch.tensor([len(piece) for piece in pieces])
        features = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        mask = (torch.arange(features.shape[1]) < lengths[:, None]).long().to(model.device)
        counts = model.get_output_lengths(lengths).tolist()
    cache = join_caches([stream.cache for stream in streams])
    options = {"output_hidden_states": True} if needs_states else {}
    output = model(features.to(model.device), mask, cache=cache, **options)
    is_graph = not isinstance(model, ConformerForCTC)  # its logits are log-probabilities
    log_probs = output.logits if is_graph else F.log_softmax(output.logits, dim=-1, dtype=torch.float32)  # (B, S, V)
    for stream, row in zip(streams, split_cache(output.cache), strict=True):
        if is_graph and len(streams) == 1:
            stream.cache = row
        else:  # new tensors of PyTorch in each step, between others that stay, would fragment the memory (glibc)
            for kept, new in zip(stream.cache, row, strict=True):
                kept.copy_(new)
        stream.frames = stream.frames[hop:]
    states = output.hidden_states[-1] if needs_states else [None] * len(streams)  # (B, S, D)
    return [
        Encoded(values[:count], None if own is None else own[:count])
        for values, own, count in zip(log_probs, states, counts, strict=True)
    ]


def encode_stream(
    model: PreTrainedModel,
    stream: EncoderStream,
    pieces: Iterable[np.ndarray],
    *,
    num_chunks: int = 1,
    needs_states: bool = False,
) -> Iterator[Encoded]:
    """Encode the next chunks of a stream until its recording ends.

    Args:
        stream: New, or at any place: it ignores the samples that it already has.
        pieces: All of the recording, in consecutive pieces (samples,).
        num_chunks: Chunks of a step.
    """
    known = stream.features.num_samples
    for piece in itertools.chain(pieces, [None]):
        if piece is None and not stream.is_finished:
            stream.end()
        elif piece is not None and len(piece) > known:
            stream.add(piece[known:])
        known = max(0, known - len(piece if piece is not None else ()))
        while stream.is_ready(num_chunks):
            yield step(model, [stream], num_chunks=num_chunks, needs_states=needs_states)[0]


def encode_in_steps(
    model: PreTrainedModel,
    extractor: ConformerFeatureExtractor,
    recordings: Iterable[Iterable[np.ndarray]],
    *,
    num_chunks: int = 1,
    max_streams: int = 1,
    needs_states: bool = False,
) -> Iterator[tuple[int, Encoded]]:
    """Yield a recording's index and what is encoded of its next chunks, until all are done.

    The memory does not grow with the length of the recordings.

    Args:
        recordings: Each in consecutive pieces (samples,).
        num_chunks: Chunks of a step.
        max_streams: Recordings that share a forward; when one ends, the next one joins.
        needs_states: Return the encoder states, too.
    """
    waiting = enumerate(recordings)
    active: dict[int, tuple[EncoderStream, Iterator[np.ndarray]]] = {}
    while True:
        for i, pieces in itertools.islice(waiting, max_streams - len(active)):
            active[i] = EncoderStream(model, extractor), iter(pieces)
        if not active:
            return
        for stream, pieces in active.values():
            while not (stream.is_finished or stream.is_ready(num_chunks)):
                piece = next(pieces, None)
                stream.end() if piece is None else stream.add(piece)
        active = {i: entry for i, entry in active.items() if entry[0].is_ready(num_chunks)}
        if active:
            streams = [stream for stream, _ in active.values()]
            options = {"num_chunks": num_chunks, "needs_states": needs_states}
            yield from zip(list(active), step(model, streams, **options), strict=True)
