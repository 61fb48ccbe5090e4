"""SpecAugment: mask random bins and spans of frames of the features, in training.

Letters in shape comments: B batch, T feature frames, M mel bins.
"""

import torch

from .configuration_conformer import ConformerConfig


def random_spans(
    lengths: torch.Tensor, *, size: int, count: int, max_widths: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw random spans for each of B rows; return a bool mask (B, size), True inside the spans.

    The width of a span is a uniform integer in [0, max_width], its start a uniform integer in [0, length - width].

    Args:
        lengths: Length of each row, (B,).
        size: Size of the mask, the longest possible row.
        count: Number of spans in each row.
        max_widths: Largest width of a span in each row, (B,), at most the row's length.
        generator: Source of randomness; None for torch's default one.
    """
    shape = (lengths.shape[0], count, 1)
    draws = torch.rand(2, *shape, device=lengths.device, generator=generator)
    widths = (draws[0] * (max_widths[:, None, None] + 1)).floor()
    starts = (draws[1] * (lengths[:, None, None] - widths + 1)).floor()
    places = torch.arange(size, device=lengths.device)
    return ((places >= starts) & (places < starts + widths)).any(1)


def spec_augment(
    input_features: torch.Tensor, lengths: torch.Tensor, config: ConformerConfig, *, strength: float = 1.0
) -> torch.Tensor:
    """Apply SpecAugment (Park et al. 2019): return the features with random bins and spans of frames set to zero.

    Zero is the mean, because the features are normalised. The widest time mask is proportional to the utterance's
    length (Park et al. 2020).

    Args:
        input_features: Normalised features, (B, T, M).
        lengths: Real frames of each utterance, (B,).
        config: Number and widths of the masks.
        strength: Factor of the largest widths, 0 to 1.
    """
    bins = torch.full_like(lengths, input_features.shape[2])
    frequency = random_spans(
        bins,
        size=input_features.shape[2],
        count=config.num_freq_masks,
        max_widths=torch.full_like(lengths, int(config.freq_mask_width * strength)).minimum(bins),
    )
    time = random_spans(
        lengths,
        size=input_features.shape[1],
        count=config.num_time_masks,
        max_widths=(lengths * (config.time_mask_ratio * strength)).floor(),
    )
    return input_features.masked_fill(frequency[:, None, :] | time[:, :, None], 0.0)


__all__ = ["random_spans", "spec_augment"]
