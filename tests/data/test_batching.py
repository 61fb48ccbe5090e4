import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_asr.data.batching import DurationBatchSampler, MixedBatchSampler


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


def mixed(durations, *, synthetic: int = 500, max_batch_seconds: float = 60, replica: dict | None = None, **options):
    """Return a sampler of the recordings and of so many synthetic utterances, which are shorter."""
    both = [
        DurationBatchSampler(seconds, max_batch_seconds=max_batch_seconds, seed=3, **(replica or {}))
        for seconds in (durations, durations[:synthetic] / 2)
    ]
    return MixedBatchSampler(*both, **options)


def batches_of_epochs(sampler, epochs: int) -> list[list[tuple[int, int]]]:
    found = []
    for number in range(epochs):
        sampler.set_epoch(number)
        found += list(sampler)
    return found


def test_the_first_steps_are_synthetic_and_the_share_fades(durations):
    sampler = mixed(durations, steps=30, share=0.5, fade_steps=100)
    batches = batches_of_epochs(sampler, 2)
    are_synthetic = np.array([batch[0][1] >= len(durations) for batch in batches])
    assert len(sampler) == len(sampler.recordings) and len(batches) == 2 * len(sampler) > 130
    assert are_synthetic[:30].all() and not are_synthetic[130:].any()
    assert are_synthetic[30:130].sum() == 25  # the mean share is a quarter
    assert are_synthetic[30:80].sum() > 2 * are_synthetic[80:130].sum()
    assert all(len({index >= len(durations) for _, index in batch}) == 1 for batch in batches)


def test_a_constant_share_is_spread_evenly(durations):
    sampler = mixed(durations, steps=0, share=0.1)
    are_synthetic = sampler.are_synthetic(3)
    assert np.diff(np.flatnonzero(are_synthetic)).tolist() == [10] * (are_synthetic.sum() - 1)
    assert sampler.synthetic_share(100) == pytest.approx(0.1)


def test_recordings_and_synthetic_speech_are_used_in_turn(durations):
    """Each recording occurs once before any occurs twice, although an epoch contains synthetic batches as well."""
    sampler = mixed(durations, steps=7, share=0.3)
    batches = batches_of_epochs(sampler, 4)
    recordings = [batch for batch in batches if batch[0][1] < len(durations)]
    expected = batches_of_epochs(DurationBatchSampler(durations, max_batch_seconds=60, seed=3), 4)
    assert recordings == expected[: len(recordings)]
    synthetic = [[(number, index - len(durations)) for number, index in batch] for batch in batches]
    synthetic = [batch for batch in synthetic if batch[0][1] >= 0]
    expected = batches_of_epochs(DurationBatchSampler(durations[:500] / 2, max_batch_seconds=60, seed=3), 8)
    assert synthetic == expected[: len(synthetic)]


def test_any_epoch_begins_where_the_previous_one_ended(durations):
    """As in a resumed run, which does not iterate over the earlier epochs."""
    whole = batches_of_epochs(mixed(durations, steps=40, share=0.4, fade_steps=200), 4)
    resumed = mixed(durations, steps=40, share=0.4, fade_steps=200)
    resumed.set_epoch(2)
    assert list(resumed) == whole[2 * len(resumed) : 3 * len(resumed)]


def test_all_processes_train_on_the_same_kind_of_speech(durations):
    ranks = [
        batches_of_epochs(mixed(durations, steps=20, share=0.3, replica={"num_replicas": 2, "rank": rank}), 2)
        for rank in range(2)
    ]
    kinds = [[batch[0][1] >= len(durations) for batch in batches] for batches in ranks]
    assert kinds[0] == kinds[1] and any(kinds[0]) and not all(kinds[0])
    assert not {key for batch in ranks[0] for key in batch} & {key for batch in ranks[1] for key in batch}


@pytest.mark.parametrize("accumulated", [2, 3, 4, 1000])
def test_steps_are_optimiser_steps(durations, accumulated):
    """The last step of an epoch has fewer batches if their number is not a multiple."""
    sampler = mixed(durations, steps=3, share=0.0, gradient_accumulation_steps=accumulated)
    are_synthetic = sampler.are_synthetic(4)
    steps_per_epoch = -(-len(sampler) // accumulated)
    step = [number * steps_per_epoch + place // accumulated for number in range(4) for place in range(len(sampler))]
    assert are_synthetic.tolist() == [number < 3 for number in step]
    assert sampler.synthetic_share(3) == 1 and sampler.synthetic_share(4) < 1


def test_the_fingerprint_depends_on_both_samplers_and_the_schedule(durations):
    changes = [{}, {"steps": 6}, {"share": 0.2}, {"fade_steps": 9}, {"synthetic": 400}, {"max_batch_seconds": 50}]
    changes.append({"gradient_accumulation_steps": 2})
    assert len({mixed(durations, **{"steps": 5, **change}).fingerprint for change in changes}) == len(changes)
    assert mixed(durations, steps=5).fingerprint == mixed(durations, steps=5).fingerprint
