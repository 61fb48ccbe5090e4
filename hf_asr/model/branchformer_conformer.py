"""E-Branchformer blocks (Kim et al. 2022, https://arxiv.org/abs/2210.00077): attention and a gated convolution side by
side, merged. Letters in shape comments: B batch, S encoder frames, D hidden size, H heads, C channels.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_conformer import ConformerConfig
from .layers_conformer import ConformerAttention, ConformerDropout, ConformerFeedForward, convolve_over_time


class ConvolutionalGatingMLP(nn.Module):
    """Up, half of the channels gated by the convolution of the other half, down (cgMLP, Sakuma et al. 2021)."""

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
        hidden, gate = F.gelu(self.up_proj(hidden)).chunk(2, -1)  # (B, S, C) each
        gate = convolve_over_time(self.depthwise_conv, self.norm(gate), frame_mask, is_causal=self.is_causal)
        return self.down_proj(self.dropout(hidden * gate))


class EBranchformerBlock(GradientCheckpointingLayer):
    """Half a feed-forward, the two branches merged, half a feed-forward; each pre-norm with a residual, a norm last."""

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
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the states, and the attention weights (B, H, S, S) if asked for."""
        hidden = torch.add(hidden, self.dropout(self.feed_forward1(self.feed_forward1_norm(hidden))), alpha=0.5)
        attended, weights = self.attention(self.attention_norm(hidden), positions, attention_mask, output_attentions)
        attended = self.dropout(attended)
        gated = self.dropout(self.cgmlp(self.cgmlp_norm(hidden), frame_mask))
        both = torch.cat([attended, gated], -1)  # (B, S, 2D)
        both = both + convolve_over_time(self.merge_conv, both, frame_mask, is_causal=self.is_causal)
        hidden = hidden + self.dropout(self.merge_proj(both))
        hidden = torch.add(hidden, self.dropout(self.feed_forward2(self.feed_forward2_norm(hidden))), alpha=0.5)
        return self.final_norm(hidden), weights
