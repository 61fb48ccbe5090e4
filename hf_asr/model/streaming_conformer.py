"""Chunks of frames, by which a model recognises live audio: their attention mask, their random sizes, and the cache.

A chunk is a number of encoder frames. A frame attends to its own chunk and to a number of chunks before it (U2++, Wu et
al. 2021, https://arxiv.org/abs/2106.05642). Letters in shape comments: B streams, S encoder frames, D hidden size, H
heads, K head dimension.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .configuration_conformer import ConformerConfig

STREAMS_DIM = (1, 1, 0)  # dimension of the streams in the tensors of a cache


class StreamingCache(NamedTuple):
    """What a step of the encoder needs of the frames before it, for a batch of streams.

    The number of cached frames does not depend on the offset, so the caches of several streams can be joined.

    Attributes:
        attention: Keys, not yet rotated, and values of the last `left` frames, (layers, B, H, left, 2 * K). Frames
            before the beginning of a stream are masked.
        convolution: Last inputs of the convolution modules, (layers, B, D, kernel - 1).
        offset: Encoder frames before the step, int64 (B,).
    """

    attention: torch.Tensor
    convolution: torch.Tensor
    offset: torch.Tensor


def empty_cache(
    config: ConformerConfig, *, batch_size: int, device: torch.device, dtype: torch.dtype
) -> StreamingCache:
    """Return the cache for the first step of `batch_size` streams.

    With `num_left_chunks=-1` the cache grows with each step, and the streams of a batch must have the same offset.

    Raises:
        ValueError: The configuration does not allow streaming.
    """
    if config.chunk_size < 1:
        raise ValueError(f"streaming needs a chunk_size of 1 encoder frame or more, not {config.chunk_size}")
    if not config.causal_conv:
        raise ValueError("streaming needs a model with causal_conv: other convolutions look at later frames")
    if config.block_type != "conformer":
        raise ValueError(f"streaming needs block_type 'conformer', not {config.block_type!r}")
    left = config.chunk_size * max(0, config.num_left_chunks)
    attention = (config.num_hidden_layers, batch_size, config.num_attention_heads, left, 2 * config.head_dim)
    channels = (config.num_hidden_layers, batch_size, config.hidden_size, config.conv_kernel_size - 1)
    return StreamingCache(
        torch.zeros(attention, device=device, dtype=dtype),
        torch.zeros(channels, device=device, dtype=dtype),
        torch.zeros(batch_size, device=device, dtype=torch.long),
    )


def join_caches(caches: Sequence[StreamingCache]) -> StreamingCache:
    """Return one cache with the streams of several caches."""
    if len(caches) == 1:
        return caches[0]  # without a copy: a step does not write into its cache
    return StreamingCache(
        *(torch.cat(tensors, dim) for tensors, dim in zip(zip(*caches, strict=True), STREAMS_DIM, strict=True))
    )


def split_cache(cache: StreamingCache) -> list[StreamingCache]:
    """Return a cache for each stream, which shares the memory of the batch."""
    if len(cache.offset) == 1:
        return [cache]
    rows = (tensor.split(1, dim) for tensor, dim in zip(cache, STREAMS_DIM, strict=True))
    return [StreamingCache(*row) for row in zip(*rows, strict=True)]


def chunk_mask(queries: torch.Tensor, keys: torch.Tensor, *, chunk_size: int, num_left_chunks: int) -> torch.Tensor:
    """Return which keys each query may attend to: those of its own chunk and of the chunks before it.

    Args:
        queries: Places of the queries in their recordings, in encoder frames, (*, Q).
        keys: Places of the keys, (*, K).
        chunk_size: Encoder frames of a chunk; below 1 all frames are one chunk.
        num_left_chunks: Chunks before the own one; negative for all.

    Returns:
        Bool (*, Q, K).
    """
    if chunk_size < 1:
        return (
            torch.ones_like(queries, dtype=torch.bool)[..., None]
            & torch.ones_like(keys, dtype=torch.bool)[..., None, :]
        )
    query_chunks = queries.div(chunk_size, rounding_mode="floor")[..., None]
    key_chunks = keys.div(chunk_size, rounding_mode="floor")[..., None, :]
    mask = key_chunks <= query_chunks
    return mask if num_left_chunks < 0 else mask & (key_chunks >= query_chunks - num_left_chunks)


def draw_chunk(config: ConformerConfig, *, num_frames: int) -> tuple[int, int]:
    """Draw the chunk size and the number of left chunks of a training batch with `num_frames` encoder frames."""
    if torch.rand(()) < config.full_context_probability:
        return -1, -1
    sizes, lefts = config.dynamic_chunk_sizes, config.dynamic_left_chunks
    size = sizes[int(torch.randint(len(sizes), ()))]
    if lefts:
        return size, lefts[int(torch.randint(len(lefts), ()))]
    return size, int(torch.randint(-(-num_frames // size), ()))  # as U2++: from none to all, each number equally likely


__all__ = ["StreamingCache", "chunk_mask", "draw_chunk", "empty_cache", "join_caches", "split_cache"]
