"""`hf-asr transcribe` of datasets and pipes; what it does with files and folders is in tests/test_cli.py."""

import json
import os
import threading
from argparse import Namespace

import pytest

from hf_asr.cli import main
from hf_asr.commands import transcribe


def test_a_dataset_becomes_parquet_files_and_counts(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(corpus.parent)
    command = ["transcribe", "--model_name_or_path", str(checkpoint), "--dataset_name", corpus.name]
    main([*command, "--output_dir", str(tmp_path / "out"), "--rows_per_part", "5"])
    counts = json.loads(capsys.readouterr().out)
    assert (counts["rows"], counts["parts"], counts["unreadable"]) == (8, 2, 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "part-00000.parquet",
        "part-00001.parquet",
        "transcription.json",
    }
    # The same folder by another path
    main([*command[:-1], str(corpus), "--output_dir", str(tmp_path / "out"), "--rows_per_part", "5"])
    assert json.loads(capsys.readouterr().out) == counts


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give recordings or folders to transcribe, or --dataset_name"),
        (["--dataset_name", "D"], "--dataset_name needs --output_dir, a folder for parquet files"),
        (["--dataset_name", "D", "a.wav"], "give either files and folders, with an --output_format, or --dataset_name"),
        (["--dataset_name", "D", "--output_format", "srt"], "give either files and folders"),
    ],
)
def test_a_dataset_and_files_are_not_mixed(checkpoint, more, message):
    with pytest.raises(SystemExit) as error:
        main(["transcribe", "--model_name_or_path", str(checkpoint), *more])
    assert message in str(error.value.code)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_up_to_a_limit(checkpoint, recording, tmp_path, monkeypatch, capsys):
    pipe = tmp_path / "pipe.flac"
    os.mkfifo(pipe)

    def transcribed(path) -> str:
        writer = threading.Thread(target=pipe.write_bytes, args=(recording.read_bytes(),))
        if path == pipe:
            writer.start()
        # A pipe is never older than the transcript of what came through it before.
        options = ["--output_dir", str(tmp_path / "out"), "--skip_existing"]
        main(["transcribe", "--model_name_or_path", str(checkpoint), str(path), *options])
        if path == pipe:
            writer.join()
        return (tmp_path / "out" / f"{path.name}.txt").read_text()

    assert transcribed(pipe) == transcribed(recording) == transcribed(pipe)
    monkeypatch.setattr(transcribe, "MAX_PIPE_BYTES", recording.stat().st_size)
    transcribed(pipe)
    monkeypatch.setattr(transcribe, "MAX_PIPE_BYTES", recording.stat().st_size - 1)
    with pytest.raises(SystemExit):
        transcribed(pipe)
    assert "the limit of a pipe: write it to a file first" in capsys.readouterr().err


def test_the_progress_in_a_recording_ends_when_the_language_model_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(transcribe, "HF_HOME", str(tmp_path))
    partial, model = transcribe.progress_path(tmp_path / "a.txt"), tmp_path / "lm.arpa"
    partial.parent.mkdir(parents=True)
    args = Namespace(model_name_or_path="owner/name", skip_existing=True)
    for seconds, goes_on in ((-1, True), (1, False)):
        partial.touch()
        model.touch()
        os.utime(model, (partial.stat().st_mtime + seconds,) * 2)
        options = {"language_model": str(model)}
        assert transcribe._progress_path(tmp_path / "a.wav", tmp_path / "a.txt", args, **options) == partial
        assert partial.exists() == goes_on
