"""Beam search gives WeNet's hypotheses, those of an exhaustive search, and the same for each way to batch and cut."""

import itertools
import json
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.decoders import build_decoder
from hf_asr.decoding.endpoints import EndpointArguments
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.decoding.hotwords import HotwordCompiler, parse_hotwords
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.streaming import StreamingRecognizer, recognize_step
from hf_asr.decoding.transcript import Hypothesis, aligned_tokens
from hf_asr.hub.wenet import import_wenet
from hf_asr.model.tokenization_conformer import HAN

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("HF_ASR_WENET_REFERENCE", ROOT.parent / "shared" / "wenet_reference"))
ALL_PREFIXES = 400  # more than there are prefixes of five frames and three tokens


def lattice(frames: int, vocab_size: int = 4, *, seed: int = 0, peak: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (peak * torch.randn(frames, vocab_size, generator=generator)).log_softmax(-1)


def decode(decoder: BeamDecoder, *recordings: list[torch.Tensor]) -> list[list[Hypothesis]]:
    """Return the hypotheses of recordings from the log-probabilities (frames, vocabulary) of their windows."""
    searches = [decoder.begin() for _ in recordings]
    for windows in itertools.zip_longest(*recordings):
        active = [i for i, window in enumerate(windows) if window is not None]
        decoder.advance([searches[i] for i in active], [decoder.keep(windows[i]) for i in active])
    return decoder.finish(searches)


def assert_same(found: list[Hypothesis], expected: list[Hypothesis], *, tolerance: float = 1e-4) -> None:
    assert [hypothesis.tokens for hypothesis in found] == [hypothesis.tokens for hypothesis in expected]
    assert [hypothesis.frames for hypothesis in found] == [hypothesis.frames for hypothesis in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=tolerance)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, rtol=1e-5)


class Bigrams:
    """A scorer with a random score for each pair of tokens and for each last token, whose state is the last token."""

    def __init__(self, vocab_size: int, *, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.pairs = torch.randn(vocab_size, vocab_size, generator=generator)
        self.ends = torch.randn(vocab_size, generator=generator)

    def start(self) -> torch.Tensor:
        return torch.tensor([0, 7])

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pairs[states[:, :1], tokens], torch.stack([tokens, torch.full_like(tokens, 7)], -1)

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        assert (states[:, 1] == 7).all()
        return self.ends[states[:, 0]]

    def score(self, tokens: tuple[int, ...]) -> float:
        pairs = itertools.pairwise((0, *tokens))
        return sum(float(self.pairs[pair]) for pair in pairs) + float(self.ends[(0, *tokens)[-1]])


def exhaustive(log_probs: torch.Tensor) -> dict[tuple[int, ...], tuple[float, float, tuple[int, ...]]]:
    """Return for each token sequence the log-probability of all paths and of the best one, and the best path."""
    found: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = defaultdict(list)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token)
        found[tokens].append((float(log_probs[range(len(path)), path].double().sum()), path))
    return {
        tokens: (math.log(sum(math.exp(score) for score, _ in paths)), *max(paths)) for tokens, paths in found.items()
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_scorer", [False, True], ids=["alone", "with a scorer"])
@pytest.mark.parametrize("blank_penalty", [0.0, 0.7])
def test_a_wide_beam_equals_an_exhaustive_search(seed, with_scorer, blank_penalty):
    log_probs, scorer = lattice(5, seed=seed), Bigrams(4, seed=seed)
    penalised = log_probs - blank_penalty * (torch.arange(4) == 0)
    expected = exhaustive(penalised)
    options = {"blank_penalty": blank_penalty, "skip_blank": 1.0, "scorers": [scorer] if with_scorer else []}
    (found,) = decode(BeamDecoder(0, beam_size=ALL_PREFIXES, nbest=ALL_PREFIXES, **options), [log_probs])
    scores = {tokens: entry[0] + with_scorer * scorer.score(tokens) for tokens, entry in expected.items()}
    assert {tuple(hypothesis.tokens) for hypothesis in found} == set(scores) and len(found) == len(scores)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(scores[tuple(hypothesis.tokens)], abs=1e-4)
        _, best, path = expected[tuple(hypothesis.tokens)]
        assert aligned_tokens(hypothesis, blank=0) == list(path)
        np.testing.assert_allclose(hypothesis.probabilities, log_probs[range(5), path].exp(), rtol=1e-5)
    assert [hypothesis.score for hypothesis in found] == sorted(
        (hypothesis.score for hypothesis in found), reverse=True
    )


def reference_search(log_probs: torch.Tensor, beam_size: int) -> list[tuple[list[int], float]]:
    """Return WeNet's n-best: its `ctc_prefix_beam_search` in a few lines."""
    prefixes = {(): (0.0, -math.inf)}
    for values in log_probs.double():
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for token in values.topk(beam_size).indices.tolist():
            for prefix, (blank, last) in prefixes.items():
                both, score = np.logaddexp(blank, last), float(values[token])
                longer = grown[(*prefix, token)] if token else None
                if not token:
                    grown[prefix][0] = np.logaddexp(grown[prefix][0], both + score)
                elif prefix and prefix[-1] == token:
                    grown[prefix][1] = np.logaddexp(grown[prefix][1], last + score)
                    longer[1] = np.logaddexp(longer[1], blank + score)
                else:
                    longer[1] = np.logaddexp(longer[1], both + score)
        best = sorted(grown, key=lambda prefix: -np.logaddexp(*grown[prefix]))[:beam_size]
        prefixes = {prefix: tuple(grown[prefix]) for prefix in best}
    return [(list(prefix), float(np.logaddexp(*ends))) for prefix, ends in prefixes.items()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beam_size", "vocab_size"), [(1, 6), (3, 6), (6, 6), (8, 30)])
def test_pruning_is_wenets(seed, beam_size, vocab_size):
    log_probs = lattice(40, vocab_size, seed=seed, peak=2.0)
    (found,) = decode(BeamDecoder(0, beam_size=beam_size, skip_blank=1.0, nbest=beam_size), [log_probs])
    expected = reference_search(log_probs, beam_size)
    assert [hypothesis.tokens for hypothesis in found] == [tokens for tokens, _ in expected]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected], abs=1e-4)
    for hypothesis in found:
        path = aligned_tokens(hypothesis, blank=0)
        assert [token for token, _ in itertools.groupby(path) if token] == hypothesis.tokens
        np.testing.assert_allclose(hypothesis.probabilities, log_probs[range(40), path].exp(), rtol=1e-5)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"WeNet's outputs are not at {REFERENCE}")
@pytest.mark.parametrize("name", ["conformer_offline", "u2pp_streaming"])
@pytest.mark.parametrize("number", [0, 1])
def test_hypotheses_and_scores_are_wenets(name, number):
    folder = REFERENCE / name
    arrays, expected = np.load(folder / "expected.npz"), json.loads((folder / "expected.json").read_text())
    frames = int(arrays["encoder_lengths"][number])
    log_probs = torch.from_numpy(arrays["ctc_log_probs"][number, :frames])
    if (name, number) == ("conformer_offline", 0):
        # WeNet decoded each utterance alone, and its convolution module lets this model's last frames see the padding.
        model, processor = import_wenet(folder)
        with torch.inference_mode():
            inputs = processor([arrays["waveform_0"]], sampling_rate=16000)
            log_probs = model.eval()(**inputs).logits.log_softmax(-1)[0]
    (found,) = decode(BeamDecoder(0, beam_size=5, skip_blank=1.0, nbest=5), [log_probs])
    expected = expected[f"utterance_{number}"]
    assert [hypothesis.tokens for hypothesis in found] == expected["prefix_beam5_nbest"]
    assert [hypothesis.score for hypothesis in found] == pytest.approx(expected["prefix_beam5_scores"], abs=1e-3)


@pytest.mark.parametrize("scorers", [[], [Bigrams(12)]], ids=["alone", "with a scorer"])
def test_a_recording_in_a_batch_equals_the_recording_alone(scorers):
    decoder = BeamDecoder(0, beam_size=6, nbest=6, scorers=scorers)
    recordings = [lattice(frames, 12, seed=frames, peak=4.0) for frames in (30, 1, 0, 17, 30, 5)]
    together = decode(decoder, *([recording] for recording in recordings))
    for recording, found in zip(recordings, together, strict=True):
        assert_same(found, decode(decoder, [recording])[0])


@pytest.mark.parametrize("skip_blank", [1.0, 0.6])
def test_window_by_window_equals_the_whole_recording(skip_blank):
    decoder = BeamDecoder(0, beam_size=6, nbest=6, skip_blank=skip_blank, scorers=[Bigrams(12)])
    log_probs = torch.cat(
        [lattice(60, 12, peak=4.0), lattice(60, 12, seed=1, peak=4.0) + 4.0 * (torch.arange(12) == 0)]
    )
    log_probs = log_probs.log_softmax(-1)[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    (whole,) = decode(decoder, [log_probs])
    for sizes in ([1] * 120, [0, 50, 0, 70], [119, 1]):
        (found,) = decode(decoder, list(log_probs.split(sizes)))
        assert_same(found, whole)
    search = decoder.begin()
    for frames in range(40):  # `finish` in between changes nothing
        decoder.advance([search], [decoder.keep(log_probs[frames : frames + 1])])
        assert_same(decoder.finish([search])[0], decode(decoder, [log_probs[: frames + 1]])[0])


def spoken(frames: int = 400, vocab_size: int = 50, *, seed: int = 0) -> torch.Tensor:
    """Return log-probabilities like those of a trained model: three of four frames are surely blank."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(frames, vocab_size, generator=generator)
    logits[:, 0] += 14.0
    places = torch.arange(0, frames, 4)
    logits[places, 0] -= 14.0 - 3.0 * torch.rand(len(places), generator=generator)
    logits[places, torch.randint(1, vocab_size, (len(places),), generator=generator)] += 4.0
    return logits.log_softmax(-1)


def test_skipped_frames_change_the_score_within_the_tolerance():
    """The skipped alignments have together at most the probability 1 - skip_blank in each skipped frame."""
    for seed in range(5):
        log_probs = spoken(seed=seed)
        (exact,) = decode(BeamDecoder(0, skip_blank=1.0), [log_probs])
        for skip_blank in (0.999, 0.9999):
            decoder = BeamDecoder(0, skip_blank=skip_blank)
            window = decoder.keep(log_probs)
            skipped = len(log_probs) - len(window.places)
            assert skipped > 100
            (found,) = decode(decoder, [log_probs])
            assert found[0].tokens == exact[0].tokens and found[0].frames == exact[0].frames
            assert 0 <= exact[0].score - found[0].score + 1e-3 <= skipped * -math.log(skip_blank) + 2e-3
    penalised = BeamDecoder(0, blank_penalty=5.0).keep(log_probs)
    assert len(penalised.places) > len(BeamDecoder(0).keep(log_probs).places)


def test_a_blank_between_equal_tokens_may_be_skipped():
    path = torch.tensor([0, 3, 0, 0, 3, 3, 0, 4, 0, 0])
    log_probs = torch.full((10, 6), -12.0)
    log_probs[torch.arange(10), path] = 0.0
    log_probs = log_probs.log_softmax(-1)
    for sizes in ([10], [2, 8], [3, 7], [1] * 10):
        ((found,),) = decode(BeamDecoder(0), list(log_probs.split(sizes)))
        assert (found.tokens, found.frames) == ([3, 3, 4], [(1, 2), (4, 6), (7, 8)])
        assert found.score == pytest.approx(float(log_probs[range(10), path].sum()), abs=1e-3)


def test_a_blank_penalty_gives_more_tokens():
    log_probs = lattice(60, 12, peak=2.0) + 2.0 * (torch.arange(12) == 0)
    counts = []
    for blank_penalty in (-3.0, 0.0, 3.0):
        ((found,),) = decode(BeamDecoder(0, blank_penalty=blank_penalty), [log_probs.log_softmax(-1)])
        counts.append(len(found.tokens))
    assert counts[0] < counts[1] < counts[2]


def test_degenerate_recordings_have_hypotheses():
    decoder = BeamDecoder(0, beam_size=50, nbest=50)
    assert decoder.finish([]) == []
    for windows in ([], [torch.zeros(0, 3)], [torch.zeros(0, 3)] * 2):
        (found,) = decode(decoder, windows)
        assert [(h.tokens, h.frames, h.score, len(h.probabilities)) for h in found] == [([], [], 0.0, 0)]
    (found,) = decode(decoder, [lattice(2, 3, peak=0.1)])  # the beam is larger than the vocabulary
    sequences = [tuple(hypothesis.tokens) for hypothesis in found]
    assert len(set(sequences)) == len(sequences) == 1 + 2 + 2
    silence = torch.full((3, 3), torch.finfo(torch.float32).min)
    silence[:, 0] = 0.0
    for skip_blank in (1.0, 0.999):
        ((found, *_),) = decode(BeamDecoder(0, skip_blank=skip_blank), [silence])
        assert (found.tokens, found.score) == ([], 0.0) and found.probabilities == pytest.approx([1, 1, 1])
    ((found, *_),) = decode(decoder, [torch.full((4, 3), torch.nan)])
    assert len(found.probabilities) == 4


def test_a_beam_without_scorers_finds_what_greedy_decoding_finds_where_the_model_is_sure():
    log_probs, greedy = spoken(), GreedyDecoder(0)
    search = greedy.begin()
    greedy.advance([search], [greedy.keep(log_probs)])
    ((found,),), ((expected,),) = decode(BeamDecoder(0), [log_probs]), greedy.finish([search])
    assert found.tokens == expected.tokens and found.frames == expected.frames
    assert np.array_equal(found.probabilities, expected.probabilities)


def test_scores_of_long_recordings_keep_their_precision():
    log_probs = spoken(40, 12).tile(200, 1)  # a score of -3000
    parts = [decode(BeamDecoder(0, skip_blank=1.0), [part])[0][0].score for part in log_probs.split(40)[:1]]
    ((found,),) = decode(BeamDecoder(0, skip_blank=1.0), list(log_probs.split(40)))
    assert found.score == pytest.approx(200 * parts[0], abs=5e-2)


def test_recordings_of_a_batch_have_their_own_hotwords(processor):
    compiler = HotwordCompiler(processor.tokenizer)
    decoder = BeamDecoder(0, nbest=10, compiler=compiler, scorers=[Bigrams(len(processor.tokenizer))])
    han = [token for token in processor.tokenizer.get_vocab() if HAN.match(token)]
    hotwords = [
        parse_hotwords([f"{han[0]}\t6"]),
        None,
        parse_hotwords([f"{han[1]}\t6", "cat"]),
        parse_hotwords(han[:1]),
    ]
    size = len(processor.tokenizer)
    recordings = [lattice(30, size, seed=seed, peak=3.0) for seed in (0, 0, 0, 1)]

    def searched(chosen: list[int], *, frames: int) -> list[list[Hypothesis]]:
        searches = [decoder.begin(hotwords[i]) for i in chosen]
        for start in range(0, 30, frames):
            kept = [decoder.keep(recordings[i][start : start + frames]) for i in chosen]
            decoder.advance(searches, kept)
        return decoder.finish(searches)

    together = searched([0, 1, 2, 3], frames=7)
    assert len({round(hypotheses[0].score, 3) for hypotheses in together[:3]}) == 3
    for i, hypotheses in enumerate(together):
        assert_same(hypotheses, searched([i], frames=30)[0], tolerance=1e-3)


def test_hotwords_without_a_compiler_are_refused():
    with pytest.raises(ValueError, match="built without hotwords"):
        BeamDecoder(0).begin(hotwords=["weather"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size must be from 1"),
        ({"beam_size": 100000}, "beam_size must be from 1"),
        ({"decoding": "beam", "blank_penalty": math.nan}, "blank_penalty must be a finite number"),
        ({"blank_penalty": 1.0}, "give --decoding beam"),
        ({"decoding": "viterbi"}, "decoding must be one of greedy, beam"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodingArguments(**options).resolved({})


def test_the_arguments_choose_the_decoder(tiny_model, processor):
    arguments = DecodingArguments(decoding="beam", beam_size=4, blank_penalty=0.5)
    decoder = Recognizer(tiny_model, processor, arguments=arguments).decoder
    assert (decoder.name, decoder.beam_size, decoder.blank_penalty) == ("beam", 4, 0.5)
    tokenizer = processor.tokenizer
    expected = GreedyDecoder(tokenizer.pad_token_id, len(tokenizer))
    assert build_decoder("greedy", tokenizer, tiny_model) == expected


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def test_recordings_in_a_batch_and_in_windows_have_the_transcripts_of_each_alone(tiny_model, processor):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((2.3, 0.9, 0.0, 3.1))]
    options = {"decoding": "beam", "beam_size": 5, "chunk_length_s": 1.5, "stride_length_s": 0.2}
    recognizer = Recognizer(tiny_model, processor, arguments=DecodingArguments(**options))
    together = recognizer.transcribe(waveforms)
    assert together == [recognizer.transcribe(waveform) for waveform in waveforms]
    assert len({transcript.text for transcript in together}) > 2


@pytest.fixture
def beam_recognizer(streaming_recognizer) -> Recognizer:
    model, processor = streaming_recognizer.model, streaming_recognizer.processor
    return Recognizer(model, processor, arguments=DecodingArguments(decoding="beam", beam_size=5))


def test_streams_end_with_the_text_of_the_whole_recordings(beam_recognizer):
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((3.3, 1.1, 2.5))]
    endless = EndpointArguments(endpoint_silence_s=1000, max_utterance_s=1000)
    streams = [StreamingRecognizer(beam_recognizer, endless) for _ in waveforms]
    for live, waveform in zip(streams, waveforms, strict=True):
        live.add(waveform)
        live.end()
    partial: dict[int, list[str]] = defaultdict(list)
    while ready := [i for i, live in enumerate(streams) if live.is_ready]:
        for i, results in zip(ready, recognize_step([streams[i] for i in ready]), strict=True):
            partial[i] += [result.text for result in results]
    finals = [live.end_utterance() for live in streams]
    expected = beam_recognizer.transcribe(waveforms)
    assert ["".join(result.text for result in results) for results in finals] == [each.text for each in expected]
    assert [[word.start for word in results[0].words] for results in finals] == [
        [word.start for word in each.words] for each in expected
    ]
    assert all(len(set(texts)) > 3 for texts in partial.values() if len(texts) > 8)


def test_an_utterance_of_a_stream_begins_a_new_search(beam_recognizer):
    live = StreamingRecognizer(beam_recognizer, EndpointArguments(endpoint_silence_s=0.12, max_utterance_s=1))
    results = live.accept(noise(6)) + live.finish()
    assert sum(result.is_final for result in results) > 1
    assert len(live.search.windows) == 0
