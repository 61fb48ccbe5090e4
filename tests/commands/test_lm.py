import json

import pytest

from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import main
from hf_asr.decoding.arpa import read_arpa
from hf_asr.decoding.language_model import WordLanguageModel, read_language_model


def train(capsys, *arguments) -> dict:
    main(["lm", *map(str, arguments)])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_texts_become_a_language_model_of_the_checkpoint(checkpoint, tmp_path, capsys):
    """The texts are normalised as the checkpoint's transcripts, so its vocabulary spells the units."""
    (tmp_path / "texts.txt").write_text("The quick brown FOX jumps.\n\n把空调调到26度！\nThe lazy dog's tail\n")
    (tmp_path / "held out.txt").write_text("The quick dog\nThe fox\n")
    result = train(
        *(capsys, tmp_path / "texts.txt", "--output_dir", tmp_path / "lm", "--model_name_or_path", checkpoint),
        *("--eval_texts", tmp_path / "held out.txt", "--units", "words", "--order", 2),
    )
    arpa = read_arpa(tmp_path / "lm" / "lm.arpa.gz")
    assert result["language_model"] == str(tmp_path / "lm" / "lm.arpa.gz")
    assert (result["units"], result["order"], result["sentences"]) == ("words", 2, 3)
    assert result["ngrams"] == [len(ngrams.lines) for ngrams in arpa.orders]
    assert {"the", "fox", "dog's", "二", "十", "六"} <= {*arpa.units} and "The" not in arpa.units
    assert result["eval_units"] == 5 and result["eval_unknown"] == 1 and 1 < result["perplexity"] < 50  # `dog`
    _, processor = load_checkpoint(str(checkpoint), device="cpu")
    assert isinstance(
        read_language_model(result["language_model"], processor.tokenizer, weight=0.5, bonus=0.0), WordLanguageModel
    )


@pytest.mark.parametrize(
    ("texts", "is_hinted"), [("one\ntwo\n", True), ("one\ntwo three\n", False), ("一\n二十\n", False)]
)
def test_a_lexicon_is_recommended_for_single_words(tmp_path, capsys, texts, is_hinted):
    """On digits, a language model makes more errors than none."""
    (tmp_path / "texts.txt").write_text(texts, encoding="utf-8")
    main(["lm", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "lm")])
    assert ("--lexicon" in capsys.readouterr().err) == is_hinted


def test_transcripts_of_a_dataset_count_once(corpus, tmp_path, capsys):
    entries = [json.loads(line) for line in (corpus / "train" / "metadata.jsonl").read_text().splitlines()]
    (tmp_path / "m.jsonl").write_text(
        "".join(
            json.dumps({"audio": str(corpus / "train" / row["file_name"]), "text": row["text"]}) + "\n"
            for row in entries * 2
        )
    )
    result = train(capsys, "--dataset_name", tmp_path / "m.jsonl", "--output_dir", tmp_path)
    assert result["sentences"] == len({row["text"] for row in entries}) and "perplexity" not in result


def test_random_words_of_a_list_are_texts_too(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("the fox\n")
    (tmp_path / "words.txt").write_text("the 30\nhound 1\nnobody 0\n")
    arguments = ["--word_list", tmp_path / "words.txt", "--word_list_sentences", 100, "--output_dir", tmp_path]
    assert train(capsys, tmp_path / "texts.txt", *arguments)["sentences"] == 101
    assert {*read_arpa(tmp_path / "lm.arpa.gz").units} >= {"the", "fox", "hound"}
    assert train(capsys, *arguments)["sentences"] == 100
    assert not {"fox", "nobody"} & {*read_arpa(tmp_path / "lm.arpa.gz").units}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give text files, a dataset with --dataset_name, or a list of words with --word_list"),
        (["none.txt"], "none.txt"),
        (["latin.txt"], "latin.txt is not UTF-8 (byte 3)"),
        (["empty.txt"], "there is nothing to train on"),
        (["one.txt", "--eval_texts", "empty.txt"], "empty.txt: there is no text to evaluate on after normalisation"),
        (["one.txt", "--order", "1"], "order must be 2 or more, not 1"),
        (["--word_list", "one.txt"], "one.txt, line 1: "),
        (["--word_list", "none.txt"], "none.txt"),
        (["--word_list", "latin.txt"], "latin.txt is not UTF-8 (byte 3)"),
        (["--word_list", "zero.txt"], "zero.txt has no word with a frequency larger than 0"),
        (["--word_list", "zero.txt", "--word_list_sentences", "0"], "--word_list_sentences must be 1 or more, not 0"),
        (["one.txt", "--model_name_or_path", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n…\n")
    (tmp_path / "one.txt").write_text("one sentence\n")
    (tmp_path / "zero.txt").write_text("word 0\n")
    with pytest.raises(SystemExit) as error:
        main(["lm", *arguments, "--output_dir", "lm"])
    assert str(error.value.code).startswith("error: ") and message in str(error.value.code)
    assert not list(tmp_path.glob("lm/*"))
