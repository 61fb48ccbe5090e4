"""Everything before the first step is done once: listing folders, building the augmentation, tokenising."""

import itertools
import json
import logging
from collections import Counter

import numpy as np
import pytest
import torch

from hf_asr.data import decoded, sources
from hf_asr.data.joined_texts import has_space
from hf_asr.model import ConformerTokenizer
from hf_asr.training import prepare as prepare_module
from hf_asr.training.prepare import prepare

from .test_run import arguments


@pytest.mark.parametrize("is_streamed", [False, True])
def test_preparing_lists_builds_and_tokenises_once(corpus, tmp_path, monkeypatch, is_streamed):
    calls: Counter[str] = Counter()
    local_splits, build_augmentation, tokenize = (
        sources.local_splits,
        prepare_module.build_augmentation,
        ConformerTokenizer.__call__,
    )

    def counted(name, function):
        def call(*args, **options):
            calls[name] += 1
            return function(*args, **options)

        return call

    def counted_tokenize(tokenizer, text, *args, **options):
        calls["transcripts"] += 1 if isinstance(text, str) else len(text)
        return tokenize(tokenizer, text, *args, **options)

    monkeypatch.setattr(sources, "local_splits", counted("listings", local_splits))
    monkeypatch.setattr(prepare_module, "build_augmentation", counted("augmentations", build_augmentation))
    monkeypatch.setattr(ConformerTokenizer, "__call__", counted_tokenize)
    model_args, data_args, args = arguments(corpus, tmp_path / "run", streaming=is_streamed)
    prepared = prepare(model_args, data_args, args)
    if not is_streamed:
        prepared.train_dataset[0, 0]
    assert calls == {"listings": 1, "augmentations": 1, "transcripts": 40 + 8}


def test_a_column_with_another_name_is_logged_once(corpus, tmp_path, caplog):
    for split in ("train", "validation"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for path in (corpus / split).glob("*.flac"):
            (tmp_path / "data" / split / path.name).symlink_to(path)
        lines = (corpus / split / "metadata.jsonl").read_text(encoding="utf-8").replace('"text":', '"sentence":')
        (tmp_path / "data" / split / "metadata.jsonl").write_text(lines, encoding="utf-8")
    caplog.set_level(logging.INFO, logger="hf_asr")
    prepare(*arguments(tmp_path / "data", tmp_path / "run"))
    assert caplog.text.count("column 'sentence' is used as 'text'") == 1


def test_a_vocabulary_of_single_words_has_the_space_of_concatenations(corpus, tmp_path):
    """Else a recogniser of digits writes one<unk>two; a checkpoint without the space gets it in fine-tuning."""
    for split in ("train", "validation"):
        (tmp_path / "data" / split).mkdir(parents=True)
        entries = [json.loads(line) for line in (corpus / split / "metadata.jsonl").read_text("utf-8").splitlines()]
        for number, entry in enumerate(entries):
            (tmp_path / "data" / split / entry["file_name"]).symlink_to(corpus / split / entry["file_name"])
            entry["text"] = ["yes", "no"][number % 2]
        lines = [json.dumps(entry) + "\n" for entry in entries]
        (tmp_path / "data" / split / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")

    def prepared(name: str, **changes):
        return prepare(*arguments(tmp_path / "data", tmp_path / name, **changes))

    plain = prepared("plain")
    assert not has_space(plain.processor.tokenizer)
    for part in (plain.model, plain.processor):
        part.save_pretrained(tmp_path / "checkpoint")
    options = {"concatenation": {"share": 0.5, "max_seconds": 30}}
    tuned = {"model_name_or_path": str(tmp_path / "checkpoint"), "model": {}}
    for found in (prepared("new", **options), prepared("tuned", **options, **tuned)):
        assert has_space(found.processor.tokenizer)
        assert found.model.config.vocab_size == plain.model.config.vocab_size + 1
        dataset = found.train_dataset
        labels = [dataset[0, index]["labels"] for index in range(len(dataset))]
        assert found.processor.tokenizer.unk_token_id not in itertools.chain(*labels)
        assert max(map(len, labels)) > 4


def test_preparing_takes_no_step(corpus, tmp_path):
    prepared = prepare(*arguments(corpus, tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data_report.html", "data_report.jsonl"]
    assert prepared.model.encoder.feature_istd.std() > 0  # feature statistics are set
    assert len(prepared.durations) == len(prepared.train_dataset) == len(prepared.training.kept) == 40


def test_recordings_that_are_decoded_once_give_the_same_examples(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "HF_HOME", str(tmp_path / "home"))
    babble = [{"name": "AddBabble", "p": 1.0}]  # which reads other rows
    options = {"augmentations": babble, "concatenation": {"share": 0.3}, "splicing": {"share": 0.5}}
    once, always = (
        prepare(*arguments(corpus, tmp_path / f"{is_cached}", cache_audio=is_cached, **options))
        for is_cached in (True, False)
    )
    assert len(list((tmp_path / "home").rglob("*.arrow"))) == 1
    assert torch.equal(once.model.encoder.feature_mean, always.model.encoder.feature_mean)
    assert len(once.train_dataset) == len(always.train_dataset) > 40
    for place in range(len(once.train_dataset)):
        np.testing.assert_equal(once.train_dataset[1, place], always.train_dataset[1, place])
