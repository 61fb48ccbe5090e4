import json

import numpy as np
import pytest
import soundfile

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
    assert 1 <= json.loads(capsys.readouterr().out.splitlines()[-1])["utterances"] < 8
    assert "no utterance of theirs in 'validation'" in stopped(evaluate, [*arguments, "nobody"])


def test_mistakes_are_one_line(checkpoint, corpus, tmp_path):
    assert "does not exist" in stopped(transcribe, ["--model_name_or_path", "/nowhere/at/all", corpus])
    assert "is no checkpoint" in stopped(transcribe, ["--model_name_or_path", tmp_path, corpus])
    assert "no audio files" in stopped(transcribe, ["--model_name_or_path", checkpoint, tmp_path])
    message = stopped(transcribe, ["--model_name_or_path", checkpoint, corpus, "--output_format", "srt"])
    assert "give --output_dir" in message
