"""Live audio gives the text of the masked full pass, however it arrives and whatever streams share the forward."""

import dataclasses
import itertools

import numpy as np
import pytest
import soundfile
import torch

from hf_asr import ConformerFeatureExtractor, ConformerProcessor
from hf_asr.data.audio import open_recording
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.endpoints import EndpointArguments, Endpointer
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer, decode_step, recognize_step
from hf_asr.decoding.streams import Encoded
from hf_asr.model.tokenization_conformer import SPACE

ONE_UTTERANCE = EndpointArguments(endpoint_silence_s=1000, max_utterance_s=1000)


@pytest.fixture
def recognizer(streaming_recognizer) -> Recognizer:
    return streaming_recognizer


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def stream(recognizer: Recognizer, waveform: np.ndarray, *, piece: int, endpoints=ONE_UTTERANCE) -> list:
    live, results = StreamingRecognizer(recognizer, endpoints), []
    for start in range(0, len(waveform), piece):
        results += live.accept(waveform[start : start + piece])
    return results + live.finish()


@pytest.mark.parametrize("seconds", [0.01, 0.3, 0.7, 3.21, 5.0])
@pytest.mark.parametrize("piece", [37, 1600, 100000])
def test_streamed_text_is_the_masked_text(recognizer, seconds, piece):
    waveform = noise(seconds)
    expected = recognizer.transcribe(waveform)
    finals = [result for result in stream(recognizer, waveform, piece=piece) if result.is_final]
    assert "".join(result.text for result in finals) == expected.text
    words = [word for result in finals for word in result.words]
    assert [dataclasses.replace(word, confidence=0) for word in words] == [
        dataclasses.replace(word, confidence=0) for word in expected.words
    ]
    assert [word.confidence for word in words] == pytest.approx([word.confidence for word in expected.words], abs=2e-3)
    assert seconds < 1 or expected.text


def test_partial_results_grow(recognizer):
    results = stream(recognizer, noise(3), piece=1600)
    assert [result.is_final for result in results] == [False] * (len(results) - 1) + [True]
    assert len({result.text for result in results[:-1]}) > 3
    assert results[-1].text.startswith(results[0].text)


def test_streams_in_one_forward_give_their_own_texts(recognizer):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((3.3, 1.1, 2.5))]
    streams = [StreamingRecognizer(recognizer, ONE_UTTERANCE) for _ in waveforms]
    texts = [""] * 3
    for tick in range(40):
        for place, (live, waveform) in enumerate(zip(streams, waveforms, strict=True)):
            start = 1600 * (tick - place)  # the streams join one after another
            if start < 0 or live.stream.is_finished:
                continue
            live.add(waveform[start : start + 1600])
            if start + 1600 >= len(waveform):
                live.end()
        while ready := [live for live in streams if live.is_ready]:
            for live, results in zip(ready, recognize_step(ready), strict=True):
                texts[streams.index(live)] = results[-1].text if results else texts[streams.index(live)]
    assert texts == [recognizer.transcribe(waveform).text for waveform in waveforms]


def test_streams_that_cannot_share_a_step_are_refused(recognizer):
    beam = Recognizer(recognizer.model, recognizer.processor, arguments=DecodingArguments(decoding="beam"))
    streams = [StreamingRecognizer(own) for own in (recognizer, beam, beam.with_hotwords(["fox"]))]
    for stream in streams:
        stream.add(noise(1))
    with pytest.raises(ValueError, match="must have the same recogniser"):
        recognize_step(streams)
    assert len(recognize_step(streams[1:])) == 2 and recognize_step([]) == []
    with pytest.raises(ValueError, match="too few samples for a step: .* is_ready"):
        recognize_step([streams[0], StreamingRecognizer(recognizer)])


def spoken(recognizer: Recognizer, pattern: str, *, silence: float = 0.12) -> list:
    """Return the results of frames that are token 7 (x), token 8 (y), a space (_), a Han character (h) or blank (.)."""
    live = StreamingRecognizer(recognizer, EndpointArguments(endpoint_silence_s=silence, max_utterance_s=0.4))
    live.stream.features.num_samples = 1000000
    ids = {"x": 7, "y": 8, ".": 0, "_": SPACE, "h": "二"}
    ids |= {name: recognizer.processor.tokenizer.convert_tokens_to_ids(ids[name]) for name in "_h"}
    log_probs = torch.full((len(pattern), recognizer.model.config.vocab_size), -20.0)
    for place, letter in enumerate(pattern):
        log_probs[place, ids[letter]] = 0
    results = []
    for start in range(0, len(pattern), 4):
        results += decode_step([live], [Encoded(log_probs[start : start + 4])])[0]
    return [result for result in results + live.end_utterance() if result.is_final]


def test_utterances_end_at_silence_and_have_their_times(recognizer):
    found = spoken(recognizer, ".....xx....." + "....y...." + "x")
    assert [result.utterance for result in found] == [0, 1, 2]
    assert [[word.start for word in result.words] for result in found] == [
        [0.1],
        [0.54],
        [0.74],
    ]  # 0.1 s before the tokens


def test_an_utterance_that_is_too_long_ends_at_a_short_pause_and_not_inside_a_word(recognizer):
    found = spoken(recognizer, "xy" * 5 + "x.yx...yx", silence=10)
    assert len(found) == 1
    found = spoken(recognizer, "xy" * 5 + "x.y.....yx", silence=10)
    assert len(found) == 2
    tokens = recognizer.processor.tokenizer.convert_ids_to_tokens([7, 8])
    assert found[0].text.replace(" ", "") == "".join(tokens) * 6
    assert found[1].text.replace(" ", "") == tokens[1] + tokens[0]


def test_an_utterance_without_any_blank_ends_at_twice_the_length(recognizer):
    assert len(spoken(recognizer, "xy" * 25)) == 3


@pytest.mark.parametrize("rest", ["._.xy", "_xy", "h.xy", "..hh.xy"])
def test_an_utterance_without_a_pause_ends_before_a_word_from_one_and_a_half_times_the_length_on(recognizer, rest):
    found = spoken(recognizer, "x_y" + "xy" * 6 + "x" + rest, silence=10)
    letters = [result.text.replace(" ", "") for result in found]
    tokens = recognizer.processor.tokenizer.convert_ids_to_tokens([7, 8])
    assert letters == ["".join(tokens) * 7 + tokens[0], "二" * ("h" in rest) + "".join(tokens)]
    assert found[0].words[-1].end <= found[1].words[0].start < found[1].words[0].end


def test_an_utterance_is_not_cut_inside_a_han_character(recognizer):
    assert [result.text[-1] for result in spoken(recognizer, "xy" * 7 + "hhhhh", silence=10)] == ["二"]


def test_words_of_cut_utterances_do_not_overlap_and_none_is_lost(recognizer):
    waveform = noise(6)
    (whole,) = (result for result in stream(recognizer, waveform, piece=1600) if result.is_final)
    cuts = EndpointArguments(endpoint_silence_s=1000, max_utterance_s=0.5)
    finals = [result for result in stream(recognizer, waveform, piece=1600, endpoints=cuts) if result.is_final]
    assert len(finals) > 5
    assert "".join(result.text for result in finals).replace(" ", "") == whole.text.replace(" ", "")
    words = [word for result in finals for word in result.words]
    assert all(before.start <= before.end <= after.start for before, after in itertools.pairwise(words))


def test_a_token_that_is_cut_at_twice_the_length_is_in_one_utterance(recognizer):
    def counts(pattern: str) -> list[int]:
        return [len(result.text.replace(" ", "")) for result in spoken(recognizer, pattern, silence=10)]

    assert counts("xy" * 9 + "xyyyyyxy") == [20, 2]  # the cut is after 20 frames, inside the last y
    assert counts("xy" * 9 + "xy" + "yy.yx") == [20, 2]  # a blank makes it another token
    assert counts("xy" * 9 + "x" + "y" * 60) == [20]


def test_a_chunk_is_recognised_after_the_latency(recognizer):
    samples = round(16 * recognizer.processor.streaming_latency_ms(4))
    live = StreamingRecognizer(recognizer)
    live.add(noise(1)[: samples - 1])
    assert not live.is_ready
    live.add(noise(1)[samples - 1 : samples])
    assert live.is_ready
    snipped = ConformerProcessor(ConformerFeatureExtractor(snip_edges=True), recognizer.processor.tokenizer)
    assert snipped.streaming_latency_ms(16) == 685
    assert recognizer.processor.streaming_latency_ms(16) == 677.5


def test_silence_alone_gives_nothing_and_keeps_nothing(recognizer):
    live = StreamingRecognizer(recognizer)
    blank = torch.full((4, recognizer.model.config.vocab_size), -20.0)
    blank[:, 0] = 0
    for _ in range(1000):
        assert decode_step([live], [Encoded(blank)]) == [[]]
    assert live.search == [] and live._start == 4000


def test_memory_of_a_stream_does_not_grow(recognizer):
    live, sizes = StreamingRecognizer(recognizer, EndpointArguments(max_utterance_s=1)), set()
    for second in range(8):
        live.accept(noise(1, second))
        sizes.add((len(live.stream.frames), live.stream.cache.attention.shape, len(live.search) < 50))
    assert {size[1:] for size in sizes} == {((2, 1, 2, 12, 32), True)} and max(size[0] for size in sizes) < 20


def test_ten_minutes_of_digital_silence_keep_nothing_and_speech_after_them_has_its_times(recognizer):
    live = StreamingRecognizer(with_arguments(recognizer, chunk_size=50, num_left_chunks=1))
    assert live.accept(noise(3)) != []
    for _ in range(600):
        live.accept(np.zeros(16000, np.float32))
    assert len(live.search) < 5 and len(live.stream.frames) < 500 and len(live.stream.features._signal) < 16000
    words = [word for result in live.accept(noise(3)) + live.finish() for word in result.words]
    assert words and all(602.9 <= word.start <= word.end <= 606 for word in words)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 10)), r"the shape \(samples,\), not \(2, 10\)"),
        (np.array([np.nan]), "some are NaN or infinite"),
        ([1, 2, 3], "samples are int64, whose full scale is unknown: give float in .*, int16, int32 or uint8"),
    ],
)
def test_wrong_samples_are_refused(recognizer, samples, message):
    with pytest.raises(ValueError, match=message):
        StreamingRecognizer(recognizer).accept(samples)


def test_samples_of_integers_are_scaled(recognizer):
    samples = (2**14 * np.sin(np.arange(16000) / 7)).astype(np.int16)
    streams = [StreamingRecognizer(recognizer) for _ in range(2)]
    for stream, given in zip(streams, (samples, samples / np.float32(2**15)), strict=True):
        stream.accept(given)
    assert torch.equal(streams[0].stream.frames, streams[1].stream.frames)


def test_a_finished_stream_takes_no_samples(recognizer):
    live = StreamingRecognizer(recognizer)
    assert live.finish() == []
    with pytest.raises(ValueError, match="finished"):
        live.accept(noise(0.1))


def test_endpointer_gives_the_place_of_the_end():
    end = Endpointer(silence_frames=3, pause_frames=2, max_frames=100)
    assert end.find(np.array([True] * 50)) is None
    assert end.find(np.array([False, True, True])) is None
    assert end.find(np.array([True, True])) == 1


@pytest.mark.parametrize("options", [{"endpoint_silence_s": 0}, {"max_utterance_s": -1}])
def test_impossible_endpoints_are_refused(options):
    with pytest.raises(ValueError, match="must be above 0"):
        EndpointArguments(**options)


def with_arguments(recognizer: Recognizer, **options) -> Recognizer:
    return Recognizer(recognizer.model, recognizer.processor, arguments=DecodingArguments(**options))


def test_streaming_and_long_recordings_give_the_masked_text(recognizer):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((7.1, 0.2, 3.3, 5.0))]
    expected = recognizer.transcribe(waveforms)
    assert len({transcript.text for transcript in expected}) == 4
    for options in ({"streaming": True}, {"chunk_length_s": 1.1, "stride_length_s": 0.1}):
        found = with_arguments(recognizer, **options).transcribe(waveforms)
        assert [transcript.text for transcript in found] == [transcript.text for transcript in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert [(word.start, word.end) for word in ours.words] == [(word.start, word.end) for word in theirs.words]


@pytest.mark.parametrize("options", [{"streaming": True}, {"chunk_length_s": 1.1, "stride_length_s": 0.1}], ids=str)
def test_a_recording_that_is_recognised_while_it_is_read_gives_the_masked_text(recognizer, tmp_path, options):
    soundfile.write(tmp_path / "a.wav", noise(7.1), 16000, subtype="FLOAT")
    expected = recognizer.transcribe(noise(7.1))
    found = with_arguments(recognizer, **options).transcribe(open_recording(tmp_path / "a.wav"))
    assert (found.text, found.words) == (expected.text, expected.words)


def test_chunks_are_set_at_run_time(recognizer):
    waveform = noise(3)
    small = recognizer.transcribe(waveform)
    full = with_arguments(recognizer, chunk_size=-1)
    assert full.model.config.chunk_size == -1 and full.transcribe(waveform).text != small.text
    assert with_arguments(full, chunk_size=4, num_left_chunks=3).transcribe(waveform) == small


def test_recognisers_of_one_model_have_their_own_chunks_and_share_the_weights(recognizer):
    full = with_arguments(recognizer, chunk_size=-1)
    live = StreamingRecognizer(with_arguments(full, chunk_size=2, num_left_chunks=5))
    live.accept(noise(1))
    assert (recognizer.model.config.chunk_size, full.model.config.chunk_size) == (4, -1)
    assert live.stream.cache.attention.shape[3] == 10
    for ours, theirs in zip(recognizer.model.parameters(), full.model.parameters(), strict=True):
        assert ours is theirs
    for ours, theirs in zip(recognizer.model.buffers(), full.model.buffers(), strict=True):
        assert ours is theirs
    assert with_arguments(recognizer, chunk_size=4).model is recognizer.model


def test_chunks_of_a_model_that_was_not_trained_in_chunks_are_refused(recognizer):
    recognizer.model.config.use_dynamic_chunk = False
    with pytest.raises(ValueError, match="chunk_size: the checkpoint was not trained in chunks"):
        with_arguments(recognizer, chunk_size=8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"causal_conv": False}, "layers look at later frames"),
        ({"chunk_size": -1}, "needs a chunk_size above 0"),
        ({"num_left_chunks": -1}, "num_left_chunks of 0 or more"),
    ],
)
def test_a_checkpoint_that_cannot_stream_says_why(recognizer, config, message):
    for name, value in config.items():
        setattr(recognizer.model.config, name, value)
    with pytest.raises(ValueError, match=message):
        with_arguments(recognizer, streaming=True)
    with pytest.raises(ValueError, match=message):
        StreamingRecognizer(recognizer)


def test_denoising_cannot_stream_and_long_recordings_have_windows(recognizer):
    recognizer.processor.feature_extractor.denoise = True
    try:
        with pytest.raises(ValueError, match="denoise cannot stream"):
            with_arguments(recognizer, streaming=True)
        assert with_arguments(recognizer, chunk_length_s=2, stride_length_s=0.5).transcribe(noise(3)).text
    finally:
        recognizer.processor.feature_extractor.denoise = False


def test_the_chunks_of_a_graph_cannot_be_set(recognizer):
    graph = torch.nn.Module()
    graph.config = recognizer.model.config
    with pytest.raises(ValueError, match="not a graph"):
        Recognizer(graph, recognizer.processor, arguments=DecodingArguments(chunk_size=8))


def test_a_stream_keeps_its_own_cache_only(recognizer):
    streams = [StreamingRecognizer(recognizer) for _ in range(3)]
    for live in streams:
        live.add(noise(1))
    recognize_step(streams)
    cache = streams[0].stream.cache.attention
    assert cache.untyped_storage().nbytes() == cache.nbytes


@pytest.mark.parametrize("options", [{"chunk_size": 0}, {"num_left_chunks": -2}])
def test_impossible_chunks_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DecodingArguments(**options)
