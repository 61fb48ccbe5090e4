"""Long recordings are cut at pauses: all of their speech is recognised, at its times, with bounded memory."""

import importlib.util
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from hf_asr.data.audio import LongRecording, open_recording, read_audio
from hf_asr.data.timeline import Notes
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.voice_activity import VoiceActivityDetector, speech_blocks, split_at_pauses

FRAME = 640  # samples of an encoder frame
WINDOWS = {"sampling_rate": 16000, "samples_per_frame": FRAME, "chunk_seconds": 4.0, "stride_seconds": 0.5}


@pytest.fixture(scope="module")
def spoken(corpus) -> list[np.ndarray]:
    """Three utterances of one to four seconds."""
    found = [read_audio(path) for path in sorted((corpus / "validation").glob("*.flac"))]
    return [waveform for waveform in found if 16000 < len(waveform) < 4 * 16000][:3]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.002, round(16000 * seconds)).astype(np.float32)


def joined(spoken: list[np.ndarray], *, pause: float) -> tuple[np.ndarray, list[float]]:
    """Return utterances with noise before, between and after them, and their starts in seconds."""
    parts, starts = [noise(pause)], []
    for seed, waveform in enumerate(spoken):
        starts.append(sum(map(len, parts)) / 16000)
        parts += [waveform, noise(pause, seed + 1)]
    return np.concatenate(parts), starts


def pieces(waveform: np.ndarray, size: int = 16000) -> list[np.ndarray]:
    return [waveform[i : i + size] for i in range(0, len(waveform), size)]


@pytest.mark.parametrize("size", [1000, 16000, 10**9])
def test_windows_and_pauses_are_the_recording_in_whole_frames(spoken, size):
    waveform, starts = joined(spoken, pause=3.0)
    windows, place, covered = list(split_at_pauses(pieces(waveform, size), **WINDOWS)), 0, []
    for window in windows:
        assert place % FRAME == 0 and window.samples <= 4 * 16000
        if window.pause:
            assert not len(window.waveform)
            place += window.pause
            continue
        begin = place - window.left * FRAME
        assert np.array_equal(window.waveform, waveform[begin : begin + len(window.waveform)])
        place += len(window.waveform) - (window.left + window.right) * FRAME
        covered.append((begin / 16000, place / 16000))
    assert place == len(waveform)
    assert sum(window.pause for window in windows) > 3 * 16000
    for start, own in zip(starts, spoken, strict=True):
        middle = start + len(own) / 32000
        assert any(first <= middle <= end for first, end in covered)


def test_a_recording_that_fits_into_a_window_is_one_window(spoken):
    waveform = np.concatenate([noise(1), spoken[0][:16000], noise(1)])
    (window,) = split_at_pauses(pieces(waveform), **WINDOWS)
    assert np.array_equal(window.waveform, waveform)


def test_no_sound_within_the_padding_is_cut_off(spoken):
    waveform, _ = joined(spoken, pause=2.0)
    blocks = list(speech_blocks(pieces(waveform), block_samples=2560))
    probabilities = VoiceActivityDetector().probabilities(waveform)
    for frame in np.flatnonzero(probabilities >= 0.2):
        around = range(max(0, frame * 512 - 4800) // 2560, min(len(waveform) - 1, frame * 512 + 511 + 4800) // 2560 + 1)
        assert all(blocks[i][1] for i in around)
    assert np.array_equal(np.concatenate([samples for samples, _ in blocks]), waveform)


def test_the_detector_gives_the_same_in_pieces(spoken):
    detector, waveform = VoiceActivityDetector(), spoken[0][: 512 * 40]
    found = np.concatenate([detector.probabilities(piece) for piece in pieces(waveform, 512 * 7)])
    np.testing.assert_allclose(found, VoiceActivityDetector().probabilities(waveform), atol=1e-5)
    assert found.max() > 0.9


def test_words_have_their_times_in_the_recording(tiny_model, processor, spoken):
    """A model that emits one word in every window: its words are where the speech is."""
    torch.nn.init.zeros_(tiny_model.ctc_head.weight)
    token = processor.tokenizer.convert_tokens_to_ids("二")
    with torch.no_grad():
        tiny_model.ctc_head.bias.copy_(10.0 * (torch.arange(tiny_model.config.vocab_size) == token))
    waveform, starts = joined(spoken, pause=2.5)
    arguments = DecodingArguments(vad=True, chunk_length_s=4.0, stride_length_s=0.5)
    transcript = Recognizer(tiny_model, processor, arguments=arguments).transcribe(waveform)
    assert len(transcript.words) == len(spoken)
    for word, start, own in zip(transcript.words, starts, spoken, strict=True):
        assert start - 1.5 < word.start < start + 0.7 and start + len(own) / 16000 - 0.7 < word.end


def test_a_long_recording_without_speech_has_an_empty_text(tiny_model, processor, monkeypatch, tmp_path):
    monkeypatch.setattr(tiny_model, "forward", None)  # it is not called
    recognizer = Recognizer(tiny_model, processor, arguments=DecodingArguments(vad=True, chunk_length_s=10))
    assert recognizer.transcribe(noise(65)).text == ""
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000 * 130), 16000)
    transcript = recognizer.transcribe(open_recording(tmp_path / "silence.wav"))
    assert (transcript.text, transcript.words) == ("", [])
    assert len(transcript.hypothesis.probabilities) == 130 * 25


def test_a_recording_that_is_recognised_while_it_is_read_has_the_same_transcript(
    tiny_model, processor, spoken, tmp_path
):
    waveform, _ = joined(spoken, pause=2.0)
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    arguments = DecodingArguments(vad=True, chunk_length_s=4.0, stride_length_s=0.5)
    recognizer = Recognizer(tiny_model, processor, arguments=arguments)
    expected = recognizer.transcribe(waveform)
    found = recognizer.transcribe(open_recording(tmp_path / "a.wav"))
    assert (found.text, found.words) == (expected.text, expected.words) and found.text


def test_memory_is_bounded():
    def peak(minutes: int) -> int:
        seconds = (noise(1, i % 7) for i in range(60 * minutes))
        recording = LongRecording(lambda: seconds, duration=60.0 * minutes, sampling_rate=16000, notes=Notes())
        tracemalloc.start()
        for window in split_at_pauses(recording, **WINDOWS):
            assert window.samples <= 4 * 16000
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return memory

    peak(1)
    assert peak(20) < 1.2 * peak(5)


def test_without_the_extra_the_error_names_it(tiny_model, processor, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "silero_vad" else find_spec(name))
    with pytest.raises(ImportError, match=r"pip install 'hf_asr\[vad\]'"):
        Recognizer(tiny_model, processor, arguments=DecodingArguments(vad=True))


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="vad splits recordings and streaming does not"):
        DecodingArguments(vad=True, streaming=True)
    with pytest.raises(ValueError, match="vad needs a stride_length_s of 0.25 s or more"):
        DecodingArguments(vad=True, stride_length_s=0.1)


def test_a_checkpoint_of_another_sampling_rate_is_refused(tiny_model, processor, monkeypatch):
    monkeypatch.setattr(processor.feature_extractor, "sampling_rate", 8000)
    with pytest.raises(ValueError, match="needs a checkpoint for 16000 Hz, and this one is for 8000 Hz"):
        Recognizer(tiny_model, processor, arguments=DecodingArguments(vad=True))
