import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hf_asr
from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.data.audio import AudioError, open_recording, read_audio
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer
from hf_asr.decoding.transcript import Hypothesis

from ..conftest import TINY


@pytest.fixture
def waveforms():
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.1, int(16000 * seconds)).astype(np.float32) for seconds in (2.3, 0.9, 1.7)]


def test_a_batch_gives_the_same_text_as_each_recording_alone(tiny_model, processor, waveforms):
    together = Recognizer(tiny_model, processor).transcribe(waveforms)
    assert [t.text for t in together] == [Recognizer(tiny_model, processor).transcribe([w])[0].text for w in waveforms]
    assert len({t.text for t in together}) > 1


@pytest.mark.parametrize("samples", [0, 1, 50, 320, 1600, 4800])
def test_words_of_a_short_recording_end_within_it(tiny_model, processor, samples):
    torch.nn.init.zeros_(tiny_model.ctc_head.weight)
    with torch.no_grad():
        tiny_model.ctc_head.bias.copy_(10.0 * (torch.arange(tiny_model.config.vocab_size) == 7))  # a word throughout
    waveform = np.full(samples, 0.1, np.float32)
    (transcript,) = Recognizer(tiny_model, processor).transcribe([waveform])
    (word,) = transcript.words
    assert 0 <= word.start <= word.end == pytest.approx(samples / 16000, abs=1e-3)
    beside_a_long_one = Recognizer(tiny_model, processor).transcribe([np.full(40000, 0.1, np.float32), waveform])[1]
    assert beside_a_long_one == transcript


def test_a_short_recording_is_not_padded_before_our_extractor(tiny_model, processor, monkeypatch, waveforms):
    """Silence after the waveform would change its last frames, which contain the mirrored end of the waveform."""
    inputs_seen, forward = [], tiny_model.forward
    monkeypatch.setattr(tiny_model, "forward", lambda **inputs: (inputs_seen.append(inputs), forward(**inputs))[1])
    Recognizer(tiny_model, processor).transcribe([waveforms[0][:1600]])
    expected = processor.feature_extractor(waveforms[0][:1600], return_tensors="pt").input_features
    assert torch.equal(inputs_seen[0]["input_features"], expected)


class Clock(torch.nn.Module):
    """A stand-in for a model that emits a token in every frame with a click."""

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


def test_windows_over_a_long_recording_lose_and_repeat_no_token(tiny_model, processor):
    waveform = np.zeros(16000 * 61, np.float32)
    clicks = np.arange(0.5, 60.5, 1.0)
    for seconds in clicks:
        waveform[int(16000 * seconds) : int(16000 * seconds) + 40] = 1.0
    arguments = DecodingArguments(chunk_length_s=8, stride_length_s=1)
    transcript = Recognizer(Clock(tiny_model), processor, arguments=arguments).transcribe(waveform)
    starts = [word.start for word in transcript.words for _ in word.word]
    assert len(transcript.text.replace(" ", "")) == len(clicks)
    assert transcript.words[0].start == pytest.approx(clicks[0] - 0.1, abs=0.1)
    assert transcript.words[-1].end == pytest.approx(clicks[-1] + 0.1, abs=0.1)
    assert len(starts) == len(clicks)


def test_a_window_without_frames_beside_its_context_is_an_error(tiny_model, processor, waveforms):
    for seconds in (2, 0.5, 0, -3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="they have 1 s of context at each end, so they must be longer than 2 s"):
            DecodingArguments(chunk_length_s=seconds, stride_length_s=1)
    for seconds in (-2, float("nan")):
        with pytest.raises(ValueError, match="the stride of windows must be 0 s or more"):
            DecodingArguments(chunk_length_s=10, stride_length_s=seconds)
    arguments = DecodingArguments(chunk_length_s=2.001, stride_length_s=1)
    Recognizer(tiny_model, processor, arguments=arguments).transcribe(waveforms)


class LastToken:
    """A decoder that keeps one number for each window."""

    name = "last token"
    needs_states = False

    def keep(self, log_probs: torch.Tensor, states: torch.Tensor | None = None) -> int:
        assert states is None
        return int(log_probs[-1, 3:].argmax()) + 3

    def begin(self, hotwords=None) -> list[int]:
        return []

    def advance(self, searches: list[list[int]], kept: list[int]) -> None:
        for search, token in zip(searches, kept, strict=True):
            search.append(token)

    def finish(self, searches: list[list[int]], *, is_partial: bool = False) -> list[list[Hypothesis]]:
        probabilities = np.ones(1, np.float32)
        return [[Hypothesis([search[-1]], [(0, 1)], score=0.0, probabilities=probabilities)] for search in searches]


def test_a_decoder_is_four_methods(tiny_model, processor, waveforms):
    arguments = DecodingArguments(chunk_length_s=1.0, stride_length_s=0.2)
    recognizer = Recognizer(tiny_model, processor, LastToken(), arguments=arguments)
    assert len(recognizer.split(waveforms[0])) > 1
    transcript = recognizer.transcribe(waveforms[0])
    last = recognizer.log_probs(recognizer.split(waveforms[0])[-1:])[0][-1]
    assert transcript.hypothesis.tokens == [int(last[3:].argmax()) + 3]


def test_log_probabilities_have_a_frame_for_every_part_of_the_recording(tiny_model, processor, waveforms):
    arguments = DecodingArguments(chunk_length_s=1.0, stride_length_s=0.2)
    recognizer = Recognizer(tiny_model, processor, arguments=arguments)
    parts = recognizer.log_probs(recognizer.split(waveforms[0]))
    seconds = sum(map(len, parts)) * recognizer.seconds_per_frame
    assert seconds == pytest.approx(len(waveforms[0]) / 16000, abs=recognizer.seconds_per_frame)
    assert all(torch.allclose(part.exp().sum(-1), torch.ones(len(part)), atol=1e-5) for part in parts)


def test_load_transcribes_a_path(checkpoint, recording):
    recognizer = hf_asr.load(checkpoint)
    alone = recognizer.transcribe(recording)
    assert alone.text and recognizer.transcribe([str(recording)]) == [alone]
    assert recognizer.transcribe(read_audio(recording)) == alone
    assert recognizer.name == str(checkpoint)


@pytest.mark.parametrize(
    "options", [{}, {"chunk_length_s": 1.0, "stride_length_s": 0.2}], ids=["one window", "windows"]
)
def test_a_recording_that_is_recognised_while_it_is_read_has_the_same_transcript(
    tiny_model, processor, recording, options, monkeypatch
):
    monkeypatch.setattr("hf_asr.decoding.recognizer.BATCH_SECONDS", 2.0)
    recognizer = Recognizer(tiny_model, processor, arguments=DecodingArguments(**options))
    expected = recognizer.transcribe(read_audio(recording))
    assert recognizer.transcribe(open_recording(recording)) == expected
    monkeypatch.setattr("hf_asr.decoding.recognizer.LONG_SECONDS", 0.5)
    waveform = np.full(8000, 0.1, np.float32)
    assert recognizer.transcribe([recording, waveform]) == [expected, recognizer.transcribe(waveform)]


def test_an_opened_recording_of_another_rate_is_refused(tiny_model, processor, recording):
    with pytest.raises(ValueError, match="open it with sampling_rate=16000"):
        Recognizer(tiny_model, processor).transcribe(open_recording(recording, sampling_rate=8000))


@pytest.mark.parametrize(
    "options",
    [
        {"decoding": "greedy"},
        {"decoding": "beam", "hotwords": "fox", "language_model": "lm.arpa"},
        {"decoding": "beam", "lexicon": "fox"},
        {"decoding": "attention_rescoring"},
        {"decoding": "attention"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_tokens_to_which_a_vocabulary_is_padded_are_never_written(processor, waveforms, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    Path("lm.arpa").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1.0 fox\n-1.0 dog\n\n\\end\\\n")
    chunks = {"causal_conv": True, "use_dynamic_chunk": True, "chunk_size": 4, "num_left_chunks": 3}
    config = TINY | chunks | {"vocab_size": len(processor.tokenizer), "decoder_layers": 1}
    torch.manual_seed(0)
    model, arguments = ConformerForCTC(ConformerConfig(**config)), DecodingArguments(**options)

    def texts() -> list[str]:
        recognizer = Recognizer(model, processor, arguments=arguments)
        live = StreamingRecognizer(recognizer)
        found = [*live.accept(waveforms[0]), *live.finish()]
        return [each.text for each in [*recognizer.transcribe(waveforms), *found]]

    expected = texts()
    assert "".join(expected)
    model.resize_token_embeddings(pad_to_multiple_of=64)
    with torch.no_grad():  # the most probable tokens
        for head in (model.ctc_head, model.decoder.lm_head):
            head.bias[len(processor.tokenizer) :] = 5.0
    assert texts() == expected


@pytest.mark.parametrize(
    "options", [{}, {"decoding": "beam", "hotwords": "fox"}, {"decoding": "beam", "lexicon": "fox"}]
)
def test_a_recogniser_is_pickled_for_other_processes(tiny_model, processor, waveforms, options):
    recognizer = Recognizer(tiny_model, processor, arguments=DecodingArguments(**options))
    expected = recognizer.transcribe(waveforms)
    assert pickle.loads(pickle.dumps(recognizer)).transcribe(waveforms) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_checkpoint_is_loaded_in_half_precision(checkpoint, waveforms, dtype):
    exact = hf_asr.load(checkpoint)
    halved = hf_asr.load(checkpoint, arguments=DecodingArguments(dtype=dtype))
    assert halved.model.ctc_head.weight.dtype == getattr(torch, dtype) and exact.model.dtype == torch.float32
    assert halved.model.encoder.feature_mean.dtype == torch.float32  # log-mel values would keep two digits
    windows = [window for waveform in waveforms for window in exact.split(waveform)]
    for expected, found in zip(exact.log_probs(windows), halved.log_probs(windows), strict=True):
        assert found.dtype == torch.float32 and 0 < (found - expected).abs().max() < 0.05


def test_another_precision_than_those_of_models_is_refused(checkpoint):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, not 'int8'"):
        DecodingArguments(dtype="int8")


def test_samples_of_integers_are_scaled(recording, streaming_recognizer):
    waveform = soundfile.read(recording, dtype="int16")[0]
    expected = streaming_recognizer.transcribe(waveform / np.float32(2**15)).text
    assert expected and streaming_recognizer.transcribe(waveform).text == expected
    extractor = streaming_recognizer.processor.feature_extractor
    found, same = (
        extractor(each, return_tensors="pt")["input_features"] for each in (waveform, waveform / np.float32(2**15))
    )
    assert torch.equal(found, same)
    with pytest.raises(ValueError, match="int64, whose full scale is unknown"):
        extractor(waveform.astype(np.int64))
    with pytest.raises(ValueError, match="samples are int64, whose full scale is unknown"):
        streaming_recognizer.transcribe(waveform.astype(np.int64))


def test_a_waveform_that_is_not_mono_is_refused(tiny_model, processor, waveforms):
    stereo = np.stack([waveforms[1]] * 2, axis=1)
    with pytest.raises(ValueError, match=r"samples must be mono and have the shape \(samples,\), not \(14400, 2\)"):
        Recognizer(tiny_model, processor).transcribe([waveforms[0], stereo])


def test_what_is_not_a_recording_is_named(streaming_recognizer, tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav: file not found"):
        streaming_recognizer.transcribe([tmp_path / "none.wav"])
    with pytest.raises(TypeError, match="a recording is a path, .* not Tensor"):
        streaming_recognizer.transcribe([torch.zeros(16000)])
