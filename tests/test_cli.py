import json
import shutil

import numpy as np
import pytest
import soundfile

from hf_asr import cli
from hf_asr.cli import evaluate, transcribe


def stopped(command, arguments: list) -> str:
    with pytest.raises(SystemExit) as error:
        command([str(argument) for argument in arguments])
    return str(error.value.code)


def test_subtitles_are_one_file_a_recording(checkpoint, corpus, tmp_path):
    transcribe(
        ["--model_name_or_path", str(checkpoint), str(corpus / "validation"), "--output_format", "srt"]
        + ["--output_dir", str(tmp_path)]
    )
    assert len(list(tmp_path.glob("*.flac.srt"))) == 8 and not list(tmp_path.glob("*.partial*"))


def test_recordings_of_one_name_have_a_file_each(checkpoint, recording, tmp_path):
    for name in ("in/a/1.flac", "in/b/1.flac"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copyfile(recording, tmp_path / name)
    arguments = ["--model_name_or_path", str(checkpoint), str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    transcribe(arguments)
    assert {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.txt")} == {
        "a/1.flac.txt",
        "b/1.flac.txt",
    }


def test_a_transcript_that_cannot_be_written_is_named_and_the_others_are(checkpoint, corpus, tmp_path, capsys):
    files = sorted((corpus / "validation").glob("*.flac"))[:2]
    (tmp_path / f"{files[0].name}.txt").mkdir()
    message = stopped(transcribe, ["--model_name_or_path", checkpoint, *files, "--output_dir", tmp_path])
    assert message == "1 of 2 files could not be written"
    assert f"not written: {tmp_path / files[0].name}.txt" in capsys.readouterr().err
    assert (tmp_path / f"{files[1].name}.txt").is_file()


def test_an_unreadable_file_is_named_and_the_others_are_transcribed(checkpoint, corpus, tmp_path, capsys):
    (tmp_path / "bad file.wav").write_text("junk")
    good = next((corpus / "validation").glob("*.flac"))
    message = stopped(
        transcribe,
        ["--model_name_or_path", checkpoint, tmp_path, good, tmp_path / "none.wav", "--output_format", "json"],
    )
    assert message == "2 of 3 files could not be read"
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == str(good)
    assert "bad file.wav: not decodable" in err and "none.wav: file not found" in err


def test_what_is_odd_about_a_recording_is_noted_and_it_is_transcribed(checkpoint, corpus, tmp_path, capsys):
    (tmp_path / "folder.wav").mkdir()  # no recording
    waveform, rate = soundfile.read(next((corpus / "validation").glob("*.flac")))
    soundfile.write(tmp_path / "cut.aif", waveform, rate, format="AIFF")
    (tmp_path / "cut.aif").write_bytes((tmp_path / "cut.aif").read_bytes()[:-16000])
    soundfile.write(tmp_path / "phases.AU", np.stack([waveform, -waveform], 1), rate, format="AU")
    transcribe(["--model_name_or_path", str(checkpoint), str(tmp_path)])
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(tmp_path / "cut.aif"),
        str(tmp_path / "phases.AU"),
    ]
    assert f"note: {tmp_path / 'cut.aif'}: truncated: " in err
    assert f"note: {tmp_path / 'phases.AU'}: its channels cancel" in err


def test_an_unreadable_file_counts_as_deleted(checkpoint, corpus, tmp_path, capsys):
    rows = [json.loads(line) for line in (corpus / "validation" / "metadata.jsonl").read_text().splitlines()][:2]
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps(row | {"file_name": f"missing-{row['file_name']}"}) + "\n" for row in rows)
    )
    evaluate(["--model_name_or_path", str(checkpoint), "--dataset_name", str(tmp_path), "--eval_split_name", "train"])
    out, err = capsys.readouterr()
    metrics = json.loads(out.splitlines()[-1])
    assert metrics["cer"] == 1.0 and metrics["unreadable"] == 2
    assert metrics["cer_deletions"] == sum(len(row["text"]) for row in rows)
    assert f"missing-{rows[0]['file_name']}: file not found" in err


def test_speakers_are_chosen(checkpoint, corpus, capsys):
    speaker = json.loads((corpus / "validation" / "metadata.jsonl").read_text().splitlines()[0])["speaker"]
    arguments = ["--model_name_or_path", str(checkpoint), "--dataset_name", str(corpus), "--speakers"]
    evaluate([*arguments, speaker])
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1 <= metrics["utterances"] < 8
    assert metrics["selection"]["speakers"] == 1 < metrics["selection"]["of"] and metrics["split"] == "validation"
    # One of two names that is wrong would be a score of somebody else than meant.
    message = stopped(evaluate, [*arguments, speaker, "nobody"])
    assert "--speakers nobody: no utterance of theirs in 'validation'; there are: " in message and speaker in message


def test_a_score_of_some_speakers_does_not_replace_that_of_the_split(checkpoint, corpus, tmp_path, capsys):
    rows = [json.loads(line) for line in (corpus / "validation" / "metadata.jsonl").read_text().splitlines()]
    speakers = sorted({row["speaker"] for row in rows})
    arguments = ["--model_name_or_path", checkpoint, "--dataset_name", corpus, "--output_dir", tmp_path]
    evaluate([*map(str, arguments)])
    whole = (tmp_path / "metrics.json").read_text()
    assert json.loads(whole)["selection"] is None and json.loads(whole)["split"] == "validation"
    message = stopped(evaluate, [*arguments, "--speakers", speakers[0]])
    assert "is the score of 'validation' without a choice of speakers" in message
    assert (tmp_path / "metrics.json").read_text() == whole
    evaluate([*map(str, arguments), "--speakers", *speakers])  # all of them are the split
    assert json.loads((tmp_path / "metrics.json").read_text())["selection"] is None


def test_a_split_without_a_word_has_no_score(checkpoint, corpus, tmp_path):
    recordings = sorted((corpus / "validation").glob("*.flac"))[:2]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"audio": str(f), "text": "…"}) + "\n" for f in recordings))
    arguments = ["--model_name_or_path", checkpoint, "--dataset_name", tmp_path / "m.jsonl"]
    message = stopped(evaluate, [*arguments, "--eval_split_name", "train"])
    assert message.startswith("error: all 2 references are empty once normalised")


def test_mistakes_are_one_line(checkpoint, corpus, tmp_path):
    assert "does not exist" in stopped(transcribe, ["--model_name_or_path", "/nowhere/at/all", corpus])
    assert "is no checkpoint" in stopped(transcribe, ["--model_name_or_path", tmp_path, corpus])
    assert "no audio files" in stopped(transcribe, ["--model_name_or_path", checkpoint, tmp_path])
    message = stopped(transcribe, ["--model_name_or_path", checkpoint, corpus, "--output_format", "srt"])
    assert "give --output_dir" in message
    short = ["--model_name_or_path", checkpoint, corpus, "--chunk_length_s"]
    for seconds in ("5", "nan", "inf", "0"):
        message = stopped(transcribe, [*short, seconds])
        assert "they overlap by 3 s at each end, so more than 6 s are needed" in message


def test_a_wrong_model_is_one_line(checkpoint, corpus, recording, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wrong = ["--model_name_or_path", "nobody/nothing-of-this-name"]
    for command, arguments in (
        (evaluate, [*wrong, "--dataset_name", corpus]),
        (transcribe, [*wrong, recording]),
        (cli.compare, [wrong[1], wrong[1], "--dataset_name", corpus]),
    ):
        message = stopped(command, arguments)
        assert message.startswith("error: nobody/nothing-of-this-name cannot be loaded: it is no folder here")
        assert "\n" not in message
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    message = stopped(transcribe, ["--model_name_or_path", damaged, recording])
    assert message.startswith(f"error: {damaged} cannot be loaded: ") and "\n" not in message


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_the_commands(word, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hf-asr", word])
    cli.main()
    printed = capsys.readouterr().out
    for name in ("train", "evaluate", "transcribe", "compare", "augment-preview", "export", "serve", "publish"):
        assert f"  {name} " in printed
    assert "  import-wenet  " in printed and "Transcribe files and folders" in printed


@pytest.mark.parametrize(
    ("words", "told"), [(["transcribed"], "did you mean transcribe?"), ([], "a command is needed")]
)
def test_an_unknown_command_names_those_there_are(words, told, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hf-asr", *words])
    with pytest.raises(SystemExit) as error:
        cli.main()
    printed = capsys.readouterr().err
    assert error.value.code == 2
    assert told in printed and "evaluate, transcribe" in printed and printed.count("\n") == 1


def test_commands_have_their_own_help_and_errors(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["hf-asr", "import-wenet", "--help"])
    with pytest.raises(SystemExit) as error:
        cli.main()
    assert error.value.code == 0 and "wenet_dir" in capsys.readouterr().out
    message = stopped(cli.import_wenet, [tmp_path, "--output_dir", tmp_path / "out"])
    assert message.startswith(f"error: {tmp_path} is no WeNet model directory")
