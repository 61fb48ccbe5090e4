"""The processor: feature extractor and tokenizer in one object, as transformers' pipelines and AutoProcessor expect."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, BatchFeature, ProcessorMixin

from .configuration_conformer import required_frames


class ConformerProcessor(ProcessorMixin):
    """Turn audio into the model's inputs and text into its labels."""

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor] | None = None,
        text: str | list[str] | None = None,
        sampling_rate: int | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Return the features of `audio`, the token ids of `text`, or both.

        Args:
            audio: One waveform (samples,), or several; float in [-1, 1], mono.
            text: One transcript, or several.
            sampling_rate: Sampling rate of the audio, in Hz.
            kwargs: Further arguments of `ConformerFeatureExtractor.__call__`. `return_tensors` is `"pt"` by default.

        Returns:
            For audio, `input_features` (batch, frames, num_mel_bins) and `attention_mask` (batch, frames); for text,
            `labels` (batch, tokens), padded with -100.

        Raises:
            ValueError: Neither audio nor text is given.
        """
        if audio is None and text is None:
            raise ValueError("audio, text or both must be given")
        kwargs.setdefault("return_tensors", "pt")
        inputs = BatchFeature()
        if audio is not None:
            inputs = self.feature_extractor(audio, sampling_rate=sampling_rate, **kwargs)
        if text is not None:
            inputs["labels"] = self.pad_labels(self.tokenizer([text] if isinstance(text, str) else text)["input_ids"])
        return inputs

    def pad(
        self,
        input_features: BatchFeature | list[dict[str, Any]] | None = None,
        labels: list[dict[str, list[int]]] | None = None,
        **kwargs,
    ) -> BatchFeature | BatchEncoding:
        """Return examples that were processed one by one as a batch, as the data collators of transformers need it.

        Args:
            input_features: Examples with features, for the feature extractor's `pad`.
            labels: Examples with token ids, `{"input_ids": [...]}`, for the tokenizer's `pad`.
            kwargs: Further arguments of both.

        Returns:
            The padded features, with `labels` padded with -100 if there are labels. For labels alone, `input_ids` and
            the `attention_mask` of real tokens.

        Raises:
            ValueError: Neither features nor labels are given.
        """
        if input_features is None and labels is None:
            raise ValueError("input_features, labels or both must be given")
        if input_features is None:
            return self.tokenizer.pad(labels, **({"return_attention_mask": True} | kwargs))
        batch = self.feature_extractor.pad(input_features, **kwargs)
        if labels is not None:
            batch["labels"] = self.pad_labels([example["input_ids"] for example in labels])
        return batch

    def streaming_latency_ms(self, chunk_size: int, *, subsampling_factor: int = 4) -> float:
        """Return the milliseconds from the first sample of a chunk until all samples that it needs are there.

        Args:
            chunk_size: Encoder frames of a chunk.
            subsampling_factor: The model's, 4, 6 or 8.
        """
        frames = required_frames(subsampling_factor, chunk_size)
        extractor = self.feature_extractor
        before = 0.0 if extractor.snip_edges else (extractor.frame_length - extractor.frame_shift) / 2
        return (frames - 1) * extractor.frame_shift + extractor.frame_length - before

    @staticmethod
    def pad_labels(labels: list[list[int]]) -> torch.Tensor:
        """Return lists of token ids as one int64 tensor (batch, tokens), padded with -100."""
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(tokens, dtype=torch.long) for tokens in labels], batch_first=True, padding_value=-100
        )


__all__ = ["ConformerProcessor"]
