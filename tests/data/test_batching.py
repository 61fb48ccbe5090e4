import numpy as np
import pytest

from hf_asr.data.batching import DurationBatchSampler


@pytest.fixture(scope="module")
def durations() -> np.ndarray:
    """Like sentences_en: 1100 clips around 4.8 s."""
    return np.random.default_rng(0).lognormal(np.log(4.6), 0.35, 1100).clip(1.2, 15)


def epoch(durations, number: int, **options) -> list[list[int]]:
    sampler = DurationBatchSampler(durations, **{"max_batch_seconds": 60, "seed": 3, **options})
    sampler.set_epoch(number)
    batches = list(sampler)
    assert all(key[0] == number for batch in batches for key in batch)
    return [[index for _, index in batch] for batch in batches]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_every_utterance_once_an_epoch_on_every_world_size(durations, world_size):
    ranks = [epoch(durations, 5, num_replicas=world_size, rank=rank) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(len(durations)))


def test_batches_are_bounded_in_every_epoch(durations):
    for number in range(5):
        assert all(len(batch) * durations[batch].max() <= 60 for batch in epoch(durations, number))


def test_padding_stays_under_5_percent(durations):
    batches = epoch(durations, 1)
    padded = sum(len(batch) * durations[batch].max() for batch in batches)
    assert 1 - durations.sum() / padded < 0.05


def test_the_number_of_batches_never_changes(durations):
    assert len({len(epoch(durations, number)) for number in range(8)}) == 1


def test_seed_and_epoch_decide_the_order(durations):
    assert epoch(durations, 2) == epoch(durations, 2)
    assert epoch(durations, 2) != epoch(durations, 3)
    assert epoch(durations, 2) != epoch(durations, 2, seed=4)
    members = [{frozenset(batch) for batch in epoch(durations, number)} for number in (2, 3)]
    assert members[0] != members[1]  # not only the order of the same batches


def test_a_longer_utterance_makes_a_batch_of_its_own():
    assert [7] in epoch(np.array([1.0] * 7 + [100.0]), 0)


def test_fewer_utterances_than_processes_is_an_error():
    with pytest.raises(ValueError, match="cannot be split over 4 processes"):
        DurationBatchSampler([1.0, 2.0], max_batch_seconds=10, num_replicas=4)
