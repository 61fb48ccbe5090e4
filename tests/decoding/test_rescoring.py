"""Attention rescoring gives each hypothesis of the beam search the attention decoder's log-probability, too."""

import copy
import math

import numpy as np
import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.decoding import rescoring, segments
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.endpoints import EndpointArguments
from hf_asr.decoding.hotwords import Hotword
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.rescoring import attention_scores
from hf_asr.decoding.streaming import StreamingRecognizer

from ..conftest import TINY

RESCORING = DecodingArguments(decoding="attention_rescoring", beam_size=5)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def model_with_decoders(processor, **options) -> ConformerForCTC:
    torch.manual_seed(1)
    config = ConformerConfig(
        **TINY, vocab_size=len(processor.tokenizer), decoder_layers=1, reverse_decoder_layers=1, **options
    )
    model = ConformerForCTC(config).eval()
    features = processor(noise(5), sampling_rate=16000)["input_features"][0]
    with torch.no_grad():  # as in `streaming_recognizer`: the text depends on the audio, and there are some blanks
        model.encoder.feature_mean.copy_(features.mean(0))
        model.encoder.feature_istd.copy_(1 / features.std(0))
        model.ctc_head.weight.mul_(4)
        model.ctc_head.bias[processor.tokenizer.pad_token_id] = 3
    for decoder in (model.decoder, model.reverse_decoder):  # whose scores differ from token to token
        torch.nn.init.normal_(decoder.lm_head.weight)
    return model


@pytest.fixture
def model(processor) -> ConformerForCTC:
    return model_with_decoders(processor)


def score_token_by_token(decoder, states: torch.Tensor, tokens: list[int], *, sos_eos: int) -> float:
    total, inputs = 0.0, [sos_eos]
    for token in [*tokens, sos_eos]:
        logits = decoder(torch.tensor([inputs]), states[None])[0, -1]
        total += float(logits.log_softmax(-1)[token])
        inputs.append(token)
    return total


@pytest.mark.parametrize("cells", [1, rescoring.CELLS])
@torch.inference_mode()
def test_a_score_is_the_sum_over_the_tokens_and_the_end(model, monkeypatch, cells):
    monkeypatch.setattr(rescoring, "CELLS", cells)  # one hypothesis in a forward, or all of them
    states, hypotheses = torch.randn(9, 32), [[5, 4, 7, 7], [], [6], [4, 5]]
    sos_eos = model.config.eos_token_id
    left = [score_token_by_token(model.decoder, states, tokens, sos_eos=sos_eos) for tokens in hypotheses]
    right = [score_token_by_token(model.reverse_decoder, states, each[::-1], sos_eos=sos_eos) for each in hypotheses]
    assert attention_scores(model, states, hypotheses) == pytest.approx(left, abs=1e-4)
    expected = [0.6 * a + 0.4 * b for a, b in zip(left, right, strict=True)]
    assert attention_scores(model, states, hypotheses, reverse_weight=0.4) == pytest.approx(expected, abs=1e-4)


def test_the_best_hypothesis_has_the_best_sum_of_both_scores(model, processor):
    recognizer = Recognizer(model, processor, arguments=RESCORING)
    decoder = recognizer.decoder
    (encoded,) = recognizer.encode(recognizer.split(noise(2)))
    search, beam = decoder.begin(), decoder.beam.begin()
    decoder.advance([search], [decoder.keep(*encoded)])
    decoder.beam.advance([beam], [decoder.beam.keep(encoded.log_probs)])
    (found,), (ordered,) = decoder.beam.finish([beam]), decoder.finish([search])
    tokens = [each.tokens for each in found]
    added = attention_scores(model, encoded.states, tokens, reverse_weight=model.config.reverse_weight)
    scores = {tuple(each.tokens): 0.5 * each.score + value for each, value in zip(found, added, strict=True)}
    assert {tuple(each.tokens): each.score for each in ordered} == pytest.approx(scores, abs=1e-4)
    assert [each.score for each in ordered] == sorted(scores.values(), reverse=True)
    assert ordered[0].tokens != found[0].tokens, "the decoder chooses another hypothesis than the beam search here"
    assert recognizer.transcribe(noise(2)).hypothesis.tokens == ordered[0].tokens


def test_without_a_weight_of_ctc_only_the_attention_decoder_counts(model, processor):
    arguments = DecodingArguments(decoding="attention_rescoring", beam_size=5, ctc_weight=0.0, reverse_weight=1.0)
    recognizer = Recognizer(model, processor, arguments=arguments)
    (encoded,) = recognizer.encode(recognizer.split(noise(2)))
    best = recognizer.transcribe(noise(2)).hypothesis
    (score,) = attention_scores(model, encoded.states, [best.tokens], reverse_weight=1.0)
    assert best.score == pytest.approx(score, abs=1e-4)


def test_recordings_in_a_batch_have_the_transcripts_of_each_alone(model, processor):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((2.3, 0.9, 0.0, 3.1))]
    recognizer = Recognizer(model, processor, arguments=RESCORING)
    together = recognizer.transcribe(waveforms)
    assert together == [recognizer.transcribe(waveform) for waveform in waveforms]


def test_hotwords_lead_the_beam_search(model, processor):
    arguments = DecodingArguments(decoding="attention_rescoring", beam_size=5, ctc_weight=20.0)
    recognizer = Recognizer(model, processor, arguments=arguments)
    plain = recognizer.transcribe(noise(2)).text
    phrase = next(a + b for a in plain for b in plain if a + b not in plain)
    assert phrase in recognizer.with_hotwords([Hotword(phrase, 20.0)]).transcribe(noise(2)).text


def test_a_long_recording_is_rescored_in_segments(model, processor, monkeypatch):
    monkeypatch.setattr(segments, "MIN_SECONDS", 1.0)
    arguments = DecodingArguments(decoding="attention_rescoring", beam_size=5, chunk_length_s=1.2, stride_length_s=0.2)
    recognizer = Recognizer(model, processor, arguments=arguments)
    decoder, waveform, lengths = recognizer.decoder, noise(8), []
    monkeypatch.setattr(
        rescoring,
        "attention_scores",
        lambda model, states, *args, **options: (
            lengths.append(len(states)) or attention_scores(model, states, *args, **options)
        ),
    )
    transcript = recognizer.transcribe(waveform)
    assert len(lengths) > 2 and sum(lengths) == 199, "the last frame is not encoded"
    windows, starts = recognizer.encode(recognizer.split(waveform)), np.cumsum([0, *lengths])
    log_probs, states = (torch.cat([getattr(each, name) for each in windows]) for name in ("log_probs", "states"))
    tokens, frames = [], []
    for start, end in zip(starts[:-1], [*starts[1:-1], 200], strict=True):
        search = decoder.begin()
        decoder.advance([search], [decoder.keep(log_probs[start:end], states[start:end])])
        best = decoder.finish([search])[0][0]
        tokens += best.tokens
        frames += [(first + start, last + start) for first, last in best.frames]
    assert (transcript.hypothesis.tokens, transcript.hypothesis.frames) == (tokens, frames)


@pytest.fixture
def live_recognizer(processor) -> Recognizer:
    options = {"causal_conv": True, "use_dynamic_chunk": True, "chunk_size": 4, "num_left_chunks": 2}
    return Recognizer(model_with_decoders(processor, **options), processor, arguments=RESCORING)


def test_the_final_text_of_a_stream_is_that_of_the_whole_recording(live_recognizer, monkeypatch):
    waveform, rescored = noise(3), []
    expected = live_recognizer.transcribe(waveform)
    stepwise = copy.copy(live_recognizer)
    stepwise.arguments = DecodingArguments(decoding="attention_rescoring", beam_size=5, streaming=True).resolved({})
    assert stepwise.transcribe(waveform).text == expected.text
    monkeypatch.setattr(
        rescoring, "attention_scores", lambda *args, **options: rescored.append(1) or attention_scores(*args, **options)
    )
    live, results = (
        StreamingRecognizer(live_recognizer, EndpointArguments(endpoint_silence_s=1000, max_utterance_s=1000)),
        [],
    )
    for start in range(0, len(waveform), 1600):
        results += live.accept(waveform[start : start + 1600])
    assert results and not rescored, "partial text needs no second pass"
    results += live.finish()
    assert (results[-1].text, results[-1].is_final) == (expected.text, True)
    assert len(rescored) == 1


def test_an_utterance_that_ends_within_a_step_has_the_states_of_its_own_frames(live_recognizer, monkeypatch):
    lengths = []
    monkeypatch.setattr(
        rescoring,
        "attention_scores",
        lambda model, states, *args, **options: (
            lengths.append(len(states)) or attention_scores(model, states, *args, **options)
        ),
    )
    live = StreamingRecognizer(live_recognizer, EndpointArguments(endpoint_silence_s=1000, max_utterance_s=0.26))
    results = live.accept(noise(4)) + live.finish()
    finals = [result for result in results if result.is_final]
    assert len(finals) > 3 and sum(lengths) <= 100 and any(length % 4 for length in lengths[:-1])


@pytest.mark.parametrize("decoding", ["attention_rescoring", "attention"])
def test_a_model_without_a_decoder_is_refused(tiny_model, processor, decoding):
    with pytest.raises(ValueError, match="train one with decoder_layers, or choose --decoding beam"):
        Recognizer(tiny_model, processor, arguments=DecodingArguments(decoding=decoding))


def test_a_weight_of_a_missing_decoder_is_refused(processor):
    model = ConformerForCTC(ConformerConfig(**TINY, vocab_size=len(processor.tokenizer), decoder_layers=1)).eval()
    arguments = DecodingArguments(decoding="attention_rescoring", reverse_weight=0.3)
    with pytest.raises(ValueError, match="reverse_weight is 0.3, but the checkpoint has no right-to-left decoder"):
        Recognizer(model, processor, arguments=arguments)
    assert Recognizer(model, processor, arguments=RESCORING).decoder.reverse_weight == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decoding": "beam", "ctc_weight": 0.3},
            "ctc_weight is not an option of beam decoding: give --decoding atten",
        ),
        ({"decoding": "attention", "hotwords": "a"}, "hotwords is not an option of attention decoding: give --deco"),
        ({"ctc_weight": -1.0}, "ctc_weight must be 0 or more"),
        ({"ctc_weight": math.nan}, "ctc_weight must be a finite number"),
        ({"reverse_weight": 1.5}, "reverse_weight must be from 0 to 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodingArguments(**options).resolved({})
