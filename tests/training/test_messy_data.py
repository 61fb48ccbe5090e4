"""A folder with damaged files: the usable ones are trained on, and each other one is reported with the reason."""

import io
import json
import re
import shutil

import av
import numpy as np
import pytest
import soundfile

from hf_asr.cli import main
from hf_asr.data.audio import read_audio

TINY = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, subsampling_channels: 8}"


def encode(path, waveform: np.ndarray, *, codec: str, container: str, rate: int) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        pcm = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    path.write_bytes(buffer.getvalue())


@pytest.fixture(scope="module")
def messy(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy") / "train"
    folder.mkdir()
    speech = read_audio(sorted((corpus / "train").glob("*.flac"))[0])
    up = np.repeat(speech, 3)
    soundfile.write(folder / "good.wav", speech, 16000)
    whole = (folder / "good.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 3])
    (folder / "text.wav").write_text("this is not audio\n" * 50)
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "stereo.wav", np.stack([up, up / 2], 1), 48000)
    soundfile.write(folder / "phone.mp3", speech[::2], 8000)
    encode(folder / "voice memo.m4a", up, codec="aac", container="mp4", rate=48000)
    encode(folder / "message.ogg", up, codec="libopus", container="ogg", rate=48000)
    encode(folder / "browser.webm", up, codec="libopus", container="webm", rate=48000)
    shutil.copy(folder / "good.wav", folder / "名字 with spaces.wav")
    shutil.copy(folder / "good.wav", folder / "silent.wav")
    shutil.copy(folder / "good.wav", folder / "far.wav")
    names = [path.name for path in sorted(folder.iterdir())] + ["missing.wav"]
    texts = {"silent.wav": "", "far.wav": "turn on the kitchen light and the radio " * 20}
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as file:
        for name in names:
            row = {"file_name": name, "text": texts.get(name, "turn on"), "id": name}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder.parent


BAD = {
    "truncated.wav": "truncated: .* s are there",
    "text.wav": "not decodable",
    "empty.wav": "file is empty",
    "missing.wav": "file not found",
    "silent.wav": "empty transcript",
    "far.wav": "transcript too long for its audio",
}


def command(messy, output_dir, *more: str) -> list[str]:
    arguments = ["--dataset_name", str(messy), "--output_dir", str(output_dir), "--model", TINY, "--report_to", "none"]
    arguments += ["--dataloader_num_workers", "0", "--precision", "fp32", "--max_steps", "2"]
    return ["train", *arguments, *more]


def test_too_many_unusable_rows_are_an_error_with_the_reasons(messy, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(command(messy, tmp_path / "run", "--held_out_share", "0.01"))
    message = str(stopped.value.code)
    assert "cannot be trained on" in message and "limit 10%" in message and "max_unusable_share to 1" in message
    assert "\n" not in message
    assert (tmp_path / "run" / "data_report.html").is_file()  # which shows the files


def test_training_reports_each_unusable_file(messy, tmp_path, caplog):
    caplog.set_level("INFO", logger="hf_asr")
    main(command(messy, tmp_path / "run", "--max_unusable_share", "1"))
    findings = [json.loads(line) for line in (tmp_path / "run" / "data_report.jsonl").read_text().splitlines()]
    assert {row["utterance_id"] for row in findings} == set(BAD)
    for row in findings:
        assert re.search(BAD[row["utterance_id"]], f"{row['reason']}: {row['detail']}"), row
    page = (tmp_path / "run" / "data_report.html").read_text(encoding="utf-8")
    assert all(name in page for name in BAD)
    assert "4 unreadable audio: " in caplog.text and "far.wav (799 tokens in" in caplog.text
    assert (tmp_path / "run" / "model.safetensors").is_file()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["utterances"] == 1


def test_without_inspect_audio_a_truncated_file_is_not_found(messy, tmp_path):
    main(command(messy, tmp_path / "run", "--max_unusable_share", "1", "--inspect_audio", "false"))
    findings = [json.loads(line) for line in (tmp_path / "run" / "data_report.jsonl").read_text().splitlines()]
    assert {row["utterance_id"] for row in findings} == set(BAD) - {"truncated.wav"}


def test_training_on_a_stream_reports_each_unusable_file(messy, corpus, tmp_path):
    shutil.copytree(messy, tmp_path / "data")
    shutil.copytree(corpus / "validation", tmp_path / "data" / "dev")
    more = ["--max_unusable_share", "1", "--streaming", "true"]
    main(command(tmp_path / "data", tmp_path / "run", *more))
    findings = (tmp_path / "run" / "data_report.jsonl").read_text()
    assert all(f'"{name}"' in findings for name in BAD)
    with pytest.raises(
        SystemExit, match="no validation split .it has: train., and nothing can be held out of a stream"
    ):
        main(command(messy, tmp_path / "other", *more))
    arguments = command(tmp_path / "data", tmp_path / "other", *more)
    arguments[arguments.index("--max_steps") + 1] = "-1"
    with pytest.raises(SystemExit, match="streaming needs max_steps"):
        main(arguments)
    with pytest.raises(SystemExit, match="cache_audio decodes all recordings before training"):
        main(command(tmp_path / "data", tmp_path / "other", *more, "--cache_audio", "true"))


def test_the_preview_writes_recordings_and_a_picture(messy, tmp_path, capsys):
    recipe = "[{name: Gain, min_gain_db: -12, max_gain_db: -6, p: 1.0}, {name: AddGaussianSNR, p: 1.0}]"
    main(
        [
            "augment-preview",
            "--dataset_name",
            str(messy / "train"),
            "--output_dir",
            str(tmp_path),
            "--augmentations",
            recipe,
        ]
        + ["--num_utterances", "1", "--held_out_share", "0.01", "--seed", "7"]
    )
    pictures = list((tmp_path / "augment-preview").glob("*.png"))
    assert [str(path) for path in pictures] == capsys.readouterr().out.split("\n")[:-1]
    name = pictures[0].stem
    before, after = (read_audio(pictures[0].with_name(f"{name}-{kind}.wav")) for kind in ("before", "after"))
    assert len(before) == len(after) and np.abs(after).max() < np.abs(before).max()
