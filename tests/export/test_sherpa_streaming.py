"""sherpa-onnx's online recogniser, from its wheel, runs the exported files."""

import contextlib
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

from hf_asr import ConformerConfig, ConformerFeatureExtractor
from hf_asr.cli import main
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import load
from hf_asr.export.graphs import ConformerSherpaStepOnnxConfig
from hf_asr.export.sherpa_streaming import ENERGY_FLOOR, metadata, refusal, silence_seconds, warn_of_times

CHUNKS = {"chunk_size": 16, "num_left_chunks": 4}
LIVE = {"causal_conv": True, **CHUNKS, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
EXTRACTOR = ConformerFeatureExtractor()
HOP = 64  # feature frames between two steps


@pytest.fixture(scope="module")
def sherpa_onnx():
    return pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install sherpa-onnx")


def open_recognizer(sherpa_onnx, folder: Path, *, name: str = "model-streaming.onnx", **chunks: int):
    options = {"model": str(folder / name), "tokens": str(folder / "tokens.txt"), "num_threads": 1}
    return sherpa_onnx.OnlineRecognizer.from_wenet_ctc(**options, **CHUNKS | chunks)


def decode(recognizer, waveform: np.ndarray, *, silence: float = 0.0, piece: int = 10**9):
    """Return the stream of a waveform (samples,) that `silence` seconds follow."""
    waveform = np.concatenate([waveform, np.zeros(round(16000 * silence), np.float32)])
    stream = recognizer.create_stream()
    for start in range(0, len(waveform), piece):
        stream.accept_waveform(16000, waveform[start : start + piece])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return stream


class Spell(torch.nn.Module):
    """A step whose tokens spell the first 64 frames of its features, and then its offset and the mask of its cache."""

    def forward(
        self,
        x: torch.Tensor,
        offset: torch.Tensor,
        required_cache_size,
        attn_cache,
        conv_cache,
        attn_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        empty = (~attn_mask).sum()[None]
        number = torch.cat([((x[:, :HOP] + 32) * 2**18).round().long().flatten(), offset, required_cache_size, empty])
        digits = torch.stack([number // 65536, number // 256 % 256, number % 256], -1).flatten()
        tokens = 1 + digits + 256 * (torch.arange(len(digits)) % 2)  # no two neighbours are equal, so none is merged
        return torch.nn.functional.one_hot(tokens, 513)[None].float(), attn_cache + 0, conv_cache + 0


@pytest.fixture(scope="module")
def spelled(sherpa_onnx, tmp_path_factory):
    """Return a function from a waveform to the features and, for each step, offset, cache size and empty frames."""
    folder, config = tmp_path_factory.mktemp("spell"), ConformerConfig(**LIVE, vocab_size=513)
    description = ConformerSherpaStepOnnxConfig(config, task="automatic-speech-recognition")
    proto = torch.onnx.export(
        Spell().eval(),
        kwargs=description.generate_dummy_inputs(frames=HOP + 3),
        dynamic_shapes={
            name: dict.fromkeys(axes if name != "x" else (), torch.export.Dim.DYNAMIC)
            for name, axes in description.inputs.items()
        },
        input_names=list(description.inputs),
        output_names=list(description.outputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    ).model_proto
    for key, value in metadata(config).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, folder / "model-streaming.onnx")
    (folder / "tokens.txt").write_text("".join(f"t{i} {i}\n" if i else "<blk> 0\n" for i in range(513)))
    recognizer = open_recognizer(sherpa_onnx, folder)

    def run(waveform: np.ndarray, **options: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = recognizer.tokens(decode(recognizer, waveform, **options))
        digits = np.array([(int(token[1:]) - 1) % 256 for token in tokens]).reshape(-1, 80 * HOP + 3, 3)
        numbers = digits @ [65536, 256, 1]
        return numbers[:, : 80 * HOP].reshape(-1, 80) / 2**18 - 32, numbers[:, 80 * HOP :]

    return run


def noise(samples: int, scale: float = 0.1) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, scale, samples).astype(np.float32)


@pytest.mark.parametrize("waveform", [noise(30000), noise(43210, scale=1e-5), np.zeros(20000, np.float32)])
@pytest.mark.parametrize("piece", [10**9, 333])
def test_features_are_those_of_our_extractor(spelled, waveform, piece):
    found, _ = spelled(waveform, piece=piece)
    ours, _ = ConformerFeatureExtractor(energy_floor=ENERGY_FLOOR).log_mel(
        torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
    )
    assert len(found) >= HOP
    np.testing.assert_allclose(found, ours[0, : len(found)], atol=2e-3)


def test_the_difference_of_offset_and_cache_size_counts_the_frames_before_a_step(spelled):
    _, steps = spelled(noise(160 * HOP * 7))
    cache, frames = 16 * 4, 3 * (80 * HOP + 3)  # Spell writes more frames than a chunk has
    assert steps[:, 0].tolist() == [cache + step * frames for step in range(6)]
    assert steps[:, 1].tolist() == [cache] * 6
    assert steps[:, 2].tolist() == [cache, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("samples,steps", [(160 * 67, 0), (160 * 68, 1), (160 * 131, 1), (160 * 132, 2)])
def test_a_step_needs_one_frame_more_than_it_has(spelled, samples, steps):
    found, _ = spelled(noise(samples))
    assert len(found) == steps * HOP


@pytest.fixture(scope="module")
def exported(live_tone_checkpoint, tones, tmp_path_factory) -> tuple[Path, str]:
    """Return the folder of an export and what the command printed."""
    folder, printed = tmp_path_factory.mktemp("phone") / "exported", io.StringIO()
    options = ["--target", "sherpa-onnx", "--streaming", "true", "--quantize", "int8", "--dataset_name", str(tones)]
    options += [word for name, value in CHUNKS.items() for word in (f"--{name}", str(value))]
    with contextlib.redirect_stdout(printed):
        main(["export", "--model_name_or_path", str(live_tone_checkpoint), "--output_dir", str(folder), *options])
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def waveforms(tones) -> list[np.ndarray]:
    return [read_row(row, sampling_rate=16000) for row in Source(str(tones)).load("validation")]


def texts(recognizer, waveforms: list[np.ndarray], **options: float) -> list[str]:
    return [recognizer.get_result(decode(recognizer, waveform, **options)).strip() for waveform in waveforms]


def transcripts(checkpoint: Path, waveforms: list[np.ndarray], **chunks: int) -> list[str]:
    arguments = DecodingArguments(streaming=True, **chunks)
    return [transcript.text for transcript in load(checkpoint, arguments=arguments).transcribe(waveforms)]


def test_the_files_have_six_inputs_and_the_properties_that_sherpa_onnx_reads(exported):
    folder, _ = exported
    for name in ("model-streaming.onnx", "model-streaming.int8.onnx"):
        proto = onnx.load(folder / name)
        assert [value.name for value in proto.graph.input] == list(ConformerSherpaStepOnnxConfig.inputs.fget(None))
        found = {item.key: item.value for item in proto.metadata_props}
        assert found == found | {
            "model_type": "wenet_ctc",
            "right_context": "6",
            "chunk_size": "16",
            "left_chunks": "4",
        }
    assert (folder / "tokens.txt").is_file()


@pytest.mark.parametrize("name", ["model-streaming.onnx", "model-streaming.int8.onnx"])
def test_transcripts_are_those_of_pytorch(sherpa_onnx, exported, live_tone_checkpoint, waveforms, name):
    recognizer = open_recognizer(sherpa_onnx, exported[0], name=name)
    expected = transcripts(live_tone_checkpoint, waveforms, **CHUNKS)
    silence = silence_seconds(ConformerConfig(**LIVE), EXTRACTOR)
    found = texts(recognizer, waveforms, silence=silence)
    same = sum(ours == theirs for ours, theirs in zip(expected, found, strict=True))
    assert silence == 0.64 and same >= 0.97 * len(waveforms) and all(expected)
    assert texts(recognizer, waveforms[:3], silence=silence, piece=777) == found[:3]
    missing = texts(recognizer, waveforms, silence=0.0)
    assert sum(map(len, missing)) < 0.97 * sum(map(len, found))  # without silence, the ends are missing


@pytest.mark.parametrize("chunks", [{"chunk_size": 4, "num_left_chunks": 3}, {"chunk_size": 30, "num_left_chunks": 0}])
def test_sherpa_onnx_chooses_the_chunks(sherpa_onnx, exported, live_tone_checkpoint, waveforms, chunks):
    recognizer = open_recognizer(sherpa_onnx, exported[0], **chunks)
    silence = chunks["chunk_size"] * 0.04
    followed = [np.pad(waveform, (0, round(16000 * silence))) for waveform in waveforms[:9]]
    assert texts(recognizer, waveforms[:9], silence=silence) == transcripts(live_tone_checkpoint, followed, **chunks)


def test_the_printed_example_transcribes_a_recording(
    exported, waveforms, live_tone_checkpoint, tmp_path, monkeypatch, capsys
):
    _, printed = exported
    code = printed[printed.index("import numpy") :]
    assert "model-streaming.int8.onnx" in code and "round(0.64 * rate)" in code
    soundfile.write(tmp_path / "recording.wav", waveforms[0], 16000)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {})
    assert [capsys.readouterr().out.strip()] == transcripts(live_tone_checkpoint, waveforms[:1], **CHUNKS)


def test_a_cache_of_another_size_is_refused():
    assert refusal(ConformerConfig(**LIVE)) is None
    assert "needs a head_dim of hidden_size / num_attention_heads" in refusal(ConformerConfig(**LIVE, head_dim=4))


def test_other_frames_than_40_ms_have_wrong_times(capsys):
    warn_of_times(ConformerConfig(**LIVE), EXTRACTOR)
    assert capsys.readouterr().err == ""
    warn_of_times(ConformerConfig(**LIVE, subsampling_factor=6), EXTRACTOR)
    assert "it has 60 ms: the text is right, but its times" in capsys.readouterr().err
