"""Compare each training loss with its formula, computed in another way."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from hf_asr.model.decoder_conformer import shift_labels
from hf_asr.model.losses_conformer import attention_loss, consistency_loss, ctc_loss, early_ctc_loss, smoothed


@pytest.fixture
def log_probs() -> torch.Tensor:
    return torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


def test_ctc_loss_sums_over_all_paths(log_probs):
    """Sum over all paths of one label in three frames: blanks, and the label in one or several neighbouring frames."""
    short = log_probs[:1, :3]
    paths = [(3, 0, 0), (0, 3, 0), (0, 0, 3), (3, 3, 0), (0, 3, 3), (3, 3, 3)]
    likelihood = sum(math.exp(sum(short[0, t, token].item() for t, token in enumerate(path))) for path in paths)
    loss = ctc_loss(short, torch.tensor([3]), torch.tensor([[3, -100]]), blank=0)
    assert loss.item() == pytest.approx(-math.log(likelihood), rel=1e-5)


def test_a_delay_penalty_adds_to_the_blanks_of_each_path():
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    logits[0, 2, 0] = 9.0  # a pause
    gains = torch.tensor([0.0, 0.3, 0.0, 0.3, 0.6])
    expected = logits.clone().requires_grad_()
    log_probs, paths = expected.log_softmax(-1), []
    for path in itertools.product(range(3), repeat=5):
        if [token for token, _ in itertools.groupby(path) if token] == [1, 2]:
            paths.append(sum(log_probs[0, t, token] + gains[t] * (token == 0) for t, token in enumerate(path)))
    (-torch.stack(paths).logsumexp(0)).backward()
    found = logits.clone().requires_grad_()
    given = torch.cat([found.log_softmax(-1), torch.randn(1, 5, 3).log_softmax(-1)])
    labels, lengths = torch.tensor([[1, 2, -100], [1, 1, 1]]), torch.tensor([5, 3])  # the second one has no path
    loss = early_ctc_loss(given, lengths, labels, blank=0, penalty=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(-torch.stack(paths).logsumexp(0).item(), rel=1e-5)
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-5)


def test_a_delay_penalty_makes_tokens_early():
    def place(penalty: float) -> float:
        """Return the mean frame of a token that training from equal probabilities finds."""
        logits = torch.zeros(1, 12, 3, requires_grad=True)
        for _ in range(50):
            arguments = logits.log_softmax(-1), torch.tensor([12]), torch.tensor([[1]])
            early_ctc_loss(*arguments, blank=0, penalty=penalty).backward()
            logits = (logits - logits.grad).detach().requires_grad_()
        token = logits.detach().softmax(-1)[0, :, 1]
        return float((token * torch.arange(12)).sum() / token.sum())

    assert place(0.0) == pytest.approx(5.5, abs=0.1)
    assert place(0.2) < place(0.1) < place(0.0) - 0.5


def test_smoothing_adds_divergence_from_the_uniform_distribution(log_probs):
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    real = torch.cat([log_probs[0], log_probs[1, :4]])
    uniform = torch.full_like(real, 1 / 5)
    divergence = F.kl_div(real, uniform, reduction="sum")
    loss = smoothed(torch.tensor(3.0), log_probs, mask, factor=0.1)
    torch.testing.assert_close(loss, 0.9 * 3.0 + 0.1 * divergence)
    assert smoothed(torch.tensor(3.0), log_probs, mask, factor=0.0) == 3.0


def test_consistency_loss_is_symmetric_without_gradient_through_targets(log_probs):
    logits = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    a, b = logits.log_softmax(-1)
    mask = torch.tensor([[True] * 4 + [False] * 3])
    loss = consistency_loss(torch.stack([a, b]), mask)
    pa, pb = a[:4].exp(), b[:4].exp()
    expected = 0.5 * ((pb * (b[:4] - a[:4])).sum() + (pa * (a[:4] - b[:4])).sum())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    # For a constant target, the gradient of KL(target || softmax(z)) is softmax(z) - target.
    torch.testing.assert_close(logits.grad[0, :4], 0.5 * (pa - pb).detach())
    torch.testing.assert_close(logits.grad[1, :4], 0.5 * (pb - pa).detach())
    assert not logits.grad[:, 4:].any()


def test_attention_loss_equals_smoothed_cross_entropy():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([[1, 2, 4], [3, 4, -100]])
    log_probs, expected = logits.log_softmax(-1), 0.0
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        smooth = torch.full((5,), 0.1 / 5)
        smooth[targets[i, j]] += 0.9
        expected = expected - (smooth * log_probs[i, j]).sum()
    torch.testing.assert_close(attention_loss(logits, targets, smoothing=0.1), expected)


def test_attention_loss_is_wenets_with_another_smoothing_and_without_the_entropy_of_the_targets():
    """WeNet's smoothed target gives the right token 1 - s and each other one s / (V - 1).

    That is our smoothing s * V / (V - 1). WeNet's divergence subtracts the entropy of the target, which does not depend
    on the model, and it divides the sum by the utterances, where the model divides it by the tokens.
    """
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    targets, smoothing = torch.tensor([[1, 2, 4], [3, 4, -100]]), 0.1
    target = torch.full((2, 3, 5), smoothing / 4).scatter(2, targets.clamp(min=0)[:, :, None], 1 - smoothing)
    divergence = F.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)
    wenets = divergence.masked_fill(targets < 0, 0.0).sum() / len(logits)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 4)) * 5  # of five tokens
    ours = attention_loss(logits, targets, smoothing=smoothing * 5 / 4)
    torch.testing.assert_close((ours - entropy) / len(logits), wenets)


def test_shift_labels_adds_sos_to_inputs_and_eos_to_targets():
    inputs, targets = shift_labels(torch.tensor([[5, 6, 7], [8, -100, -100], [-100, -100, -100]]), sos_eos=2)
    assert inputs.tolist() == [[2, 5, 6, 7], [2, 8, 2, 2], [2, 2, 2, 2]]
    assert targets.tolist() == [[5, 6, 7, 2], [8, 2, -100, -100], [2, -100, -100, -100]]


def test_label_outside_the_vocabulary_is_an_error(log_probs):
    with pytest.raises(ValueError, match="labels contain 5, but the model's vocab_size is 5"):
        ctc_loss(log_probs, torch.tensor([7, 7]), torch.tensor([[1, 5], [1, 2]]), blank=0)


class OnApple(torch.Tensor):
    """Simulate a tensor on an Apple GPU; `.cpu()` returns a normal tensor."""

    @property
    def device(self) -> torch.device:
        return torch.device("mps")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_ctc_loss_is_computed_on_the_cpu_if_the_device_has_no_kernel(log_probs, monkeypatch):
    lengths, labels = torch.tensor([7, 5]), torch.tensor([[1, 2], [3, -100]])
    logits = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3))
    kernel, to, sent = F.ctc_loss, torch.Tensor.to, []

    def ctc_kernel(*args, **options):
        if any(isinstance(value, OnApple) for value in args):
            raise NotImplementedError("The operator 'aten::_ctc_loss' is not currently implemented for the MPS device.")
        return kernel(*args, **options)

    def send(tensor, target, *args, **options):
        if isinstance(target, torch.device) and target.type == "mps":
            sent.append(target)
            return tensor.as_subclass(OnApple)
        return to(tensor, target, *args, **options)

    monkeypatch.setattr(F, "ctc_loss", ctc_kernel)
    monkeypatch.setattr(torch.Tensor, "to", send)
    losses, gradients = [], []
    for place in (torch.Tensor, OnApple):
        leaf = logits.clone().requires_grad_()
        on_device = leaf.as_subclass(place)
        loss = ctc_loss(on_device.log_softmax(-1), lengths.as_subclass(place), labels.as_subclass(place), blank=0)
        assert isinstance(loss, place)  # on the device of the log-probabilities, like the other losses
        loss.as_subclass(torch.Tensor).backward()
        losses.append(loss.detach().as_subclass(torch.Tensor))
        gradients.append(leaf.grad)
    assert sent == [torch.device("mps")]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])
