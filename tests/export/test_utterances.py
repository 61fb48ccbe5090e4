"""Which utterances a graph is compared on: named ones, validation data of the training, or espeak-ng's speech."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_asr import ConformerFeatureExtractor, ConformerProcessor, ConformerTokenizer
from hf_asr.checkpoint import load_checkpoint
from hf_asr.commands.export import add_arguments
from hf_asr.export import utterances
from hf_asr.export.check import MIN_CHARACTERS
from hf_asr.export.utterances import load_utterances, spellable_texts, spoken_utterances
from hf_asr.files import DATA_ARGUMENTS
from hf_asr.training.arguments import DataArguments
from hf_asr.training.data_used import validation_rows, write_data_arguments
from hf_asr.training.splits import load_splits

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def run_folder(tone_checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(tone_checkpoint, tmp_path / "run"))


def arguments(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*map(str, words), "--output_dir", "unused"])


def test_the_default_is_the_validation_data_of_the_training(run_folder, tones, monkeypatch):
    monkeypatch.chdir(tones.parent)
    write_data_arguments(run_folder, DataArguments(dataset_name="data"), seed=3)
    monkeypatch.chdir(run_folder)  # the recorded path was relative to another folder
    found = load_utterances(arguments("--model_name_or_path", run_folder), *load_checkpoint(str(run_folder)))
    assert found.description == "40 utterances of the validation data of its training (data)"
    lines = (tones / "validation" / "metadata.jsonl").read_text().splitlines()
    assert sorted(found.references) == sorted(json.loads(line)["text"] for line in lines)


def test_a_checkpoint_inside_a_run_uses_the_data_of_the_run(run_folder, tones):
    write_data_arguments(run_folder, DataArguments(dataset_name=str(tones)), seed=3)
    (run_folder / "checkpoint-7").mkdir()
    rows, _ = validation_rows(run_folder / "checkpoint-7")
    assert len(rows) == 40
    assert validation_rows(run_folder / "checkpoint-7" / "deeper") is None
    assert validation_rows("owner/name") is None


def test_a_held_out_share_has_the_rows_of_the_training(run_folder, tones, tmp_path):
    shutil.copytree(tones / "train", tmp_path / "data" / "train")
    name = json.dumps([{"name": str(tmp_path / "data"), "weight": 2}])
    data_args = DataArguments(dataset_name=name, held_out_share=0.25)
    write_data_arguments(run_folder, data_args, seed=3)
    rows, _ = validation_rows(run_folder)
    expected = load_splits(data_args, seed=3).evaluation
    assert len(rows) == 2 and rows["utterance_id"][:] == expected["utterance_id"][:]


def test_a_hub_id_is_recorded_unchanged(tmp_path):
    write_data_arguments(tmp_path, DataArguments(dataset_name="owner/name"), seed=0)
    recorded = json.loads((tmp_path / DATA_ARGUMENTS).read_text())
    assert recorded["arguments"]["dataset_name"][0]["name"] == "owner/name"


def test_a_named_dataset_is_preferred_to_the_data_of_the_training(run_folder, tones):
    write_data_arguments(run_folder, DataArguments(dataset_name=str(tones)), seed=3)
    named = ["--dataset_name", tones, "--eval_split_name", "train", "--max_utterances", "5"]
    found = load_utterances(arguments("--model_name_or_path", run_folder, *named), *load_checkpoint(str(run_folder)))
    assert found.description == "5 utterances of data, 'train'"


def test_missing_training_data_are_replaced_by_espeak_with_a_message(run_folder, tones, capsys, monkeypatch):
    write_data_arguments(run_folder, DataArguments(dataset_name=str(run_folder / "gone")), seed=3)
    monkeypatch.setattr(utterances, "spoken_utterances", lambda model, processor, *, limit: limit)
    args = arguments("--model_name_or_path", run_folder)
    assert load_utterances(args, *load_checkpoint(str(run_folder))) == args.max_utterances
    assert "the validation data of the training are not available, so espeak-ng speaks" in capsys.readouterr().err
    (run_folder / DATA_ARGUMENTS).write_text("{")
    assert load_utterances(args, *load_checkpoint(str(run_folder))) == args.max_utterances


@pytest.fixture
def digits_processor() -> ConformerProcessor:
    return ConformerProcessor(ConformerFeatureExtractor(), ConformerTokenizer.from_texts(DIGITS))


def test_spellable_texts_use_the_vocabulary_only():
    generator = np.random.default_rng(0)
    digits = {text for text, _ in spellable_texts(ConformerTokenizer.from_texts(DIGITS), generator)}
    assert set(DIGITS) <= digits and all(set(text) <= set("".join(DIGITS)) for text in digits)
    household = {text for text, _ in spellable_texts(ConformerTokenizer.from_texts(["turn off the light"]), generator)}
    assert "off" in household and "kitchen" not in household
    tokenizer = ConformerTokenizer.from_texts(["春眠不觉晓"], text_normalization="zh")
    poem = spellable_texts(tokenizer, generator)
    assert poem and all(len(text) == 4 and set(text) <= set("春眠不觉晓") for text, _ in poem)


def test_only_speech_that_the_checkpoint_transcribes_well_is_kept(digits_processor, monkeypatch):
    """The checkpoint transcribes nine of ten digits, and every other word as "zero"."""
    known, vocabulary, spoken = DIGITS[:9], len(digits_processor.tokenizer), []

    def knows_digits(waveform: np.ndarray) -> np.ndarray:
        text = spoken[-1] if spoken[-1] in known else "zero"
        ids = [token for token_id in digits_processor.tokenizer(text).input_ids for token in (token_id, 0)]
        return np.eye(vocabulary, dtype=np.float32)[ids]

    def speak(text, **options):
        spoken.append(text)
        return np.zeros(1600, np.float32), "voice"

    monkeypatch.setattr(utterances, "make_recording", speak)
    monkeypatch.setattr(utterances, "source_runner", lambda model, processor: knows_digits)
    found = spoken_utterances(None, digits_processor, limit=200)
    assert set(found.references) == set(known)
    assert sum(map(len, found.references)) >= MIN_CHARACTERS and len(found.references) <= 200
    assert len(spoken) < 3 * len(found.references)  # other words are not tried again and again
    assert len(spoken_utterances(None, digits_processor, limit=3).references) == 3


def test_a_checkpoint_that_transcribes_no_speech_is_an_error(tone_checkpoint, monkeypatch):
    monkeypatch.setattr(utterances, "MAX_SPOKEN", 5)
    model, processor = load_checkpoint(str(tone_checkpoint))
    processor = ConformerProcessor(processor.feature_extractor, ConformerTokenizer.from_texts(["seven abcdef"]))
    with pytest.raises(ValueError, match="nothing to compare a graph on.*give recordings .*--dataset_name"):
        spoken_utterances(model, processor, limit=200)
