import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from hf_asr.cli import COMMANDS, build_parser, main
from hf_asr.commands.transcribe import progress_path
from hf_asr.decoding.greedy import GreedyDecoder


def stopped(arguments: list) -> str:
    """The message with which a command ends."""
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    return str(error.value.code)


def test_each_recording_gets_one_subtitle_file(checkpoint, corpus, tmp_path):
    main(
        ["transcribe", "--model_name_or_path", str(checkpoint), str(corpus / "validation"), "--output_format", "srt"]
        + ["--output_dir", str(tmp_path)]
    )
    assert len(list(tmp_path.glob("*.flac.srt"))) == 8 and not list(tmp_path.glob("*.partial*"))


def test_recordings_with_the_same_name_get_different_files(checkpoint, recording, tmp_path):
    for name in ("in/a/1.flac", "in/b/1.flac"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copyfile(recording, tmp_path / name)
    arguments = ["--model_name_or_path", str(checkpoint), str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    main(["transcribe", *arguments])
    assert {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.txt")} == {
        "a/1.flac.txt",
        "b/1.flac.txt",
    }


def test_one_of_several_processes_transcribes_files(checkpoint, recording, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["transcribe", "--model_name_or_path", str(checkpoint), str(recording), "--output_format", "json"]
    monkeypatch.setenv("RANK", "1")
    main(command)
    assert capsys.readouterr() == ("", "note: transcribe is not divided: process 1 leaves the work to process 0\n")
    monkeypatch.setenv("RANK", "0")
    main(command)
    assert json.loads(capsys.readouterr().out)["file"] == str(recording)


def test_a_transcript_that_cannot_be_written_is_reported_and_the_others_are_written(
    checkpoint, corpus, tmp_path, capsys
):
    files = sorted((corpus / "validation").glob("*.flac"))[:2]
    (tmp_path / f"{files[0].name}.txt").mkdir()
    message = stopped(["transcribe", "--model_name_or_path", checkpoint, *files, "--output_dir", tmp_path])
    assert message == "1 of 2 files could not be written"
    assert f"not written: {tmp_path / files[0].name}.txt" in capsys.readouterr().err
    assert (tmp_path / f"{files[1].name}.txt").is_file()


def test_an_unreadable_file_is_reported_and_the_others_are_transcribed(checkpoint, corpus, tmp_path, capsys):
    (tmp_path / "bad file.wav").write_text("junk")
    good = next((corpus / "validation").glob("*.flac"))
    message = stopped(
        ["transcribe", "--model_name_or_path", checkpoint, tmp_path, good, tmp_path / "none.wav"]
        + ["--output_format", "json"]
    )
    assert message == "2 of 3 files could not be read"
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == str(good)
    assert "bad file.wav: not decodable" in err and "none.wav: file not found" in err


def test_damage_of_a_recording_is_reported_and_it_is_transcribed(checkpoint, corpus, tmp_path, capsys):
    (tmp_path / "folder.wav").mkdir()  # no recording
    waveform, rate = soundfile.read(next((corpus / "validation").glob("*.flac")))
    soundfile.write(tmp_path / "cut.aif", waveform, rate, format="AIFF")
    (tmp_path / "cut.aif").write_bytes((tmp_path / "cut.aif").read_bytes()[:-16000])
    soundfile.write(tmp_path / "phases.AU", np.stack([waveform, -waveform], 1), rate, format="AU")
    main(["transcribe", "--model_name_or_path", str(checkpoint), str(tmp_path)])
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(tmp_path / "cut.aif"),
        str(tmp_path / "phases.AU"),
    ]
    assert f"note: {tmp_path / 'cut.aif'}: truncated: " in err
    assert f"note: {tmp_path / 'phases.AU'}: its channels cancel" in err


def test_a_job_goes_on_after_an_interruption(checkpoint, corpus, tmp_path, capsys):
    recordings = sorted((corpus / "validation").glob("*.flac"))[:3]
    command = ["transcribe", "--model_name_or_path", str(checkpoint), "--skip_existing", *map(str, recordings)]
    assert "--skip_existing needs --output_dir" in stopped(command)
    command += ["--output_dir", str(tmp_path)]
    transcripts = [tmp_path / f"{recording.name}.txt" for recording in recordings]
    transcripts[0].write_text("from an earlier run")
    transcripts[1].write_text("of an older recording")
    os.utime(transcripts[1], (0, 0))
    main(command)
    assert "1 of 3 recordings have a transcript" in capsys.readouterr().err
    texts = [path.read_text() for path in transcripts]
    assert texts[0] == "from an earlier run" and texts[1] != "of an older recording"
    main(command)
    assert "3 of 3 recordings have a transcript" in capsys.readouterr().err
    assert [path.read_text() for path in transcripts] == texts


def test_a_job_goes_on_inside_a_long_recording(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_asr.decoding.progress.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("hf_asr.decoding.progress.SAVE_SHARE", 1e9)
    monkeypatch.setattr("hf_asr.decoding.bulk.LONG_SECONDS", 5.0)
    monkeypatch.setattr("hf_asr.commands.transcribe.HF_HOME", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 16000 * 130), 16000)
    command = ["transcribe", "--model_name_or_path", str(checkpoint), str(tmp_path / "long.wav"), "--output_format"]
    command += ["json", "--chunk_length_s", "10", "--output_dir"]
    main([*command, str(tmp_path / "whole")])
    kept, keep = [], GreedyDecoder.keep

    def interrupted(decoder, log_probs, states=None):
        kept.append(len(log_probs))
        if len(kept) == 25:
            raise KeyboardInterrupt
        return keep(decoder, log_probs)

    monkeypatch.setattr(GreedyDecoder, "keep", interrupted)
    stopped([*command, tmp_path / "parts"])
    partial = progress_path(tmp_path / "parts" / "long.wav.json")
    assert partial.is_file() and partial.is_relative_to(tmp_path / "cache")  # a pickle: never among the transcripts
    assert not list((tmp_path / "parts").glob("*"))
    main([*command, str(tmp_path / "parts"), "--skip_existing"])
    assert len(kept) == 25 + 31 - 24 and not partial.exists()
    texts = [(tmp_path / folder / "long.wav.json").read_text() for folder in ("whole", "parts")]
    assert texts[0] == texts[1]


def test_an_unreadable_file_counts_as_deleted(checkpoint, corpus, tmp_path, capsys):
    rows = [json.loads(line) for line in (corpus / "validation" / "metadata.jsonl").read_text().splitlines()][:2]
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps(row | {"file_name": f"missing-{row['file_name']}"}) + "\n" for row in rows)
    )
    data = ["--dataset_name", str(tmp_path), "--eval_split_name", "train"]
    main(["evaluate", "--model_name_or_path", str(checkpoint), *data])
    out, err = capsys.readouterr()
    metrics = json.loads(out.splitlines()[-1])
    assert metrics["cer"] == 1.0 and metrics["unreadable"] == 2
    assert metrics["cer_deletions"] == sum(len(row["text"]) for row in rows)
    assert f"missing-{rows[0]['file_name']}: file not found" in err


def test_speakers_option_scores_only_their_utterances(checkpoint, corpus, capsys):
    speaker = json.loads((corpus / "validation" / "metadata.jsonl").read_text().splitlines()[0])["speaker"]
    arguments = ["--model_name_or_path", str(checkpoint), "--dataset_name", str(corpus), "--speakers"]
    main(["evaluate", *arguments, speaker])
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1 <= metrics["utterances"] < 8
    assert metrics["selection"]["speakers"] == 1 < metrics["selection"]["of"] and metrics["split"] == "validation"
    # If one of two names is wrong, the score would be of other speakers than the user means.
    message = stopped(["evaluate", *arguments, speaker, "nobody"])
    assert (
        "--speakers nobody: they have no utterance in 'validation'; its speakers are: " in message
        and speaker in message
    )


def test_a_score_of_some_speakers_does_not_replace_the_score_of_the_split(checkpoint, corpus, tmp_path, capsys):
    rows = [json.loads(line) for line in (corpus / "validation" / "metadata.jsonl").read_text().splitlines()]
    speakers = sorted({row["speaker"] for row in rows})
    arguments = ["--model_name_or_path", checkpoint, "--dataset_name", corpus, "--output_dir", tmp_path]
    main(["evaluate", *map(str, arguments)])
    whole = (tmp_path / "metrics.json").read_text()
    assert json.loads(whole)["selection"] is None and json.loads(whole)["split"] == "validation"
    message = stopped(["evaluate", *arguments, "--speakers", speakers[0]])
    assert "is the score of 'validation' with" in message
    assert (tmp_path / "metrics.json").read_text() == whole
    main(["evaluate", *map(str, arguments), "--speakers", *speakers])  # all of them are the split
    assert json.loads((tmp_path / "metrics.json").read_text())["selection"] is None


def test_a_split_with_empty_references_is_an_error(checkpoint, corpus, tmp_path):
    recordings = sorted((corpus / "validation").glob("*.flac"))[:2]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"audio": str(f), "text": "…"}) + "\n" for f in recordings))
    arguments = ["--model_name_or_path", checkpoint, "--dataset_name", tmp_path / "m.jsonl"]
    message = stopped(["evaluate", *arguments, "--eval_split_name", "train"])
    assert message.startswith("error: all 2 references are empty once normalised")


def test_a_wrong_argument_is_an_error_of_one_line(checkpoint, corpus, tmp_path):
    assert "does not exist" in stopped(["transcribe", "--model_name_or_path", "/nowhere/at/all", corpus])
    assert "is not a checkpoint" in stopped(["transcribe", "--model_name_or_path", tmp_path, corpus])
    assert "no audio files" in stopped(["transcribe", "--model_name_or_path", checkpoint, tmp_path])
    message = stopped(["transcribe", "--model_name_or_path", checkpoint, corpus, "--output_format", "srt"])
    assert "give --output_dir" in message
    short = ["--model_name_or_path", checkpoint, corpus, "--chunk_length_s"]
    for seconds in ("5", "nan", "inf", "0"):
        message = stopped(["transcribe", *short, seconds])
        assert "they have 3 s of context at each end, so they must be longer than 6 s" in message


def test_a_wrong_model_is_an_error_of_one_line(checkpoint, corpus, recording, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wrong = ["--model_name_or_path", "nobody/nothing-of-this-name"]
    for arguments in (
        ["evaluate", *wrong, "--dataset_name", corpus],
        ["transcribe", *wrong, recording],
        ["compare", wrong[1], wrong[1], "--dataset_name", corpus],
    ):
        message = stopped(arguments)
        assert message.startswith("error: nobody/nothing-of-this-name cannot be loaded: it is not a folder")
        assert "\n" not in message
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    message = stopped(["transcribe", "--model_name_or_path", damaged, recording])
    assert message.startswith(f"error: {damaged} cannot be loaded: ") and "\n" not in message


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_the_commands(word, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hf-asr", word])
    with pytest.raises(SystemExit) as error:
        main()
    lines = capsys.readouterr().out.splitlines()
    assert error.value.code == 0
    for name, text in COMMANDS.items():
        assert [line for line in lines if line.split() == [name, *text.split()]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcribed"], "did you mean 'transcribe'?"),
        ([], "a command is needed"),
        (["--version"], "unknown command '--version'"),
    ],
)
def test_an_unknown_command_is_an_error_that_lists_the_commands(words, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(words)
    printed = capsys.readouterr().err
    assert error.value.code == 2
    assert message in printed and "evaluate, transcribe" in printed and printed.count("\n") == 1


def test_an_unknown_option_is_an_error_that_suggests_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as error:
        main(["evaluate", "--model_name_or_path", "M", "--dataset_name", "D", "--eval_split", "train"])
    assert error.value.code == 2
    assert capsys.readouterr().err == "error: unknown argument '--eval_split' (did you mean '--eval_split_name'?)\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_has_a_help_text(name):
    parser = build_parser(name)
    assert parser.description
    # transformers' own training arguments have texts, too
    assert not [action.dest for action in parser._actions if not action.help]
    assert parser.format_help()  # a lone percent sign in a text is an error of argparse


def test_commands_have_their_own_help_and_errors(capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        main(["import-wenet", "--help"])
    assert error.value.code == 0 and "wenet_dir" in capsys.readouterr().out
    message = stopped(["import-wenet", tmp_path, "--output_dir", tmp_path / "out"])
    assert message.startswith(f"error: {tmp_path} is not a WeNet model directory")


def test_the_package_is_the_command(repository):
    done = subprocess.run(
        [sys.executable, "-m", "hf_asr", "--help"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: hf-asr") and all(name in done.stdout for name in COMMANDS)
