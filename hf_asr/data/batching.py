"""Form batches bounded in seconds: bucketed by duration, shuffled by seed and epoch, equally many on each rank."""

import hashlib
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

logger = logging.getLogger("hf_asr")


class DurationBatchSampler(Sampler):
    """Yield the batches of this rank for an epoch, each a list of (epoch, index).

    Utterances are sorted by duration into buckets; the longest utterance of a bucket is at most `bucket_ratio` times
    the shortest. Each epoch shuffles them inside their bucket only. The sorted order is cut into batches once. For the
    cuts, each utterance counts as long as the longest one of its bucket, so that shuffling inside a bucket cannot
    exceed the limit, and the number of batches is the same in every epoch. Every utterance occurs once per epoch, on
    one rank, and all ranks have equally many batches.

    Args:
        durations: Seconds of each utterance.
        max_batch_seconds: Maximum padded batch size in seconds: utterances × longest utterance. A longer utterance is a
            batch by itself. If nearly all utterances are longer and their number is not a multiple of the number of
            processes, some share a batch above the limit, and a warning is logged.
        num_replicas, rank: Number of processes that train together, and the number of this one.

    Raises:
        ValueError: There are fewer utterances than processes.
    """

    def __init__(
        self,
        durations: Sequence[float],
        *,
        max_batch_seconds: float,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        bucket_ratio: float = 1.06,
    ):
        durations = np.asarray(durations, dtype=np.float64)
        if len(durations) < num_replicas:
            raise ValueError(
                f"{len(durations)} utterances cannot be split over {num_replicas} processes: use fewer processes"
            )
        self.seed, self.num_replicas, self.rank, self.epoch = seed, num_replicas, rank, 0
        self.order = np.argsort(durations, kind="stable")
        ordered = durations[self.order]
        # bucket_ends[b] is where bucket b ends in the sorted order
        ends, start = [], 0
        for place in range(1, len(ordered) + 1):
            if place == len(ordered) or ordered[place] > ordered[start] * bucket_ratio:
                ends.append(place)
                start = place
        self.bucket_ends = np.array(ends)
        longest = np.repeat(ordered[self.bucket_ends - 1], np.diff(self.bucket_ends, prepend=0))
        cuts, start = [], 0
        for place in range(1, len(ordered) + 1):
            if place == len(ordered) or (place + 1 - start) * longest[place] > max_batch_seconds:
                cuts.append((start, place))
                start = place
        self.cuts = _make_divisible(cuts, num_replicas, longest)
        joined = [(end - start) * longest[end - 1] for start, end in self.cuts if end - start > 1]
        if rank == 0 and max(joined, default=0) > max_batch_seconds:
            logger.warning(
                f"max_batch_seconds {max_batch_seconds:g} is exceeded: to give {num_replicas} processes equally many "
                f"batches, the largest batch has {max(joined):.0f} s (another number of processes may avoid this)"
            )

    def __len__(self) -> int:
        return len(self.cuts) // self.num_replicas

    @property
    def fingerprint(self) -> str:
        """Return a hash of the batches of all epochs: equal utterances, limit and processes give an equal hash."""
        cut = repr((self.seed, self.num_replicas, self.cuts, self.bucket_ends.tolist(), self.order.tolist()))
        return hashlib.blake2b(cut.encode(), digest_size=16).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order, start = self.order.copy(), 0
        for end in self.bucket_ends:
            order[start:end] = generator.permutation(order[start:end])
            start = end
        for cut in generator.permutation(len(self.cuts))[self.rank :: self.num_replicas]:
            start, end = self.cuts[cut]
            yield [(self.epoch, int(index)) for index in order[start:end]]


def _make_divisible(cuts: list[tuple[int, int]], num_replicas: int, longest: np.ndarray) -> list[tuple[int, int]]:
    """Return a number of batches that is a multiple of `num_replicas`; none is empty, and no utterance is repeated.

    The batches with the most utterances are halved, which keeps the limit. If there are too few utterances for that,
    the two neighbouring batches with the smallest union in seconds are merged (fewer than `num_replicas` times), which
    exceeds the limit.
    """
    cuts, utterances = list(cuts), cuts[-1][1]
    if -(-len(cuts) // num_replicas) * num_replicas <= utterances:
        while len(cuts) % num_replicas:
            fullest = max(range(len(cuts)), key=lambda i: cuts[i][1] - cuts[i][0])
            start, end = cuts[fullest]
            cuts[fullest : fullest + 1] = [(start, (start + end) // 2), ((start + end) // 2, end)]
    while len(cuts) % num_replicas:
        shortest = min(range(len(cuts) - 1), key=lambda i: (cuts[i + 1][1] - cuts[i][0]) * longest[cuts[i + 1][1] - 1])
        cuts[shortest : shortest + 2] = [(cuts[shortest][0], cuts[shortest + 1][1])]
    return cuts
