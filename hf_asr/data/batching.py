"""Form batches bounded in seconds: bucketed by duration, shuffled by seed and epoch, equally many on each rank."""

import hashlib
import itertools
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


class MixedBatchSampler(Sampler):
    """Yield batches of recordings and, as a share that depends on the step, of synthetic speech.

    Recordings and synthetic speech are two endless sequences of batches: the epochs of their samplers, one after the
    other. Both continue where the previous epoch of this sampler stopped. Nothing is drawn: batch k of the run is
    synthetic if the sum of the shares up to this batch reaches the next whole number. The batches of a run that is
    resumed are therefore those of an uninterrupted one, and all processes train on the same kind at the same time.
    An epoch has as many batches as one of the recordings.

    Args:
        synthetic: Its indices are yielded after those of the recordings: the first one is the number of recordings.
        steps: Number of optimiser steps at the beginning that use synthetic speech only.
        share: Share of the batches after `steps` that are synthetic, 0 to 1.
        fade_steps: Number of optimiser steps in which this share falls linearly to zero; 0 keeps it constant.
    """

    def __init__(
        self,
        recordings: DurationBatchSampler,
        synthetic: DurationBatchSampler,
        *,
        steps: int,
        share: float = 0.0,
        fade_steps: int = 0,
        gradient_accumulation_steps: int = 1,
    ):
        self.recordings, self.synthetic, self.epoch = recordings, synthetic, 0
        self.steps, self.share, self.fade_steps = steps, share, fade_steps
        self.gradient_accumulation_steps = gradient_accumulation_steps

    def __len__(self) -> int:
        return len(self.recordings)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the batches of all epochs."""
        schedule = (self.steps, self.share, self.fade_steps, self.gradient_accumulation_steps)
        parts = repr((self.recordings.fingerprint, self.synthetic.fingerprint, schedule))
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    @property
    def _updates_per_epoch(self) -> int:
        return -(-len(self) // self.gradient_accumulation_steps)  # the last one may have fewer batches than the others

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def are_synthetic(self, epochs: int) -> np.ndarray:
        """Return whether each batch of the first epochs is synthetic, bool (epochs × batches,)."""
        epoch, place = np.divmod(np.arange(epochs * len(self)), len(self))
        step = epoch * self._updates_per_epoch + place // self.gradient_accumulation_steps
        faded = np.clip((step - self.steps) / self.fade_steps, 0, 1) if self.fade_steps else 0.0
        shares = np.where(step < self.steps, 1.0, self.share * (1 - faded))
        reached = np.floor(np.cumsum(shares) + 1e-6)  # ten times 0.1 is a little less than 1
        return np.diff(reached, prepend=0) > 0

    def synthetic_share(self, steps: int) -> float:
        """Return the share of synthetic batches among those of the first optimiser steps."""
        epochs, rest = divmod(steps, self._updates_per_epoch)
        batches = epochs * len(self) + rest * self.gradient_accumulation_steps
        return float(self.are_synthetic(epochs + 1)[:batches].mean()) if steps else 0.0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        before = self.epoch * len(self)
        planned = self.are_synthetic(self.epoch + 1)
        count = int(planned[:before].sum())
        synthetic, recordings = _batches_from(self.synthetic, count), _batches_from(self.recordings, before - count)
        offset = len(self.recordings.order)
        for is_synthetic in planned[before:]:
            if is_synthetic:
                yield [(epoch, offset + index) for epoch, index in next(synthetic)]
            else:
                yield next(recordings)


def _batches_from(sampler: DurationBatchSampler, number: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the batches of epoch after epoch without end, beginning with batch `number` of all of them."""
    epoch, place = divmod(number, len(sampler))
    while True:
        sampler.set_epoch(epoch)
        yield from itertools.islice(sampler, place, None)
        epoch, place = epoch + 1, 0


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
