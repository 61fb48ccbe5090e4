"""A new head starts with the output of the best model that ignores the audio."""

import itertools
import math
from collections import Counter

import pytest
import torch

from hf_asr.checkpoint import load_checkpoint
from hf_asr.families import ctc_head
from hf_asr.model import ConformerConfig, ConformerForCTC
from hf_asr.training.prepare import prepare
from hf_asr.training.prior import best_prior, start_at_prior

from .test_families import FAMILIES
from .test_run import RECIPE, arguments, run, weights


def brute_force_loss(frames: int, labels: list[int], probabilities: dict[int, float]) -> float:
    """The loss of constant probabilities, from all paths; 0 is the blank."""
    total = 0.0
    for path in itertools.product(probabilities, repeat=frames):
        collapsed = [token for token, _ in itertools.groupby(path) if token]
        total += math.prod(probabilities[token] for token in path) if collapsed == labels else 0.0
    return -math.log(total)


def test_best_prior_has_the_loss_of_the_best_constant_probabilities():
    labels = [[1], [1, 2], [1, 1]]
    losses = []
    for percent in range(1, 100):
        blank = percent / 100
        probabilities = {0: blank, 1: (1 - blank) * 4 / 5, 2: (1 - blank) * 1 / 5}
        losses.append(sum(brute_force_loss(5, ids, probabilities) for ids in labels) / 5)
    assert best_prior([5, 5, 5], labels).loss == pytest.approx(min(losses), abs=1e-3)
    assert best_prior([5, 5, 5], labels).loss <= min(losses)


def test_best_prior_counts_the_frequencies_of_all_utterances_and_aligns_short_ones():
    labels = [[7, 7], [500], [7], [500], [9], [500]]
    assert best_prior([1] * 6, labels).loss < 10  # [7, 7] needs three frames
    sampled = best_prior([4] * 6, labels, max_utterances=1).loss  # the first one only, whose token has three of seven
    alone = best_prior([4], labels[:1]).loss
    assert sampled > alone


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean distribution of all frames."""
    return logits.softmax(-1).mean((0, 1))


def test_new_heads_give_the_prior():
    torch.manual_seed(0)
    decoders = {"decoder_layers": 1, "reverse_decoder_layers": 1}
    model = ConformerForCTC(ConformerConfig(vocab_size=6, hidden_size=64, num_hidden_layers=2, **decoders)).eval()
    prior = best_prior([40, 40], [[3, 3, 3, 4], [3, 4]])
    start_at_prior(model, prior)
    for head in (model.ctc_head, model.decoder.lm_head, model.reverse_decoder.lm_head):
        torch.nn.init.zeros_(head.weight)
    with torch.inference_mode():
        output = model(torch.randn(2, 100, 80), labels=torch.tensor([[3, 3, 4]] * 2))
        found = probabilities(output.logits)
        inputs = torch.tensor([[2, 3]]), torch.randn(1, 20, 64)
        decoded, reverse = (probabilities(decoder(*inputs)) for decoder in model.decoders())
    rest = (1 - prior.blank) / (6 + 3 * 0.5)  # three tokens never occur, and count as half a one
    expected = torch.tensor([prior.blank, 0.5 * rest, 0.5 * rest, 4 * rest, 2 * rest, 0.5 * rest])
    assert prior.blank > 0.8
    torch.testing.assert_close(found, expected)
    assert decoded[2].item() == reverse[2].item() == pytest.approx(2 / 8)  # two utterances end, and have six tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_the_new_head_of_another_family_gives_the_prior(family, tmp_path):
    torch.manual_seed(0)
    FAMILIES[family](tmp_path)
    model, _ = load_checkpoint(str(tmp_path), device="cpu")
    start_at_prior(model, best_prior([40], [[5, 6, 5]]))
    bias = ctc_head(model).bias
    assert bias.argmax() == model.config.pad_token_id
    assert bias.exp().sum().item() == pytest.approx(1)
    assert (bias[5] - bias[6]).item() == pytest.approx(math.log(2))


def test_a_run_from_nothing_starts_on_the_plateau_and_not_above_it(corpus, tmp_path):
    prepared = prepare(*arguments(corpus, tmp_path / "run", model={"hidden_dropout": 0.0, "num_hidden_layers": 12}))
    dataset, collator = prepared.train_dataset, prepared.collator
    batch = collator([dataset[place] for place in range(8)])
    with torch.inference_mode():
        loss = prepared.model.eval()(**batch).loss.item()
    assert loss < 1.3 * prepared.prior.loss


def test_the_head_of_the_phonemes_starts_with_their_frequencies(corpus, tmp_path):
    model = RECIPE["model"] | {"num_hidden_layers": 2, "intermediate_ctc_layers": [1], "phoneme_language": "auto"}
    prepared = prepare(*arguments(corpus, tmp_path, model=model))
    counts = Counter(number for row in prepared.train_dataset.phonemes for number in row)
    shares = prepared.model.phoneme_head.bias.softmax(0)
    assert 0.1 < shares[0] < 0.9
    expected = torch.tensor([counts[number] for number in range(1, len(shares))]) / counts.total()
    torch.testing.assert_close(shares[1:] / shares[1:].sum(), expected)


def test_the_head_of_a_checkpoint_is_kept(corpus, checkpoint, tmp_path):
    options = {
        "model_name_or_path": str(checkpoint),
        "model": {},
        "vocabulary": "keep",
        "learning_rate": 1e-12,
        "max_steps": 1,
    }
    run(corpus, tmp_path / "run", **options)
    before, after = weights(checkpoint)["ctc_head.bias"], weights(tmp_path / "run")["ctc_head.bias"]
    torch.testing.assert_close(after, before)
