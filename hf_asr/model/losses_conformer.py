"""The training losses, each summed over the utterances of a batch and computed in float32.

They are sums because the caller divides them by the number of tokens of the whole optimiser step. This way, several
small batches give the same gradient as a large one. Letters in shape comments: B batch, S encoder frames, U tokens, V
vocabulary.
"""

import math

import torch
import torch.nn.functional as F

CTC_DEVICES = ("cpu", "cuda")  # for which PyTorch has a CTC kernel (Apple's MPS has none)


def ctc_loss(
    log_probs: torch.Tensor,
    lengths: torch.Tensor,
    labels: torch.Tensor,
    *,
    blank: int,
    zero_infinity: bool = True,
) -> torch.Tensor:
    """Return the negative log-likelihood of the labels under CTC (Graves et al. 2006), summed over the batch.

    It is computed on the CPU if PyTorch has no kernel for the device.

    Args:
        log_probs: (B, S, V).
        lengths: Real frames of each utterance, (B,).
        labels: (B, U), padded with negative numbers.
        blank: Id of the CTC blank.
        zero_infinity: Give an utterance with fewer frames than its transcript needs a loss of zero, not infinity.

    Raises:
        ValueError: A label is outside the vocabulary.
    """
    if labels.numel() and labels.max() >= log_probs.shape[-1]:
        raise ValueError(f"the labels contain {labels.max()}, but the model's vocab_size is {log_probs.shape[-1]}")
    device = log_probs.device
    if device.type not in CTC_DEVICES:
        log_probs, lengths, labels = log_probs.cpu(), lengths.cpu(), labels.cpu()
        return ctc_loss(log_probs, lengths, labels, blank=blank, zero_infinity=zero_infinity).to(device)
    is_label = labels >= 0
    # cuDNN's CTC supports neither empty labels nor zero_infinity, and it is not deterministic.
    with torch.backends.cudnn.flags(enabled=False):
        return F.ctc_loss(
            log_probs.transpose(0, 1),  # (S, B, V)
            labels[is_label],
            lengths,
            is_label.sum(-1),
            blank=blank,
            reduction="sum",
            zero_infinity=zero_infinity,
        )


def early_ctc_loss(
    log_probs: torch.Tensor,
    lengths: torch.Tensor,
    labels: torch.Tensor,
    *,
    blank: int,
    penalty: float,
    zero_infinity: bool = True,
) -> torch.Tensor:
    """Return the CTC loss in which early tokens cost less: a blank gains `penalty` for each frame since a pause.

    A pause is a frame in which the blank has a probability of 0.99 or more; so is the first frame. Blanks then come
    late and tokens early (https://github.com/k2-fsa/icefall/pull/669). With a `penalty` of 0 it is `ctc_loss`, which
    takes the same arguments.
    """
    if not penalty:
        return ctc_loss(log_probs, lengths, labels, blank=blank, zero_infinity=zero_infinity)
    places = torch.arange(log_probs.shape[1], device=log_probs.device)
    pauses = places * (log_probs[..., blank] >= math.log(0.99))  # (B, S)
    gains = torch.zeros_like(log_probs)
    gains[..., blank] = penalty * (places - pauses.cummax(1).values)
    raised = log_probs + gains
    # PyTorch's gradient is right only for probabilities whose sum is one, so the sum is divided out and put back.
    loss = ctc_loss(raised.log_softmax(-1), lengths, labels, blank=blank, zero_infinity=zero_infinity)
    is_label = labels >= 0
    needed = is_label.sum(-1) + ((labels[:, 1:] == labels[:, :-1]) & is_label[:, 1:]).sum(-1)
    is_counted = (places < lengths[:, None]) & (lengths >= needed)[:, None]  # other utterances have no loss
    return loss - raised.logsumexp(-1).masked_fill(~is_counted, 0.0).sum()


def smoothed(loss: torch.Tensor, log_probs: torch.Tensor, mask: torch.Tensor, *, factor: float) -> torch.Tensor:
    """Return the CTC loss with label smoothing (Kim et al. 2018, https://arxiv.org/abs/1711.10212).

    It is `(1 - factor) * loss + factor * sum of KL(u || p)` over all real frames, where `p` is the frame's distribution
    and `u` the uniform one.

    Args:
        loss: CTC loss, summed over the batch.
        log_probs: (B, S, V).
        mask: Bool (B, S), True for real frames.
        factor: Weight of the smoothing; 0 returns `loss`.
    """
    if not factor:
        return loss
    # KL(u || p) = -log V - mean(log p)
    divergence = -log_probs.mean(-1) - math.log(log_probs.shape[-1])  # (B, S)
    return (1 - factor) * loss + factor * divergence.masked_fill(~mask, 0.0).sum()


def consistency_loss(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the consistency loss of CR-CTC (Yao et al., ICLR 2025, https://arxiv.org/abs/2410.05101).

    It is 0.5 * (KL(b || a) + KL(a || b)), summed over all real frames, where `a` and `b` are the distributions that the
    model gives for two differently masked copies of a frame. The first argument of KL is the target, through which no
    gradient flows.

    Args:
        log_probs: (2B, S, V): all utterances of the first copy, then all of the second.
        mask: Bool (B, S), True for real frames.
    """
    targets = log_probs.detach().roll(len(log_probs) // 2, 0)  # the target of each copy is the other copy
    divergence = F.kl_div(log_probs, targets, reduction="none", log_target=True).sum(-1)  # (2B, S)
    return 0.5 * divergence.masked_fill(~mask.repeat(2, 1), 0.0).sum()


def attention_loss(logits: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
    """Return the cross-entropy of the decoder's next tokens, summed over the batch.

    Args:
        logits: (B, U, V).
        targets: (B, U), padded with -100.
        smoothing: Weight of the uniform distribution in the targets (label smoothing, Szegedy et al. 2016).
    """
    return F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum", label_smoothing=smoothing
    )
