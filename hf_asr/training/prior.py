"""The best model that ignores the audio: its loss is CTC's plateau, and a new model starts with its output.

A head that starts at random has to learn first that most frames are blanks, and which tokens are frequent. An optimiser
like Adam changes each bias by at most the learning rate in a step, so the biases alone would need thousands of steps.
The encoder is faster: it adds the same large vector to every frame, in which the audio gets lost, the more so the more
layers it has. This is CTC's plateau. With the right biases from the start there is nothing of this kind to learn.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from ..families import ctc_frames, ctc_head, is_conformer, samples_per_frame
from ..model.losses_conformer import ctc_loss


@dataclass(frozen=True)
class Prior:
    """A distribution that is the same in each frame.

    Attributes:
        blank: Probability of the blank.
        counts: How often each token occurs in the labels; the tokens share the rest in proportion.
        utterances: Number of labels.
        loss: CTC loss per token of this distribution.
    """

    blank: float
    counts: Counter[int]
    utterances: int
    loss: float


def best_prior(frames: Sequence[int], labels: Sequence[Sequence[int]], *, max_utterances: int = 20) -> Prior:
    """Return the distribution with the smallest CTC loss.

    The loss is computed over a sample of at most `max_utterances`, evenly spaced.

    Args:
        frames: Frames of logits of each utterance.
        labels: Token ids of each utterance, without blanks; at least one token in all.
    """
    counts = Counter(itertools.chain.from_iterable(labels))
    chosen = range(0, len(labels), -(-len(labels) // max_utterances))
    sample = [labels[i] for i in chosen]
    lengths = torch.tensor([max(frames[i], ctc_frames(labels[i])) for i in chosen])
    # Only the tokens of the sample need a place in the vocabulary, which makes it small. The blank is 0.
    places = {token: place for place, token in enumerate(set(itertools.chain.from_iterable(sample)), start=1)}
    frequencies = torch.tensor([counts[token] for token in places], dtype=torch.float64) / counts.total()
    targets = [torch.tensor([places[token] for token in ids], dtype=torch.long) for ids in sample]
    padded = pad_sequence(targets, batch_first=True, padding_value=-100)

    def loss(blank: float) -> float:
        log_probs = torch.cat([torch.tensor([blank], dtype=torch.float64), (1 - blank) * frequencies]).log()
        log_probs = log_probs.expand(len(sample), int(lengths.max()), -1)
        return (ctc_loss(log_probs, lengths, padded, blank=0) / (padded >= 0).sum()).item()

    low, high, points = 0.0, 1.0, 10
    for _ in range(4):  # each grid is (points + 1) / 2 times finer than the previous one
        step = (high - low) / (points + 1)
        best = min((low + step * place for place in range(1, points + 1)), key=loss)
        low, high = best - step, best + step
    return Prior(best, counts, len(labels), loss(best))


def frames_of(durations: Sequence[float], extractor: FeatureExtractionMixin, config: PreTrainedConfig) -> list[int]:
    """Return about how many frames of logits recordings of these seconds have."""
    return [int(seconds * extractor.sampling_rate / samples_per_frame(config)) for seconds in durations]


def start_at_prior(model: PreTrainedModel, prior: Prior, *, phonemes: Prior | None = None) -> None:
    """Set the biases of a new model's heads so that its output starts near the prior.

    Args:
        phonemes: The prior of the phonemes, for a model with a head for them.
    """
    counts = dict(prior.counts)
    _set_bias(ctc_head(model), counts, special=model.config.pad_token_id, share=prior.blank)
    if phonemes is not None:
        _set_bias(model.phoneme_head, dict(phonemes.counts), special=0, share=phonemes.blank)
    if is_conformer(model.config):
        total = prior.counts.total() + prior.utterances  # each utterance ends with `<sos/eos>`
        for decoder in model.decoders():
            _set_bias(decoder.lm_head, counts, special=model.config.eos_token_id, share=prior.utterances / total)


@torch.no_grad()
def _set_bias(head: nn.Linear | nn.Conv1d, counts: dict[int, int], *, special: int, share: float) -> None:
    """Set the bias of `head` to the logarithms of the probabilities; a token that is not counted counts as half a one.

    Args:
        special: Token whose probability is `share`; the others share the rest in proportion to `counts`.
    """
    frequencies = torch.tensor([max(counts.get(token, 0), 0.5) for token in range(len(head.bias))], dtype=torch.float64)
    frequencies[special] = 0
    probabilities = (1 - share) * frequencies / frequencies.sum()
    probabilities[special] = share
    head.bias.copy_(probabilities.log())
