import numpy as np
import pytest
import torch

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.subtitles import cues, join_words, to_srt, to_vtt
from hf_asr.decoding.transcript import Word


@pytest.fixture
def waveforms():
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.1, int(16000 * seconds)).astype(np.float32) for seconds in (2.3, 0.9, 1.7)]


def test_batched_is_alone_and_in_order(tiny_model, processor, waveforms):
    together = Recognizer(tiny_model, processor).transcribe(waveforms)
    assert [t.text for t in together] == [Recognizer(tiny_model, processor).transcribe([w])[0].text for w in waveforms]
    assert len({t.text for t in together}) > 1


@pytest.mark.parametrize("samples", [0, 1, 50, 320, 1600, 4800])
def test_a_short_recording_has_its_words_within_itself(tiny_model, processor, samples):
    torch.nn.init.zeros_(tiny_model.ctc_head.weight)
    with torch.no_grad():
        tiny_model.ctc_head.bias.copy_(10.0 * (torch.arange(tiny_model.config.vocab_size) == 7))  # a word throughout
    waveform = np.full(samples, 0.1, np.float32)
    (transcript,) = Recognizer(tiny_model, processor).transcribe([waveform])
    (word,) = transcript.words
    assert 0 <= word.start <= word.end == pytest.approx(samples / 16000, abs=1e-3)
    beside_a_long_one = Recognizer(tiny_model, processor).transcribe([np.full(40000, 0.1, np.float32), waveform])[1]
    assert beside_a_long_one == transcript


def test_a_short_recording_is_heard_by_the_features_of_its_extractor(tiny_model, processor, monkeypatch, waveforms):
    """Silence behind the waveform would change its last frames, which the mirrored end is in."""
    heard, forward = [], tiny_model.forward
    monkeypatch.setattr(tiny_model, "forward", lambda **inputs: (heard.append(inputs), forward(**inputs))[1])
    Recognizer(tiny_model, processor).transcribe([waveforms[0][:1600]])
    expected = processor.feature_extractor(waveforms[0][:1600], return_tensors="pt").input_features
    assert torch.equal(heard[0]["input_features"], expected)


class Clock(torch.nn.Module):
    """Stands for a model: emits a token in every frame that holds a click."""

    def __init__(self, model):
        super().__init__()
        self.config, self.device = model.config, torch.device("cpu")
        self._get_feat_extract_output_lengths = model.get_output_lengths

    def forward(self, input_features, attention_mask):
        frames = self._get_feat_extract_output_lengths(attention_mask.sum(-1))
        logits = torch.zeros(len(frames), int(frames.max()), 50)
        logits[..., 0] = 1
        energy = input_features.amax(-1)
        for row in range(len(frames)):
            for place in range(int(frames[row])):
                if energy[row, 4 * place : 4 * place + 4].max() > 15:
                    logits[row, place, 5] = 9
        return type("Output", (), {"logits": logits})


def test_windows_over_a_long_recording_lose_and_repeat_nothing(tiny_model, processor):
    waveform = np.zeros(16000 * 61, np.float32)
    clicks = np.arange(0.5, 60.5, 1.0)
    for seconds in clicks:
        waveform[int(16000 * seconds) : int(16000 * seconds) + 40] = 1.0
    arguments = DecodingArguments(chunk_length_s=8, stride_length_s=1)
    transcript = Recognizer(Clock(tiny_model), processor, arguments=arguments).transcribe(waveform)
    starts = [word.start for word in transcript.words for _ in word.word]
    assert len(transcript.text.replace(" ", "")) == len(clicks)
    assert transcript.words[0].start == pytest.approx(clicks[0], abs=0.1)
    assert transcript.words[-1].end == pytest.approx(clicks[-1], abs=0.1)
    assert len(starts) == len(clicks)


def test_a_stride_that_leaves_nothing_is_an_error(tiny_model, processor, waveforms):
    for seconds in (2, 0.5, 0, -3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="they overlap by 1 s at each end, so more than 2 s are needed"):
            DecodingArguments(chunk_length_s=seconds, stride_length_s=1)
    arguments = DecodingArguments(chunk_length_s=2.001, stride_length_s=1)
    Recognizer(tiny_model, processor, arguments=arguments).transcribe(waveforms)


WORDS = [Word("hello", 0.0, 0.4), Word("world", 0.5, 0.9), Word("打", 3.0, 3.2), Word("开", 3.2, 3.4)]


def test_cues_break_at_pauses_and_before_they_are_too_long():
    assert cues(WORDS) == [(0.0, 0.9, "hello world"), (3.0, 3.4, "打开")]
    assert len(cues(WORDS, max_characters=5)) == 3
    assert len(cues(WORDS, max_gap_seconds=10, max_seconds=1.0)) == 2


def test_han_characters_are_joined_without_spaces():
    assert join_words([Word("ok", 0, 1), *WORDS[2:], Word("wifi", 4, 5)]) == "ok打开wifi"


def test_subtitle_formats():
    assert to_srt(WORDS) == (
        "1\n00:00:00,000 --> 00:00:00,900\nhello world\n\n2\n00:00:03,000 --> 00:00:03,400\n打开\n"
    )
    assert to_vtt([Word("late", 3661.5, 3662.0)]) == "WEBVTT\n\n01:01:01.500 --> 01:01:02.000\nlate\n"


def test_what_a_text_holds_is_no_part_of_the_format():
    words = [Word("a-->b", 0.0, 0.4), Word("<i>&", 0.5, 0.9), Word("two\n\nlines", 1.0, 1.4), Word(" ", 1.4, 1.5)]
    srt, vtt = to_srt(words), to_vtt(words)
    assert srt == "1\n00:00:00,000 --> 00:00:01,400\na→b <i>& two lines\n"
    assert vtt == "WEBVTT\n\n00:00:00.000 --> 00:00:01.400\na--&gt;b &lt;i&gt;&amp; two lines\n"
