"""The training losses, each summed over the utterances of a batch and computed in float32.

They are sums because the caller divides them by the number of tokens of the whole optimiser step. This way, several
small batches give the same gradient as a large one. Letters in shape comments: B batch, S encoder frames, U tokens, V
vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .decoder_conformer import reverse_labels, shift_labels

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


def summed_loss(
    model: PreTrainedModel,
    logits: torch.Tensor,
    encoded: BaseModelOutput,
    *,
    labels: torch.Tensor,
    phoneme_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the whole loss of a model, summed over the batch.

    It is the CTC loss; with a decoder, `ctc_weight * CTC loss + (1 - ctc_weight) * decoder loss`. In training the
    configuration can add label smoothing, CTC losses of intermediate layers, and the consistency loss, for which
    the batch has two copies: then the other losses are the mean over the copies.

    Args:
        model: A `ConformerForCTC`.
        logits: (copies * B, S, V).
        encoded: The encoder's output for all copies, a `ConformerModelOutput`.
        labels: (B, U), padded with -100.
        phoneme_ids: (B, P), padded with -100, for the intermediate losses of a model with phonemes.

    Raises:
        ValueError: A label is outside the vocabulary, or the phonemes are missing.
    """
    config, copies = model.config, len(logits) // len(labels)
    mask = encoded.attention_mask
    if mask is None:
        mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    all_labels = labels.repeat(copies, 1)
    tokens = {"labels": all_labels, "blank": config.pad_token_id, "zero_infinity": config.ctc_zero_infinity}
    strength = model.regularization if model.training else 0.0
    smoothing = config.label_smoothing * strength

    def ctc(logits: torch.Tensor, targets: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the smoothed CTC loss, the mean over the copies, and the log-probabilities."""
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)  # (B, S, V)
        loss = early_ctc_loss(log_probs, mask.sum(-1), **targets, penalty=config.delay_penalty * strength)
        return smoothed(loss, log_probs, mask, factor=smoothing) / copies, log_probs

    loss, log_probs = ctc(logits, tokens)
    if encoded.intermediate_hidden_states:
        head, targets = _intermediate_targets(model, tokens, phoneme_ids=phoneme_ids, copies=copies)
        losses = [ctc(head(hidden), targets)[0] for hidden in encoded.intermediate_hidden_states]
        weight = config.intermediate_ctc_weight
        loss = (1 - weight) * loss + weight * sum(losses) / len(losses)
    if config.decoder_layers:
        attention = (
            _decoder_loss(model, encoded.last_hidden_state, mask, labels=all_labels, smoothing=smoothing) / copies
        )
        loss = config.ctc_weight * loss + (1 - config.ctc_weight) * attention
    if copies == 2:
        weight = config.consistency_weight * model.regularization
        loss = loss + weight * consistency_loss(log_probs, mask[: len(labels)])
    return loss


def _intermediate_targets(
    model: PreTrainedModel, tokens: dict, *, phoneme_ids: torch.Tensor | None, copies: int
) -> tuple[torch.nn.Module, dict]:
    """Return head and CTC targets of the intermediate losses: the phonemes, or without phonemes `tokens`."""
    if not model.config.phonemes:
        return model.ctc_head, tokens
    if phoneme_ids is None:
        raise ValueError(
            "phoneme_ids: the intermediate CTC losses of this model need them (hf_asr.data.phonemes.encode), "
            "unless config.intermediate_ctc_layers is []"
        )
    # There are more phonemes than tokens: a recording can be too short for them.
    return model.phoneme_head, {"labels": phoneme_ids.repeat(copies, 1), "blank": 0, "zero_infinity": True}


def _decoder_loss(
    model: PreTrainedModel, memory: torch.Tensor, mask: torch.Tensor, *, labels: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Return the decoder's loss, summed over the batch; of two decoders, `reverse_weight` is the second's share.

    Args:
        model: A `ConformerForCTC` with a decoder.
        memory: Encoder states, (B, S, D).
        mask: Bool (B, S), True for real frames.
        labels: (B, U), padded with -100.
        smoothing: Weight of the uniform distribution in the targets.
    """
    losses = []
    for decoder, tokens in zip(model.decoders(), (labels, reverse_labels(labels)), strict=False):
        inputs, targets = shift_labels(tokens, sos_eos=model.config.eos_token_id)
        losses.append(attention_loss(decoder(inputs, memory, mask), targets, smoothing=smoothing))
    if len(losses) == 1:
        return losses[0]
    share = model.config.reverse_weight
    return (1 - share) * losses[0] + share * losses[1]
