"""Batches bounded by seconds: bucketed by length, shuffled by seed and epoch, split over ranks, always as many."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class DurationBatchSampler(Sampler):
    """Yields this rank's batches of an epoch, each a list of (epoch, index).

    Utterances are sorted by duration into buckets whose longest is at most `bucket_ratio` times the shortest. In an
    epoch they change places at random inside their bucket only, so the cuts, made once for the longest of each bucket,
    bound every epoch: the number of batches never changes, and their longest times their count stays under the limit.
    Every utterance comes once an epoch, on one rank.

    Args:
        durations: Seconds.
        max_batch_seconds: Bound on count times longest. A longer utterance makes a batch of its own.
        num_replicas, rank: Of the processes that train together.
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
            raise ValueError(f"{len(durations)} utterances cannot be split over {num_replicas} processes: use fewer")
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
        # As many batches as divide by the processes: the fullest are halved, none is repeated or dropped.
        while len(cuts) % num_replicas:
            fullest = max(range(len(cuts)), key=lambda i: cuts[i][1] - cuts[i][0])
            start, end = cuts[fullest]
            cuts[fullest : fullest + 1] = [(start, (start + end) // 2), ((start + end) // 2, end)]
        self.cuts = cuts

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
