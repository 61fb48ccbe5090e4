import numpy as np
import pytest
import torch

from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.decoding.transcript import Hypothesis, aligned_tokens, to_text, to_transcript


def log_probs(path: list[int], *, vocab_size: int = 39) -> torch.Tensor:
    """Log-probabilities (frames, vocabulary) whose best path is `path`, with a probability of 0.8 in each frame."""
    values = torch.full((len(path), vocab_size), 0.2 / (vocab_size - 1))
    values[torch.arange(len(path)), torch.tensor(path)] = 0.8
    return values.log()


def decoded(*windows: torch.Tensor) -> Hypothesis:
    """Return the hypothesis of a recording from log-probabilities (frames, vocabulary) of its windows."""
    decoder = GreedyDecoder(blank=0)
    search = decoder.begin()
    for window in windows:
        decoder.advance([search], [decoder.keep(window)])
    ((hypothesis,),) = decoder.finish([search])
    return hypothesis


def test_repetitions_and_blanks_are_removed():
    hypothesis = decoded(log_probs([0, 5, 5, 0, 5, 7, 7, 0]))
    assert hypothesis.tokens == [5, 5, 7]
    assert hypothesis.frames == [(1, 3), (4, 5), (5, 7)]
    assert hypothesis.score == pytest.approx(8 * np.log(0.8), rel=1e-5)
    assert hypothesis.probabilities == pytest.approx(np.full(8, 0.8), rel=1e-5)


def test_a_token_over_the_border_of_two_windows_is_one_token():
    path = [0, 5, 5, 5, 0, 6, 6, 0]
    whole = decoded(log_probs(path))
    for border in range(1, len(path)):
        hypothesis = decoded(log_probs(path[:border]), log_probs(path[border:]))
        assert (hypothesis.tokens, hypothesis.frames) == (whole.tokens, whole.frames)


def test_an_empty_recording_has_no_tokens():
    for windows in ([], [torch.zeros(0, 39)]):
        hypothesis = decoded(*windows)
        assert (hypothesis.tokens, hypothesis.frames, hypothesis.score) == ([], [], 0.0)


def test_words_have_the_times_and_probabilities_of_their_frames(processor):
    """A word is wider than the frames of its tokens by 0.1 s, but not beyond the middle between two words."""
    tokenizer = processor.tokenizer
    the, space, dog = (
        tokenizer("the dog")["input_ids"][:3],
        *(tokenizer("the dog")["input_ids"][i:j] for i, j in ((3, 4), (4, 7))),
    )
    path = [0] * 4 + the + [0, *space, *dog, dog[-1], 0]
    hypothesis = decoded(log_probs(path, vocab_size=len(tokenizer)))
    assert aligned_tokens(hypothesis, blank=0) == path
    assert to_text(hypothesis, tokenizer) == "the dog"
    transcript = to_transcript(hypothesis, tokenizer, seconds_per_frame=0.04, duration=0.55)
    assert [(word.word, word.start, word.end) for word in transcript.words] == [
        ("the", 0.06, 0.32),  # frames 4 to 7
        ("dog", 0.32, 0.55),  # frames 9 to 13, and the end of the recording
    ]
    assert {word.confidence for word in transcript.words} == {0.8}
    later = to_transcript(hypothesis, tokenizer, seconds_per_frame=0.04, duration=9.0, start=0.08)
    assert [(word.start, word.end) for word in later.words] == [(0.14, 0.40), (0.40, 0.70)]


def test_hotwords_are_refused():
    with pytest.raises(ValueError, match="choose --decoding beam"):
        GreedyDecoder(blank=0).begin(hotwords=["weather"])
