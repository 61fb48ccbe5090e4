"""The weights of a beam search on log-probabilities whose right weights are known."""

import gzip
import math

import pytest
import torch

from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.language_model import read_language_model
from hf_asr.decoding.rescoring import RescoringDecoder
from hf_asr.decoding.streams import Encoded
from hf_asr.scoring import tuning
from hf_asr.scoring.tuning import SearchWeights, decode_texts, tune, tune_ctc_weight

# After "a", "b" is ten times as probable as "c".
ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-99 <s> 0
-1 </s>
-0.7 a 0
-0.7 b 0
-0.7 c 0
-2 <unk>

\\2-grams:
-0.1 <s> a
-0.1 a b
-1.1 a c

\\end\\
"""


@pytest.fixture
def tokenizer():
    from hf_asr.model import ConformerTokenizer

    return ConformerTokenizer.from_texts(["abc"], text_normalization="basic")


@pytest.fixture
def language_model(tokenizer, tmp_path):
    with gzip.open(tmp_path / "lm.arpa.gz", "wt") as file:
        file.write(ARPA)
    return read_language_model(tmp_path / "lm.arpa.gz", tokenizer)


def log_probs(tokenizer, frames: list[dict[str, float]]) -> torch.Tensor:
    """Return log-probabilities of frames with these probabilities; the rest is blank's."""
    probabilities = torch.full((len(frames), len(tokenizer)), 1e-9)
    for row, frame in zip(probabilities, frames, strict=True):
        for character, value in frame.items():
            row[tokenizer.convert_tokens_to_ids(character)] = value
        row[tokenizer.pad_token_id] = 1 - sum(frame.values())
    return probabilities.log()


def test_a_language_model_that_helps_gets_a_weight(tokenizer, language_model):
    frames = [{"a": 0.98}, {}, {"b": 0.4, "c": 0.55}, {}]
    decoder = BeamDecoder(tokenizer.pad_token_id, scorers=[language_model])
    values = [log_probs(tokenizer, frames)]
    assert decode_texts(SearchWeights().applied(decoder), values, tokenizer) == ["ac"]
    best, *others = tune(decoder, values, ["ab"], tokenizer, show_progress=False)
    assert best.error_rate == 0 and best.weights.language_model_weight > 0
    assert decode_texts(best.weights.applied(decoder), values, tokenizer) == ["ab"]
    assert all(trial.error_rate >= best.error_rate for trial in others)


def test_a_language_model_that_does_not_help_gets_none(tokenizer, language_model):
    values = [log_probs(tokenizer, [{"a": 0.98}, {}, {"b": 0.4, "c": 0.55}, {}])]
    decoder = BeamDecoder(tokenizer.pad_token_id, scorers=[language_model])
    best = tune(decoder, values, ["ac"], tokenizer, show_progress=False)[0]
    assert best.weights == SearchWeights() and best.error_rate == 0


def test_a_model_that_leaves_tokens_out_gets_a_penalty_of_blank(tokenizer):
    values = [log_probs(tokenizer, [{"a": 0.98}, {}, {"b": 0.3}, {}])]
    best = tune(BeamDecoder(tokenizer.pad_token_id), values, ["ab"], tokenizer, show_progress=False)[0]
    assert best.error_rate == 0 and best.weights.blank_penalty > 0 and best.weights.language_model_weight == 0


def test_words_are_counted_where_they_are_asked_for(tokenizer):
    values = [log_probs(tokenizer, [{"a": 0.98}, {}, {"b": 0.9}])]
    trials = tune(BeamDecoder(tokenizer.pad_token_id), values, ["ac"], tokenizer, unit="word", show_progress=False)
    assert trials[0].error_rate == 1.0


def test_rescoring_gets_the_weight_with_the_fewest_errors(tokenizer, monkeypatch):
    """CTC prefers "ac", the attention decoder "ab", by 2; CTC's preference is ln(0.55 / 0.4) = 0.3 times the weight."""
    a, b, c = (tokenizer.convert_tokens_to_ids(character) for character in "abc")
    frames = [{"a": 0.98}, {}, {"b": 0.4, "c": 0.55}, {}]
    encoded = [Encoded(log_probs(tokenizer, frames), torch.zeros(4, 2))] * 2
    scores = {(a, b): -1.0, (a, c): -3.0}
    monkeypatch.setattr(
        tuning, "attention_scores", lambda model, states, tokens, **_: [scores.get(tuple(own), -9.0) for own in tokens]
    )
    beam = BeamDecoder(tokenizer.pad_token_id, nbest=5, beam_size=5)
    decoder = RescoringDecoder(beam, model=None, seconds_per_frame=0.04)
    assert tune_ctc_weight(decoder, encoded, ["ab", "ab"], tokenizer) == (0.0, 0.0)
    weight, rate = tune_ctc_weight(decoder, encoded, ["ac", "ac"], tokenizer)
    assert weight * math.log(0.55 / 0.4) > 2 - 1e-6 or rate > 0
    scores[a, c] = -1.1
    assert tune_ctc_weight(decoder, encoded, ["ac", "ac"], tokenizer) == (0.5, 0.0)
