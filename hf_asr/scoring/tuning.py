"""Find the weights of a beam search on validation data: a coarse grid, which is refined around its best point."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..decoding.beam import BeamDecoder
from ..decoding.rescoring import RescoringDecoder, attention_scores
from ..decoding.streams import Encoded
from ..decoding.transcript import to_text
from .metrics import count_errors

# The coarse grid. The weights of a language model are tried together, then the blank penalty.
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
BONUSES = (0.0, 0.5, 1.0, 1.5)  # times the weight and the entropy of the unigrams
PENALTIES = (-1.0, 0.0, 1.0, 2.0)
REFINEMENTS = 2  # each halves the distance to the neighbours
CTC_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # of attention rescoring


@dataclass(frozen=True)
class SearchWeights:
    """The numbers that are tuned; see the options of the same names in `decoding/arguments.py`."""

    language_model_weight: float = 0.0
    word_insertion_bonus: float = 0.0
    blank_penalty: float = 0.0

    def applied(self, decoder: BeamDecoder) -> BeamDecoder:
        """Return the decoder with these weights; its scorers are language models."""
        scorers = [
            replace(scorer, weight=self.language_model_weight, bonus=self.word_insertion_bonus)
            for scorer in decoder.scorers
        ]
        return replace(decoder, blank_penalty=self.blank_penalty, scorers=scorers)


@dataclass(frozen=True)
class Trial:
    """Weights, and the rate of errors with them."""

    weights: SearchWeights
    error_rate: float


def decode_texts(
    decoder: BeamDecoder, log_probs: Sequence[torch.Tensor], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return the normalised text of each recording from its log-probabilities (frames, vocabulary)."""
    searches = [decoder.begin() for _ in log_probs]
    decoder.advance(searches, [decoder.keep(values) for values in log_probs])
    return [tokenizer.normalize(to_text(hypotheses[0], tokenizer)) for hypotheses in decoder.finish(searches)]


def tune(
    decoder: BeamDecoder,
    log_probs: Sequence[torch.Tensor],
    references: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    unit: str = "character",
    show_progress: bool = True,
) -> list[Trial]:
    """Return the trials, the best one first; of equally good ones, that with the smaller weights.

    Args:
        decoder: With a language model or without.
        log_probs: Of each recording, (frames, vocabulary).
        references: Normalised transcripts.
        unit: Whose errors are counted, `character` or `word`.
    """
    rates: dict[SearchWeights, float] = {}
    has_model = bool(decoder.scorers)
    names = ["language_model_weight", "word_insertion_bonus"] if has_model else []
    steps = {"language_model_weight": WEIGHTS[0], "word_insertion_bonus": 1.0, "blank_penalty": 1.0}
    total = 1 + (len(WEIGHTS) * len(BONUSES) if has_model else 0) + len(PENALTIES) + 2 * REFINEMENTS * (len(names) + 1)
    progress = tqdm(desc="Tuning", unit="trial", total=total, disable=not show_progress)

    def best() -> SearchWeights:
        return min(rates, key=lambda weights: (rates[weights], sum(abs(value) for value in asdict(weights).values())))

    def measure(trials: Iterable[SearchWeights]) -> None:
        for weights in trials:
            progress.update()
            if weights in rates:
                continue
            rates[weights] = error_rate(references, decode_texts(weights.applied(decoder), log_probs, tokenizer), unit)
            progress.set_postfix(best=f"{100 * rates[best()]:.2f} %")

    measure(iter([SearchWeights()]))
    if has_model:
        entropy = decoder.scorers[0].table.entropy
        measure(
            SearchWeights(weight, round(share * weight * entropy, 2))
            for weight, share in itertools.product(WEIGHTS, BONUSES)
        )
    measure(replace(best(), blank_penalty=penalty) for penalty in PENALTIES)
    for _ in range(REFINEMENTS):
        steps = {name: step / 2 for name, step in steps.items()}
        for name in [*names, "blank_penalty"]:
            centre = best()
            measure(
                replace(centre, **{name: max(0.0, value) if name == "language_model_weight" else value})
                for value in (getattr(centre, name) - steps[name], getattr(centre, name) + steps[name])
            )
    progress.close()
    ordered = sorted(rates, key=lambda weights: (weights != best(), rates[weights]))
    return [Trial(weights, rates[weights]) for weights in ordered]


def tune_ctc_weight(
    decoder: RescoringDecoder,
    encoded: Sequence[Encoded],
    references: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    unit: str = "character",
) -> tuple[float, float]:
    """Return the factor of the beam search's score with the fewest errors, and their rate.

    Args:
        encoded: Of each recording, which is one segment.
        references: Normalised transcripts.
        unit: Whose errors are counted, `character` or `word`.
    """
    searches = [decoder.beam.begin() for _ in encoded]
    decoder.beam.advance(searches, [decoder.beam.keep(each.log_probs) for each in encoded])
    candidates = []  # of each recording: text, score of the beam search, score of the attention decoder
    for each, found in zip(tqdm(encoded, desc="Rescoring"), decoder.beam.finish(searches), strict=True):
        tokens = [hypothesis.tokens for hypothesis in found]
        added = attention_scores(decoder.model, each.states, tokens, reverse_weight=decoder.reverse_weight)
        texts = [tokenizer.normalize(to_text(hypothesis, tokenizer)) for hypothesis in found]
        candidates.append(list(zip(texts, [hypothesis.score for hypothesis in found], added, strict=True)))

    def rate(weight: float) -> float:
        best = [max(own, key=lambda each: weight * each[1] + each[2])[0] for own in candidates]
        return error_rate(references, best, unit)

    return min(((weight, rate(weight)) for weight in CTC_WEIGHTS), key=lambda trial: trial[1])


def error_rate(references: Sequence[str], texts: Sequence[str], unit: str) -> float:
    """Return the errors of texts in relation to the characters or words of the references."""
    counts = count_errors(references, texts, unit=unit).sum(0)
    return float(counts[:3].sum() / max(counts[3], 1))
