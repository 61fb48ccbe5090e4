"""`hf-asr tune-decoding` writes decoding.json, and every command decodes with it."""

import json
import shutil

import pytest

from hf_asr import load
from hf_asr.cli import main
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.decoders import DECODERS
from hf_asr.decoding.tuned import read_tuned


@pytest.fixture(scope="module")
def tuned(checkpoint, corpus, tmp_path_factory):
    """A checkpoint with a language model of the training transcripts and tuned weights."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(checkpoint, folder / "model")
    main(["lm", "--dataset_name", str(corpus), "--model_name_or_path", str(checkpoint), "--output_dir", str(folder)])
    command = ["tune-decoding", "--model_name_or_path", str(folder / "model"), "--dataset_name", str(corpus)]
    main([*command, "--language_model", str(folder / "lm.arpa.gz"), "--beam_size", "4"])
    return folder / "model"


def test_the_options_are_stored_with_what_they_were_tuned_on(tuned, corpus, capsys):
    stored = json.loads((tuned / "decoding.json").read_text())
    assert stored["decoding"] == "beam" and stored["beam_size"] == 4 and stored["language_model"] == "lm.arpa.gz"
    assert (tuned / "lm.arpa.gz").is_file()
    assert stored["error_rate"] <= stored["error_rate_without"] and stored["utterances"] == 8
    assert stored["dataset"] == str(corpus) and stored["split"] == "validation"


def test_a_recogniser_decodes_with_them(tuned):
    recognizer, stored = load(tuned), json.loads((tuned / "decoding.json").read_text())
    assert recognizer.decoder.name == "beam" and recognizer.decoder.beam_size == 4
    (scorer,) = recognizer.decoder.scorers
    assert (scorer.weight, scorer.bonus) == (stored["language_model_weight"], stored["word_insertion_bonus"])


def test_what_is_given_replaces_them(tuned):
    assert load(tuned, arguments=DecodingArguments(decoding="greedy")).decoder.name == "greedy"
    decoder = load(tuned, arguments=DecodingArguments(language_model="none", beam_size=3)).decoder
    assert (decoder.beam_size, decoder.scorers) == (3, [])


def test_without_the_file_nothing_changes(checkpoint):
    assert read_tuned(checkpoint) == {} and load(checkpoint).decoder.name == "greedy"


def test_a_damaged_file_and_a_missing_language_model_are_errors(tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "model")
    (tmp_path / "model" / "lm.arpa.gz").unlink()
    with pytest.raises(ValueError, match=r"names the language model lm\.arpa\.gz, which is not there"):
        load(tmp_path / "model")
    for text in ('{"decoding": ', "[]", '{"beam_size": "ten"}', '{"decoding": "guess"}'):
        (tmp_path / "model" / "decoding.json").write_text(text)
        with pytest.raises(ValueError, match=r"decoding\.json is damaged"):
            load(tmp_path / "model")


def test_the_language_model_is_a_file_of_the_checkpoint(tuned, tmp_path):
    """A checkpoint of somebody else cannot name any other file of the machine."""
    shutil.copytree(tuned, tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "decoding.json").read_text())
    (tmp_path / "model" / "decoding.json").write_text(json.dumps(stored | {"language_model": "../../lm.arpa.gz"}))
    assert read_tuned(tmp_path / "model")["language_model"] == str(tmp_path / "model" / "lm.arpa.gz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoding": "greedy", "language_model": "lm.arpa"}, "language_model is not an option of greedy decoding"),
        ({"language_model_weight": -1.0}, "language_model_weight must be 0 or more"),
        ({"word_insertion_bonus": float("nan")}, "word_insertion_bonus must be a finite number"),
        ({"beam_size": 0}, "beam_size must be from 1"),
        ({"decoding": "beam", "language_model_weight": 1.0}, "language_model_weight is an option of a language model"),
        (
            {"decoding": "beam", "language_model": "none", "word_insertion_bonus": 2.0},
            "word_insertion_bonus is an option of a language model: give --language_model",
        ),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        DecodingArguments(**options).resolved({})


def test_no_language_model_can_be_asked_for_with_every_decoder():
    stored = {"decoding": "beam", "language_model": "lm.arpa", "language_model_weight": 0.9, "word_insertion_bonus": 2}
    for decoding in DECODERS:
        found = DecodingArguments(decoding=decoding, language_model="none").resolved(stored)
        assert found.language_model is None and found.resolved({}) == found
    assert DecodingArguments(language_model_weight=0.3).resolved(stored).language_model_weight == 0.3


def test_what_is_not_stored_is_refused(checkpoint, corpus):
    command = ["tune-decoding", "--model_name_or_path", str(checkpoint), "--dataset_name", str(corpus)]
    with pytest.raises(SystemExit, match="stores neither a lexicon nor hotwords"):
        main([*command, "--lexicon", "fox,dog"])
