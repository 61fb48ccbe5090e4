import io
import itertools
import json
import pickle
import tarfile
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_asr.data.augment import build_augmentation
from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.concatenation import ConcatenatedDataset, ConcatenationArguments
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.data.inspection import inspect
from hf_asr.data.iterable import STATE, StreamedBatches
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
    assert_same(batch, expected)


def assert_same(batch: dict, expected: dict) -> None:
    """Compare the tensors, and the place after the batch; one place among the rows has several forms."""
    (batch, place), (expected, expected_place) = (
        ({name: value for name, value in of.items() if name != STATE}, of[STATE] | {"rows": None})
        for of in (batch, expected)
    )
    assert place == expected_place and batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], value) for name, value in expected.items())


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The ids of the rows that are read, in this process alone; without the 5 s that datasets waits for Arrow."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    rows, original = [], StreamedBatches._rows_from

    def counted(batches, place):
        for row in original(batches, place):
            rows.append(row["utterance_id"])
            yield row

    monkeypatch.setattr(StreamedBatches, "_rows_from", counted)
    return rows


def as_jsonl(rows: datasets.Dataset, folder: Path) -> None:
    lines = [json.dumps({"audio": row["audio"]["path"], "text": row["text"]}) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines))


def as_parquet(rows: datasets.Dataset, folder: Path) -> None:
    for number in range(4):
        rows.shard(4, number).select_columns(["audio", "text"]).to_parquet(folder / f"train-{number}.parquet")


def as_tar(rows: datasets.Dataset, folder: Path) -> None:
    for number in range(4):
        with tarfile.open(folder / f"train-{number}.tar", "w") as shard:
            for place, row in enumerate(rows.shard(4, number)):
                name = f"{number}-{place}"
                shard.add(row["audio"]["path"], f"{name}.flac")
                text = row["text"].encode()
                entry = tarfile.TarInfo(f"{name}.txt")
                entry.size = len(text)
                shard.addfile(entry, io.BytesIO(text))


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_tar])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_resumed_stream_continues_with_the_same_batches_and_without_the_rows_before(
    corpus, options, tmp_path, reads, write, world_size
):
    """In the first epoch, and in the second one; 3 processes divide the rows and not the shards."""
    write(Source(str(corpus)).load("train"), tmp_path)

    def batches() -> StreamedBatches:
        rows = Source(str(tmp_path)).load("train", streaming=True)
        return StreamedBatches(rows, **options, buffer_size=6, num_replicas=world_size)

    whole = first(batches(), 50)
    assert whole[-1][STATE]["epoch"] >= 2
    for used in (1, 4, 10, 25):
        resumed, state = batches(), json.loads(json.dumps(whole[used - 1][STATE]))
        resumed.resume([state])
        reads.clear()
        found = first(resumed, used + 3)
        assert found[:used] == [{}] * used
        for expected, batch in zip(whole[used:], found[used:], strict=False):
            assert_same(batch, expected)
        assert len(reads) <= 4 * 6


def test_a_resumed_mixture_of_sources_reads_its_epoch_again(corpus, options):
    rows = Source(str(corpus)).load("train").select_columns(["audio", "text", "utterance_id"])
    parts = [rows.select(range(10)), rows.select(range(10, 40))]

    def batches() -> StreamedBatches:
        streams = [part.to_iterable_dataset() for part in parts]
        rows = datasets.interleave_datasets(streams, [0.3, 0.7], seed=1, stopping_strategy="all_exhausted")
        return StreamedBatches(rows, **options, buffer_size=10)

    whole, resumed = first(batches(), 16), batches()
    last = [batch[STATE] for batch in whole[:12] if STATE in batch][-1]
    assert 0 < last["batches"] < 12 and last["rows"] is None
    resumed.resume([last])
    for expected, batch in zip(whole[12:], first(resumed, 16)[12:], strict=True):
        expected.pop(STATE, None), batch.pop(STATE, None)
        assert all(torch.equal(batch[name], value) for name, value in expected.items())


def test_resumed_workers_continue_in_their_order(corpus, options):
    rows = Source(str(corpus)).load("train")

    def batches() -> StreamedBatches:
        return StreamedBatches(rows.to_iterable_dataset(num_shards=4), **options, buffer_size=6)

    def loaded(dataset: StreamedBatches, count: int) -> list[dict]:
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, prefetch_factor=2)
        return list(itertools.islice(loader, count))

    whole, used = loaded(batches(), 14), 7
    assert [batch[STATE]["worker"] for batch in whole] == [0, 1] * 7
    resumed = batches()
    resumed.resume([batch[STATE] for batch in whole[used - 2 : used]])
    found = loaded(resumed, 14)
    assert found[:used] == [{}] * used
    for expected, batch in zip(whole[used:], found[used:], strict=True):
        assert_same(batch, expected)
