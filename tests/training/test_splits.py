import json
from collections import Counter

import datasets
import pytest

from hf_asr.data.sources import read_row
from hf_asr.training.arguments import DataArguments
from hf_asr.training.splits import load_splits


def test_without_a_validation_split_speakers_are_held_out(corpus):
    arguments = DataArguments(dataset_name=str(corpus / "train"), held_out_share=0.3)
    splits = load_splits(arguments, seed=0)
    train_rows, eval_rows = splits.train, splits.evaluation
    assert len(train_rows) + len(eval_rows) == 40
    assert not set(train_rows["speaker"]) & set(eval_rows["speaker"])
    again = load_splits(arguments, seed=0).evaluation
    assert again["utterance_id"] == eval_rows["utterance_id"]
    assert load_splits(arguments, seed=1).evaluation["utterance_id"] != eval_rows["utterance_id"]
    assert splits.split == "train"  # the split that the scored rows come from
    assert splits.selection == {"held_out_share": 0.3, "by": "speaker", "seed": 0}


def test_utterances_of_unknown_speakers_are_held_out_one_by_one(corpus, tmp_path):
    lines = [json.loads(line) for line in (corpus / "train" / "metadata.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        line |= {"audio": str(corpus / "train" / line.pop("file_name")), "speaker": None if place % 2 else "x"}
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = DataArguments(dataset_name=str(tmp_path / "m.jsonl"), held_out_share=0.3)
    splits = load_splits(arguments, seed=0)
    assert len(splits.train) + len(splits.evaluation) == 40
    assert len(splits.evaluation) < 10 or len(set(splits.evaluation["speaker"])) == 2  # the unknown are not one group
    only_unknown = [line | {"speaker": None} for line in lines]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in only_unknown))
    splits = load_splits(arguments, seed=0)
    assert len(splits.evaluation) == 12 and splits.selection["by"] == "utterance"


def test_mixing_sources_does_not_copy_their_audio(corpus, tmp_path, monkeypatch):
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted((corpus / "train").glob("*.flac"))[:6]]
    table = {"audio": stored, "text": ["x"] * 6, "speaker": list("aabbcc"), "id": [1] * 6}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    for name in ("map", "flatten_indices", "filter"):
        monkeypatch.setattr(datasets.Dataset, name, lambda *_, **__: pytest.fail("that copies the audio"))
    names = [{"name": str(tmp_path / "saved"), "weight": 2}, {"name": str(corpus)}]
    arguments = DataArguments(dataset_name=names, held_out_share=0.3)
    splits = load_splits(arguments, seed=0)
    assert len(splits.train) == 2 * 4 + 40 and len(splits.evaluation) == 2 + 8
    ids = splits.train["utterance_id"][:]
    assert len(set(ids)) == len(ids)
    for row in splits.train.select([0, 4, 8]):
        assert len(read_row(row, sampling_rate=16000)) > 1000


def test_excluded_speakers_are_in_no_split(corpus):
    everyone = load_splits(DataArguments(dataset_name=str(corpus)), seed=0).train["speaker"]
    arguments = DataArguments(dataset_name=str(corpus), exclude_speakers=[everyone[0]])
    splits = load_splits(arguments, seed=0)
    for rows in (splits.train, splits.evaluation):
        assert everyone[0] not in rows["speaker"]
    there = load_splits(DataArguments(dataset_name=str(corpus)), seed=0)
    assert (there.split, there.selection) == ("validation", None)
    is_excluded = everyone[0] in there.evaluation["speaker"]
    assert splits.selection == ({"excluded_speakers": 1} if is_excluded else None) and splits.split == "validation"


def two(corpus, **more) -> str:
    sources = [{"name": str(corpus), "weight": 3}, {"name": str(corpus / "validation"), **more}]
    return json.dumps(sources)


def test_the_rows_of_a_source_are_repeated_by_its_weight(corpus):
    splits = load_splits(DataArguments(dataset_name=two(corpus), held_out_share=0.25), seed=0)
    train_rows, eval_rows = splits.train, splits.evaluation
    held_out = sum(source.endswith("validation") for source in eval_rows["source"])
    assert held_out and len(eval_rows) == 8 + held_out
    assert splits.split == "validation, train" and splits.selection["held_out_share"] == 0.25
    counts = Counter(train_rows["source"])
    assert counts == {str(corpus): 3 * 40, str(corpus / "validation"): 8 - held_out}
    assert len(set(train_rows["utterance_id"])) == len(train_rows)  # copies are augmented differently
    copies = [row for row in train_rows if row["utterance_id"].split("#")[0] == train_rows[0]["utterance_id"]]
    assert [row["utterance_id"][-2:] for row in copies[1:]] == ["#2", "#3"]
    assert len({read_row(row, sampling_rate=16000).tobytes() for row in copies}) == 1


def test_streams_are_mixed_by_their_weights(corpus):
    names = [{"name": str(corpus), "weight": 3}, {"name": str(corpus), "train_split_name": "validation"}]
    names[1]["eval_split_name"] = "train"
    splits = load_splits(DataArguments(dataset_name=names, streaming=True), seed=0)
    rows, eval_rows = list(splits.train), splits.evaluation
    texts = set(eval_rows["text"][:8])
    drawn = Counter(row["text"] in texts for row in rows)  # no validation sentence occurs in training
    assert len(eval_rows) == 8 + 40 and {row["source"] for row in rows} == {f"{corpus}/train", f"{corpus}/validation"}
    assert len({row["text"] for row in rows}) == 48  # until both are exhausted
    assert 1.5 < drawn[False] / drawn[True] < 6


def test_columns_of_one_name_and_different_types_become_strings(corpus, tmp_path):
    row = json.loads((corpus / "validation" / "metadata.jsonl").read_text().splitlines()[0])
    row |= {"audio": str(corpus / "validation" / row.pop("file_name")), "speaker": 7}
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row | {"id": str(i)}) + "\n" for i in range(4)))
    names = [{"name": str(corpus)}, {"name": str(tmp_path / "other.jsonl")}]
    train_rows = load_splits(DataArguments(dataset_name=names, held_out_share=0.25), seed=0).train
    assert "7" in train_rows["speaker"]


def test_a_validation_split_with_another_name_is_found(corpus, tmp_path, caplog):
    (tmp_path / "train").symlink_to(corpus / "train")
    (tmp_path / "dev").symlink_to(corpus / "validation")
    caplog.set_level("INFO", logger="hf_asr")
    splits = load_splits(DataArguments(dataset_name=str(tmp_path)), seed=0)
    assert len(splits.evaluation) == 8 and (splits.split, splits.selection) == ("dev", None)
    assert "its split 'dev' is scored" in caplog.text


@pytest.mark.parametrize(
    ("dataset_name", "message"),
    [
        (None, "dataset_name is required"),
        ("[{nam: a}]", "each entry must be a mapping with a name; its keys: name, config_name"),
        ("[{name: a, weight: 0.5}]", "a: weight must be a whole number, 1 or more, not 0.5"),
    ],
)
def test_an_invalid_dataset_name_is_an_error(dataset_name, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(dataset_name=dataset_name).sources()


def test_excluded_speakers_are_neither_held_out_nor_replayed(corpus, tmp_path):
    lines = [json.loads(line) for line in (corpus / "train" / "metadata.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        line |= {"audio": str(corpus / "train" / line.pop("file_name")), "speaker": str(place % 3)}
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for seed in range(4):
        more = {"exclude_speakers": ["1"], "held_out_share": 0.5, "replay_dataset_name": str(tmp_path / "m.jsonl")}
        splits = load_splits(DataArguments(dataset_name=str(tmp_path / "m.jsonl"), **more), seed=seed)
        for rows in (splits.train, splits.evaluation, splits.replayed):
            assert set(rows["speaker"]) <= {"0", "2"} and len(rows)
    with pytest.raises(ValueError, match="exclude_speakers 9: no such speaker in column 'speaker'; speakers: 0, 1, 2"):
        load_splits(DataArguments(dataset_name=str(tmp_path / "m.jsonl"), exclude_speakers=["9"]), seed=0)


def test_ids_are_unique_over_two_splits_of_one_source(corpus):
    names = [{"name": str(corpus), "train_split_name": split} for split in ("train", "validation")]
    rows = load_splits(DataArguments(dataset_name=names, held_out_share=0.2, eval_split_name="train"), seed=0).train
    ids = rows["utterance_id"][:]
    assert len(set(ids)) == len(ids) == 48


def test_no_row_left_to_train_on_is_an_error(corpus, tmp_path):
    lines = (corpus / "train" / "metadata.jsonl").read_text().splitlines()[:1]
    row = json.loads(lines[0])
    row |= {"audio": str(corpus / "train" / row.pop("file_name"))}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="no row is left to train on: change held_out_share"):
        load_splits(DataArguments(dataset_name=str(tmp_path / "m.jsonl")), seed=0)
    with pytest.raises(ValueError, match="held_out_share must be between 0 and 1, not 1.0"):
        DataArguments(held_out_share=1.0)
