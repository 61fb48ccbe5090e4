"""The optional attention decoder beside the CTC head: a pre-norm Transformer decoder (Vaswani et al. 2017).

It is trained by teacher forcing. The encoder improves because it is trained on both losses (hybrid CTC/attention,
Watanabe et al. 2017). A second decoder can read transcripts from their end (U2++, Wu et al. 2021).

Letters in shape comments: B batch, U tokens, S encoder frames, D hidden size, H heads, K head size, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_conformer import ConformerConfig
from .layers_conformer import ConformerDropout, ConformerFeedForward, absolute_embedding, attend


class ConformerDecoderAttention(nn.Module):
    """Attend from each token to the encoder's states, or, without them, to the token itself and the previous ones."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.config = config
        self.num_heads, head_dim = config.num_attention_heads, config.head_dim
        if config.decoder_attention_heads:
            self.num_heads, head_dim = (
                config.decoder_attention_heads,
                config.hidden_size // config.decoder_attention_heads,
            )
        self.scale, width = head_dim**-0.5, self.num_heads * head_dim
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * width)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self, hidden: torch.Tensor, memory: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the attention's output, (B, U, D).

        Args:
            hidden: States of the tokens, (B, U, D).
            memory: Encoder states, (B, S, D); None for causal self-attention.
            mask: With `memory`, bool (B, 1, 1, S), True for real frames; None if all frames are real.
        """
        source = hidden if memory is None else memory
        query = self.q_proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, U, K)
        key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.kv_proj(source).chunk(2, -1)
        )
        if memory is None:
            mask = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()
        is_eager = self.config._attn_implementation == "eager"
        context, _ = attend(query, key, value, mask=mask, dropout=0.0, scale=self.scale, is_eager=is_eager)
        return self.o_proj(context.transpose(1, 2).flatten(2))  # (B, U, D)


class ConformerDecoderLayer(nn.Module):
    """Apply causal self-attention, attention to the encoder's states, and a feed-forward module, all pre-norm."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.self_attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attention = ConformerDecoderAttention(config)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attention = ConformerDecoderAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = ConformerFeedForward(
            config, width=config.decoder_intermediate_size, activation=config.decoder_hidden_act
        )
        self.dropout = ConformerDropout(config.hidden_dropout)

    def forward(self, hidden: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return (B, U, D) for `hidden` (B, U, D) and the encoder's `memory` (B, S, D); `mask` is bool (B, 1, 1, S)."""
        hidden = hidden + self.dropout(self.self_attention(self.self_attention_norm(hidden)))
        hidden = hidden + self.dropout(self.cross_attention(self.cross_attention_norm(hidden), memory, mask))
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))


class ConformerDecoder(nn.Module):
    """Predict each next token from the previous tokens and the encoder's states."""

    def __init__(self, config: ConformerConfig, *, num_layers: int):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = ConformerDropout(config.hidden_dropout)
        self.layers = nn.ModuleList([ConformerDecoderLayer(config) for _ in range(num_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(
        self, decoder_input_ids: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of the next token after each input token, (B, U, V).

        Args:
            decoder_input_ids: (B, U); the first one is `<sos/eos>`.
            memory: Encoder states, (B, S, D).
            memory_mask: Bool (B, S), True for real frames; None if all frames are real.
        """
        hidden = self.embed_tokens(decoder_input_ids) * math.sqrt(self.config.hidden_size)
        places = torch.arange(hidden.shape[1], device=hidden.device)
        hidden = self.dropout(hidden + absolute_embedding(self.config, places=places).to(hidden.dtype))  # (B, U, D)
        mask = None if memory_mask is None else memory_mask[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, memory, mask)
        return self.lm_head(self.final_norm(hidden))


def shift_labels(labels: torch.Tensor, *, sos_eos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the decoder's inputs and targets for teacher forcing, (B, U + 1) each.

    For the labels `a b` the inputs are `<sos/eos> a b` and the targets `a b <sos/eos>`.

    Args:
        labels: (B, U), padded with -100. The targets are padded with -100 as well, the inputs with `<sos/eos>`.
        sos_eos: Id of `<sos/eos>`.
    """
    padded = F.pad(labels, (0, 1), value=-100)
    is_end = (padded == -100) & (F.pad(padded, (1, 0), value=0)[:, :-1] != -100)  # the first position after the tokens
    targets = padded.masked_fill(is_end, sos_eos)
    inputs = F.pad(labels, (1, 0), value=sos_eos)
    return inputs.masked_fill(inputs == -100, sos_eos), targets


def reverse_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return labels (B, U), padded with -100, whose tokens are in reverse order; the padding stays at the end."""
    places = torch.arange(labels.shape[1], device=labels.device)
    sources = (labels != -100).sum(-1, keepdim=True) - 1 - places  # negative for padding
    return torch.where(sources >= 0, labels.gather(1, sources.clamp(min=0)), -100)
