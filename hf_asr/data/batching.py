"""Batches bounded by seconds: bucketed by length, shuffled by seed and epoch, split over ranks, always as many."""

import hashlib
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

logger = logging.getLogger("hf_asr")


class DurationBatchSampler(Sampler):
    """Yields this rank's batches of an epoch, each a list of (epoch, index).

    Utterances are sorted by duration into buckets whose longest is at most `bucket_ratio` times the shortest. In an
    epoch they change places at random inside their bucket only, so the cuts, made once for the longest of each bucket,
    bound every epoch: the number of batches never changes, and their longest times their count stays under the limit.
    Every utterance comes once an epoch, on one rank, and every rank has as many batches.

    Args:
        durations: Seconds.
        max_batch_seconds: Bound on count times longest. A longer utterance makes a batch of its own. Where nearly all
            do and their number does not divide by the processes, some share a batch that is over the bound, which is
            logged.
        num_replicas, rank: Of the processes that train together.

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
        self.cuts = _divisible(cuts, num_replicas, longest)
        joined = [(end - start) * longest[end - 1] for start, end in self.cuts if end - start > 1]
        if rank == 0 and max(joined, default=0) > max_batch_seconds:
            logger.warning(
                f"max_batch_seconds {max_batch_seconds:g} does not hold: for {num_replicas} processes to have as many "
                f"batches each, the largest batch is {max(joined):.0f} s (another number of processes may divide)"
            )

    def __len__(self) -> int:
        return len(self.cuts) // self.num_replicas

    @property
    def fingerprint(self) -> str:
        """Of the batches of all epochs; the same where the utterances, the bound and the processes are."""
        cut = repr((self.seed, self.num_replicas, self.cuts, self.bucket_ends.tolist(), self.order.tolist()))
        return hashlib.blake2b(cut.encode(), digest_size=16).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration gives."""
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


def _divisible(cuts: list[tuple[int, int]], num_replicas: int, longest: np.ndarray) -> list[tuple[int, int]]:
    """As many batches as divide by the processes: none of them is empty, and no utterance is repeated or dropped.

    The fullest are halved, which keeps the bound. Where there are too few utterances for that, the batches whose union
    is shortest are joined, fewer of them than there are processes, and the bound does not hold for these.
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
