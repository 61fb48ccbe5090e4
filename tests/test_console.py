"""Commands at a terminal: any text can be printed, and an error is one line."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from hf_asr.checkpoint import load_checkpoint
from hf_asr.cli import main
from hf_asr.console import command, on_one_line, prints_unicode


@pytest.fixture(scope="module")
def talkative(checkpoint, tmp_path_factory) -> Path:
    """A checkpoint that recognises 调 in every recording."""
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
    """A function that sets the encoding of standard output; it returns a function that returns the written text."""

    def of(encoding: str):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stream)
        return lambda: (stream.flush(), stream.buffer.getvalue().decode(encoding))[1]

    return of


@pytest.fixture
def odd_names(recording, tmp_path) -> Path:
    """Recordings with unusual names that file systems allow."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"plain.flac", b"caf\xe9.flac", "新.flac".encode(), b"tab\tand\nline.flac"):
        shutil.copyfile(recording, os.path.join(os.fsencode(folder), name))
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_transcripts_are_printed_with_any_console_encoding(talkative, odd_names, console, encoding):
    written = console(encoding)
    main(["transcribe", "--model_name_or_path", str(talkative), str(odd_names)])
    lines = dict(line.split("\t") for line in written().splitlines())
    assert set(lines.values()) == {"调" if encoding == "utf-8" else r"\u8c03"}
    new = "新" if encoding == "utf-8" else r"\u65b0"
    names = {"plain.flac", r"caf\udce9.flac", f"{new}.flac", r"tab\tand\nline.flac"}
    assert set(lines) == {f"{odd_names}/{name}" for name in names}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_json_output_is_read_back_unchanged(talkative, odd_names, console, encoding):
    written = console(encoding)
    main(["transcribe", "--model_name_or_path", str(talkative), str(odd_names), "--output_format", "json"])
    records = [json.loads(line) for line in written().splitlines()]
    assert {record["file"] for record in records} == {str(file) for file in odd_names.iterdir()}
    assert {record["text"] for record in records} == {"调"}
    assert (b"\xe8\xb0\x83" in sys.stdout.buffer.getvalue()) is (encoding == "utf-8")


def test_transcripts_of_files_with_unusual_names_are_written(talkative, odd_names, tmp_path):
    main(["transcribe", "--model_name_or_path", str(talkative), str(odd_names), "--output_dir", str(tmp_path / "out")])
    found = {os.fsencode(file.name): file.read_text(encoding="utf-8") for file in (tmp_path / "out").iterdir()}
    assert found == {os.fsencode(file.name) + b".txt": "调\n" for file in odd_names.iterdir()}


def test_scores_and_comparisons_are_printed_on_any_console(talkative, corpus, console, tmp_path):
    data = ["--dataset_name", str(corpus), "--output_dir", str(tmp_path / "a")]
    written = console("ascii")
    main(["evaluate", "--model_name_or_path", str(talkative), *data])
    assert json.loads(written().splitlines()[-1])["utterances"] == 8
    (tmp_path / "b").mkdir()
    text = (tmp_path / "a" / "predictions.jsonl").read_text(encoding="utf-8")
    (tmp_path / "b" / "predictions.jsonl").write_text(text.replace('"prediction": "调"', '"prediction": "新"'))
    written = console("ascii")
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output_format", "json"])
    assert json.loads(written())["utterances"] == 8
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert r"\u" in written()


def test_a_closed_pipe_ends_a_command_without_a_message(talkative, corpus, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w", encoding="utf-8"))
    with pytest.raises(SystemExit) as stopped:
        main(["transcribe", "--model_name_or_path", str(talkative), str(corpus / "validation")])
    assert stopped.value.code == 141
    sys.stdout.close()  # as the interpreter does at its end
    assert "Error" not in capsys.readouterr().err


def test_an_interrupt_ends_a_command_without_a_message(talkative, corpus, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_asr.commands.transcribe.load", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["transcribe", "--model_name_or_path", str(talkative), str(corpus)])
    assert stopped.value.code == 130


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError("a\n  disk"), ImportError("no\tpackage")])
def test_an_error_that_the_user_can_mend_is_one_line(error):
    with pytest.raises(SystemExit) as stopped, command():
        raise error
    assert stopped.value.code == f"error: {' '.join(str(error).split())}"


@pytest.mark.parametrize("kind", [ValueError, ModuleNotFoundError])
def test_an_error_of_a_dataloader_worker_is_reduced_to_its_reason(kind):
    with pytest.raises(SystemExit, match="^error: 40 % of the rows are unusable$"), command():
        raise kind(
            f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            f'  File "a.py", line 1\n{kind.__name__}: 40 % of the rows\nare unusable'
        )


def test_a_process_without_standard_output_works(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with command():
        assert not prints_unicode()


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), command():
        raise KeyError("a bug")


def test_control_characters_are_escaped():
    assert on_one_line("a\tb\r\nc\x1b[31m\x00\u2028d") == r"a\tb\r\nc\x1b[31m\x00\u2028d"
    assert on_one_line("新 café's") == "新 café's"


def test_a_missing_package_of_an_extra_names_the_extra():
    message = r"^error: gradio is not installed: pip install 'hf_asr\[demo\]'$"
    with pytest.raises(SystemExit, match=message), command():
        raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
