"""The block of E-Branchformer (Kim et al. 2022, https://arxiv.org/abs/2210.00077).

Attention and a gated convolution compute in parallel, and a convolution merges their outputs. Letters in shape
comments: B batch, S encoder frames, D hidden size, H heads, C channels.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_conformer import ConformerConfig
from .layers_conformer import ConformerAttention, ConformerDropout, ConformerFeedForward, convolve_over_time


class ConvolutionalGatingMLP(nn.Module):
    """Multiply one half of the channels by a convolution of the other half (cgMLP, Sakuma et al. 2021).

    A linear layer before it widens each frame, a linear layer after it narrows the frame again.
    """

    def __init__(self, config: ConformerConfig):
        super().__init__()
        channels = config.cgmlp_size // 2
        self.up_proj = nn.Linear(config.hidden_size, config.cgmlp_size)
        self.norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.depthwise_conv = nn.Conv1d(channels, channels, config.conv_kernel_size, groups=channels)
        self.down_proj = nn.Linear(channels, config.hidden_size)
        self.dropout = ConformerDropout(config.activation_dropout)
        self.is_causal = config.causal_conv

    def forward(self, hidden: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """Return (B, S, D) for `hidden` (B, S, D); `frame_mask` is bool (B, S, 1), True for real frames."""
        hidden, gate = F.gelu(self.up_proj(hidden)).chunk(2, -1)  # (B, S, C) each
        gate = convolve_over_time(self.depthwise_conv, self.norm(gate), frame_mask, is_causal=self.is_causal)
        return self.down_proj(self.dropout(hidden * gate))


class EBranchformerBlock(GradientCheckpointingLayer):
    """Apply half a feed-forward module, the merged branches, half a feed-forward module and a norm.

    A layer norm comes before each feed-forward module and each branch, a residual connection after each step; "half"
    means that the residual connection adds half of the module's output.
    """

    def __init__(self, config: ConformerConfig):
        super().__init__()
        width = config.hidden_size
        self.feed_forward1_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.feed_forward1 = ConformerFeedForward(config)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = ConformerAttention(config)
        self.cgmlp_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.cgmlp = ConvolutionalGatingMLP(config)
        self.merge_conv = nn.Conv1d(2 * width, 2 * width, config.conv_kernel_size, groups=2 * width)
        self.merge_proj = nn.Linear(2 * width, width)
        self.feed_forward2_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.feed_forward2 = ConformerFeedForward(config)
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = ConformerDropout(config.hidden_dropout)
        self.is_causal = config.causal_conv

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
        frame_mask: torch.Tensor | None,
        output_attentions: bool = False,
        caches: tuple[None, None] = (None, None),
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[None, None]]:
        """Return the block's states (B, S, D), the attention weights or None, and no caches: it does not stream.

        Args:
            hidden: (B, S, D).
            positions: As `ConformerAttention` takes them.
            attention_mask: As `ConformerAttention` takes it.
            frame_mask: Bool (B, S, 1), True for real frames; None if all frames are real.
            output_attentions: Return the attention weights.
            caches: Ignored.
        """
        hidden = torch.add(hidden, self.dropout(self.feed_forward1(self.feed_forward1_norm(hidden))), alpha=0.5)
        attended, weights, _ = self.attention(self.attention_norm(hidden), positions, attention_mask, output_attentions)
        attended = self.dropout(attended)
        gated = self.dropout(self.cgmlp(self.cgmlp_norm(hidden), frame_mask))
        both = torch.cat([attended, gated], -1)  # (B, S, 2D)
        both = both + convolve_over_time(self.merge_conv, both, frame_mask, is_causal=self.is_causal)
        hidden = hidden + self.dropout(self.merge_proj(both))
        hidden = torch.add(hidden, self.dropout(self.feed_forward2(self.feed_forward2_norm(hidden))), alpha=0.5)
        return self.final_norm(hidden), weights, caches

    def residual_outputs(self) -> list[nn.Linear]:
        """Return the last layer of each residual branch."""
        return [self.feed_forward1.down_proj, self.feed_forward2.down_proj, self.merge_proj]
