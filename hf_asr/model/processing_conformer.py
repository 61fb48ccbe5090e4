"""Feature extractor and tokenizer in one object, as the rest of transformers expects of a checkpoint."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin


class ConformerProcessor(ProcessorMixin):
    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor] | None = None,
        text: str | list[str] | None = None,
        sampling_rate: int | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Features of `audio` (see `ConformerFeatureExtractor`); `text` as `labels` (batch, tokens), padded with -100.

        Raises:
            ValueError: Neither audio nor text.
        """
        if audio is None and text is None:
            raise ValueError("give audio, text or both")
        kwargs.setdefault("return_tensors", "pt")
        inputs = BatchFeature()
        if audio is not None:
            inputs = self.feature_extractor(audio, sampling_rate=sampling_rate, **kwargs)
        if text is not None:
            inputs["labels"] = self.pad_labels(self.tokenizer([text] if isinstance(text, str) else text)["input_ids"])
        return inputs

    @staticmethod
    def pad_labels(labels: list[list[int]]) -> torch.Tensor:
        """Token lists as one (batch, tokens), padded with -100."""
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(tokens, dtype=torch.long) for tokens in labels], batch_first=True, padding_value=-100
        )


__all__ = ["ConformerProcessor"]
