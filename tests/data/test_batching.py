import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_asr.data.batching import DurationBatchSampler


@pytest.fixture(scope="module")
def durations() -> np.ndarray:
    """Return 1100 durations around 4.8 s, as in sentences_en."""
    return np.random.default_rng(0).lognormal(np.log(4.6), 0.35, 1100).clip(1.2, 15)


def epoch(durations, number: int, **options) -> list[list[int]]:
    sampler = DurationBatchSampler(durations, **{"max_batch_seconds": 60, "seed": 3, **options})
    sampler.set_epoch(number)
    batches = list(sampler)
    assert all(key[0] == number for batch in batches for key in batch)
    return [[index for _, index in batch] for batch in batches]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_every_utterance_occurs_once_per_epoch_for_every_world_size(durations, world_size):
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


def test_order_depends_on_seed_and_epoch(durations):
    assert epoch(durations, 2) == epoch(durations, 2)
    assert epoch(durations, 2) != epoch(durations, 3)
    assert epoch(durations, 2) != epoch(durations, 2, seed=4)
    members = [{frozenset(batch) for batch in epoch(durations, number)} for number in (2, 3)]
    assert members[0] != members[1]  # the batches themselves differ, not only their order


def test_a_longer_utterance_is_a_batch_by_itself():
    assert [7] in epoch(np.array([1.0] * 7 + [100.0]), 0)


@settings(max_examples=300, deadline=None)
@given(
    durations=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=60)
    | st.builds(lambda count, seconds: [seconds] * count, st.integers(1, 60), st.floats(0.1, 100.0)),
    bound=st.floats(0.05, 200.0),
    world_size=st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_ranks_have_equally_many_batches_and_no_utterance_is_lost(durations, bound, world_size, seed):
    if len(durations) < world_size:
        return
    durations = np.array(durations)
    options = {"max_batch_seconds": bound, "num_replicas": world_size, "seed": seed}
    ranks = [epoch(durations, seed, rank=rank, **options) for rank in range(world_size)]
    batches = [batch for own in ranks for batch in own]
    assert len({len(own) for own in ranks}) == 1 and all(batches)
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations)))
    over = [batch for batch in batches if len(batch) > 1 and len(batch) * durations[batch].max() > bound * (1 + 1e-9)]
    if over:  # only if splitting cannot give a divisible number of batches, and in fewer batches than processes
        assert len(batches) + world_size > len(durations)
        assert sum(len(batch) - 1 for batch in over) < world_size


@pytest.mark.parametrize(("count", "seconds", "bound", "world_size"), [(7, 20.0, 30, 2), (5, 100.0, 60, 4)])
def test_batches_that_do_not_divide_are_joined_with_a_warning(count, seconds, bound, world_size, caplog):
    options = {"max_batch_seconds": bound, "num_replicas": world_size}
    ranks = [epoch([seconds] * count, 0, rank=rank, **options) for rank in range(world_size)]
    sizes = sorted(len(batch) for own in ranks for batch in own)
    assert sizes == [1] * (count - 2) + [2]
    assert f"the largest batch has {2 * seconds:.0f} s" in caplog.text and len(caplog.records) == 1


def test_the_shortest_batches_are_joined():
    durations = np.array([40.0, 100.0, 50.0, 70.0, 60.0])
    batches = [batch for rank in range(2) for batch in epoch(durations, 0, num_replicas=2, rank=rank)]
    assert sorted(durations[max(batches, key=len)]) == [40.0, 50.0]


def test_fewer_utterances_than_processes_is_an_error():
    with pytest.raises(ValueError, match="cannot be split over 4 processes"):
        DurationBatchSampler([1.0, 2.0], max_batch_seconds=10, num_replicas=4)
