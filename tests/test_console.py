"""A command at a terminal: any text can be printed, and what goes wrong is one line."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from hf_asr import cli
from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import compare, evaluate, transcribe
from hf_asr.console import command, on_one_line, takes_everything


@pytest.fixture(scope="module")
def talkative(checkpoint, tmp_path_factory) -> Path:
    """A checkpoint that hears 调 in everything."""
    folder = tmp_path_factory.mktemp("talkative")
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    with torch.no_grad():
        model.ctc_head.weight.zero_()
        token = processor.tokenizer.convert_tokens_to_ids("调")
        model.ctc_head.bias.copy_(10.0 * (torch.arange(model.config.vocab_size) == token))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def console(monkeypatch):
    """A function that gives standard output an encoding, and one that gives what was written to it."""

    def of(encoding: str):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stream)
        return lambda: (stream.flush(), stream.buffer.getvalue().decode(encoding))[1]

    return of


@pytest.fixture
def odd_names(recording, tmp_path) -> Path:
    """Recordings by names that file systems allow."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"plain.flac", b"caf\xe9.flac", "新.flac".encode(), b"tab\tand\nline.flac"):
        shutil.copyfile(recording, os.path.join(os.fsencode(folder), name))
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_every_transcript_is_printed_whatever_the_console_can_show(talkative, odd_names, console, encoding):
    written = console(encoding)
    transcribe(["--model_name_or_path", str(talkative), str(odd_names)])
    lines = dict(line.split("\t") for line in written().splitlines())
    assert set(lines.values()) == {"调" if encoding == "utf-8" else r"\u8c03"}
    new = "新" if encoding == "utf-8" else r"\u65b0"
    names = {"plain.flac", r"caf\udce9.flac", f"{new}.flac", r"tab\tand\nline.flac"}
    assert set(lines) == {f"{odd_names}/{name}" for name in names}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_json_is_read_back_as_it_was(talkative, odd_names, console, encoding):
    written = console(encoding)
    transcribe(["--model_name_or_path", str(talkative), str(odd_names), "--output_format", "json"])
    records = [json.loads(line) for line in written().splitlines()]
    assert {record["file"] for record in records} == {str(file) for file in odd_names.iterdir()}
    assert {record["text"] for record in records} == {"调"}
    assert (b"\xe8\xb0\x83" in sys.stdout.buffer.getvalue()) is (encoding == "utf-8")


def test_transcripts_go_into_files_whatever_they_are_called(talkative, odd_names, tmp_path):
    transcribe(["--model_name_or_path", str(talkative), str(odd_names), "--output_dir", str(tmp_path / "out")])
    found = {os.fsencode(file.name): file.read_text(encoding="utf-8") for file in (tmp_path / "out").iterdir()}
    assert found == {os.fsencode(file.name) + b".txt": "调\n" for file in odd_names.iterdir()}


def test_scores_and_comparisons_are_printed_on_any_console(talkative, corpus, console, tmp_path):
    data = ["--dataset_name", str(corpus), "--output_dir", str(tmp_path / "a")]
    written = console("ascii")
    evaluate(["--model_name_or_path", str(talkative), *data])
    assert json.loads(written().splitlines()[-1])["utterances"] == 8
    (tmp_path / "b").mkdir()
    text = (tmp_path / "a" / "predictions.jsonl").read_text(encoding="utf-8")
    (tmp_path / "b" / "predictions.jsonl").write_text(text.replace('"prediction": "调"', '"prediction": "新"'))
    written = console("ascii")
    compare([str(tmp_path / "a"), str(tmp_path / "b"), "--output_format", "json"])
    assert json.loads(written())["utterances"] == 8
    compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert r"\u" in written()


def test_a_reader_that_goes_away_ends_it_without_a_word(talkative, corpus, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w", encoding="utf-8"))
    with pytest.raises(SystemExit) as stopped:
        transcribe(["--model_name_or_path", str(talkative), str(corpus / "validation")])
    assert stopped.value.code == 141
    sys.stdout.close()  # as the interpreter does at its end
    assert "Error" not in capsys.readouterr().err


def test_an_interrupt_ends_it_without_a_word(talkative, corpus, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_checkpoint", interrupted)
    with pytest.raises(SystemExit) as stopped:
        transcribe(["--model_name_or_path", str(talkative), str(corpus)])
    assert stopped.value.code == 130


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError("a\n  disk"), ImportError("no\tpackage")])
def test_what_a_person_can_mend_is_one_line(error):
    with pytest.raises(SystemExit) as stopped, command():
        raise error
    assert stopped.value.code == f"error: {' '.join(str(error).split())}"


def test_of_a_worker_s_error_the_reason_is_left(capsys):
    with pytest.raises(SystemExit, match="^error: 40 % of the rows are unusable$"), command():
        raise ValueError(
            "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            '  File "a.py", line 1\nValueError: 40 % of the rows\nare unusable'
        )


def test_a_service_without_an_output_runs_as_well(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with command():
        assert not takes_everything()


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError), command():
        raise KeyError("a bug")


def test_control_characters_cannot_break_a_line():
    assert on_one_line("a\tb\r\nc\x1b[31m\x00\u2028d") == r"a\tb\r\nc\x1b[31m\x00\u2028d"
    assert on_one_line("新 café's") == "新 café's"
