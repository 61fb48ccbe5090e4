import json
import pickle
from functools import partial

import datasets
import numpy as np
import pytest
import torch

from hf_asr.data.augment import build_augmentation
from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.concatenation import ConcatenatedDataset, ConcatenationArguments
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.data.inspection import inspect
from hf_asr.data.iterable import StreamedBatches
from hf_asr.data.sources import Source
from hf_asr.families import pad_to_labels, required_samples

AUGMENTATIONS = [{"name": "SpeedPerturbation"}, {"name": "Gain", "p": 1.0}]


@pytest.fixture
def stream(corpus):
    return Source(str(corpus)).load("train", streaming=True)


@pytest.fixture
def options(processor, tiny_model):
    return {
        "processor": processor,
        "required_samples": partial(required_samples, config=tiny_model.config),
        "pad_to_labels": partial(pad_to_labels, config=tiny_model.config),
        "split": "train",
        "max_batch_seconds": 20,
        "max_duration_seconds": 30,
        "augment": build_augmentation(AUGMENTATIONS, seed=3),
        "seed": 3,
    }


def first(batches: StreamedBatches, count: int) -> list[dict]:
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("concatenation", [None, ConcatenationArguments(max_seconds=10)], ids=["alone", "concatenated"])
def test_a_buffer_as_large_as_the_stream_gives_the_batches_of_a_dataset(corpus, stream, options, concatenation):
    rows = Source(str(corpus)).load("train")
    shared = {name: options[name] for name in ("processor", "required_samples", "max_duration_seconds")}
    inspection = inspect(rows, split="train", **shared)
    shared = {name: options[name] for name in ("processor", "augment", "pad_to_labels")}
    dataset = SpeechDataset(rows.select(inspection.kept), **shared)
    durations = [options["augment"].longest(seconds) for seconds in inspection.durations]
    if concatenation is not None:
        dataset = ConcatenatedDataset(dataset, concatenation, durations=durations, seed=3)
        durations = dataset.durations
    sampler = DurationBatchSampler(durations, max_batch_seconds=20, seed=3)
    collate, expected = SpeechCollator(options["processor"]), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected += [collate([dataset[key] for key in keys]) for keys in sampler]
    streamed = first(StreamedBatches(stream, **options, concatenation=concatenation), len(expected))
    for theirs, ours in zip(expected, streamed, strict=True):
        for name in theirs:
            assert torch.equal(theirs[name], ours[name])


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_row_occurs_once_per_pass_for_every_world_size(corpus, options, world_size):
    options["augment"] = None
    rows = Source(str(corpus)).load("train")
    expected = sorted(tuple(labels) for labels in options["processor"].tokenizer(rows["text"])["input_ids"])
    found = []
    for rank in range(world_size):
        stream = rows.to_iterable_dataset()
        batches, count = StreamedBatches(stream, buffer_size=7, num_replicas=world_size, rank=rank, **options), 0
        for batch in batches:
            found += [tuple(row[row != -100].tolist()) for row in batch["labels"]]
            count += len(batch["labels"])
            if count == len(rows) // world_size:
                break
    assert sorted(found) == expected


def test_workers_divide_the_shards(corpus, options):
    options["augment"] = None
    rows = Source(str(corpus)).load("train")
    expected = sorted(tuple(labels) for labels in options["processor"].tokenizer(rows["text"])["input_ids"])
    batches = StreamedBatches(rows.to_iterable_dataset(num_shards=2), **options)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=3, prefetch_factor=1)
    found = [
        [],
        [],
    ]  # batches alternate between the first two workers; the third has no shard and must not end the iteration
    for i, batch in enumerate(loader):
        found[i % 2] += [tuple(row[row != -100].tolist()) for row in batch["labels"]]
        if min(map(len, found)) >= len(rows) // 2:
            break
    one_pass = [labels[: len(rows) // 2] for labels in found]
    assert sorted(one_pass[0] + one_pass[1]) == expected


def test_findings_are_appended_and_too_many_are_an_error(stream, options, tmp_path):
    rows = [*stream, {"audio": {"bytes": None, "path": "gone.wav"}, "text": "the dog", "utterance_id": "gone"}]
    columns = {name: [row[name] for row in rows] for name in ("audio", "text", "utterance_id")}
    bad = datasets.Dataset.from_dict(columns).to_iterable_dataset()
    report = tmp_path / "data_report.jsonl"
    first(StreamedBatches(bad, report=report, **options), 1)
    assert '"gone"' in report.read_text() and "file not found" in report.read_text()
    with pytest.raises(ValueError, match="1 of 41 rows cannot be trained on .2%, limit 1%.: unreadable audio, as gone"):
        first(StreamedBatches(bad, max_unusable_share=0.01, **options), 1)
    alone = bad.skip(40)
    with pytest.raises(ValueError, match="none of 1 streamed rows"):
        first(StreamedBatches(alone, max_unusable_share=1, **options), 1)


def test_half_a_surrogate_pair_is_escaped_in_the_findings(stream, options, tmp_path):
    undecodable = {"audio": {"bytes": None, "path": "gone.wav"}, "text": "the dog", "utterance_id": "caf\udce9.wav"}

    def rows():
        yield from (dict.fromkeys(undecodable) | {name: row[name] for name in undecodable} for row in stream)
        yield undecodable

    report = tmp_path / "data_report.jsonl"
    first(StreamedBatches(datasets.IterableDataset.from_generator(rows), report=report, **options), 1)
    assert json.loads(report.read_text(encoding="utf-8"))["utterance_id"] == "caf\udce9.wav"


def test_each_epoch_visits_the_shards_in_a_different_order(corpus, options):
    rows = Source(str(corpus)).load("train")
    batches = StreamedBatches(rows.to_iterable_dataset(num_shards=8), buffer_size=5, **options)
    orders = []
    for epoch in (0, 1, 0):
        batches.rows.set_epoch(epoch)
        orders.append([row["utterance_id"] for row in batches.rows])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert np.unique(orders[0]).size == 40


def test_a_process_or_worker_without_rows_is_an_error(corpus, options):
    one_row = Source(str(corpus)).load("train").select([0]).to_iterable_dataset()
    StreamedBatches(one_row, **options).check_shares(workers=0)
    with pytest.raises(ValueError, match="process 1 of 2 has 0 rows of the stream"):
        StreamedBatches(one_row, num_replicas=2, rank=1, **options).check_shares(workers=0)
    with pytest.raises(ValueError, match="process 0 of 1 has 1 rows .*dataloader workers .there are 2"):
        StreamedBatches(one_row, **options).check_shares(workers=2)


def test_batches_are_bounded_with_slowed_down_audio(corpus, options):
    rows = Source(str(corpus)).load("train").select(range(10))
    options |= {
        "max_batch_seconds": 7,
        "augment": build_augmentation([{"name": "SpeedPerturbation", "factors": [0.8]}], seed=3),
    }
    for batch in first(StreamedBatches(rows.to_iterable_dataset(), **options), 5):
        count, frames = batch["attention_mask"].shape
        assert count == 1 or count * frames / 100 <= 7.1


def test_a_process_with_fewer_rows_than_workers_is_an_error(corpus, options):
    rows = Source(str(corpus)).load("train").select(range(3))
    for stream, workers in ((rows.to_iterable_dataset(), 1), (rows.to_iterable_dataset(num_shards=3), 2)):
        shares = [
            StreamedBatches(stream, num_replicas=5 // workers, rank=rank, **options) for rank in range(5 // workers)
        ]
        shares[0].check_shares(1)
        with pytest.raises(ValueError, match="process 1 of 2 has 1 rows|process 4 of 5 has 0 rows"):
            shares[-1].check_shares(workers)


def test_batches_of_a_stream_can_be_sent_to_a_worker_as_a_pickle(stream, options):
    """macOS and Windows start workers so."""
    batches = StreamedBatches(stream, **options)
    (expected,), (batch,) = first(batches, 1), first(pickle.loads(pickle.dumps(batches)), 1)
    assert all(torch.equal(expected[name], batch[name]) for name in expected)
