"""What training minimises, each summed over utterances: the caller divides by the tokens of the whole optimiser step.

Letters in shape comments: B batch, S encoder frames, U tokens, V vocabulary. Everything is computed in float32.
"""

import math

import torch
import torch.nn.functional as F

CTC_DEVICES = ("cpu", "cuda")  # that PyTorch has a kernel of the CTC loss for; Apple's, among others, are not


def ctc_loss(
    log_probs: torch.Tensor,
    lengths: torch.Tensor,
    labels: torch.Tensor,
    *,
    blank: int,
    zero_infinity: bool = True,
) -> torch.Tensor:
    """Negative log-likelihood (Graves et al. 2006), summed; computed on the CPU where the device has no kernel for it.

    Args:
        log_probs: (B, S, V).
        lengths: Frames of each utterance, (B,).
        labels: (B, U), padded with negative numbers.
        zero_infinity: Utterances with fewer frames than their transcript needs count as zero.

    Raises:
        ValueError: A label outside of the vocabulary.
    """
    if labels.numel() and labels.max() >= log_probs.shape[-1]:
        raise ValueError(f"labels hold {labels.max()}, but the model's vocab_size is {log_probs.shape[-1]}")
    device = log_probs.device
    if device.type not in CTC_DEVICES:
        log_probs, lengths, labels = log_probs.cpu(), lengths.cpu(), labels.cpu()
        return ctc_loss(log_probs, lengths, labels, blank=blank, zero_infinity=zero_infinity).to(device)
    is_label = labels >= 0
    # cuDNN's CTC knows neither empty labels nor zero_infinity, and is not deterministic.
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


def smoothed(loss: torch.Tensor, log_probs: torch.Tensor, mask: torch.Tensor, *, factor: float) -> torch.Tensor:
    """`(1 - factor) * loss` and `factor` times the KL divergence of the uniform distribution to each frame's (Kim et
    al. 2018, https://arxiv.org/abs/1711.10212).

    Args:
        log_probs: (B, S, V).
        mask: Bool (B, S), True for real frames.
    """
    if not factor:
        return loss
    # KL(u || p) = -log V - mean(log p)
    divergence = -log_probs.mean(-1) - math.log(log_probs.shape[-1])  # (B, S)
    return (1 - factor) * loss + factor * divergence.masked_fill(~mask, 0.0).sum()


def consistency_loss(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """CR-CTC (Yao et al., ICLR 2025, https://arxiv.org/abs/2410.05101): half of KL(b || a) + KL(a || b), summed over
    real frames. No gradient flows through the first argument, the target.

    Args:
        log_probs: (2B, S, V): two differently masked copies of a batch, one after the other.
        mask: Bool (B, S), True for real frames.
    """
    targets = log_probs.detach().roll(len(log_probs) // 2, 0)  # each copy's is the other
    divergence = F.kl_div(log_probs, targets, reduction="none", log_target=True).sum(-1)  # (2B, S)
    return 0.5 * divergence.masked_fill(~mask.repeat(2, 1), 0.0).sum()


def attention_loss(logits: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of the decoder's next token, summed; label smoothing as in Szegedy et al. 2016.

    Args:
        logits: (B, U, V).
        targets: (B, U), padded with -100.
    """
    return F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum", label_smoothing=smoothing
    )
