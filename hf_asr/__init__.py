"""hf_asr: train a Conformer speech recogniser on your own recordings, inside the Hugging Face ecosystem."""

from .model import (
    ConformerConfig,
    ConformerFeatureExtractor,
    ConformerForCTC,
    ConformerModel,
    ConformerProcessor,
    ConformerTokenizer,
)

__version__ = "0.1.0"

__all__ = [
    "ConformerConfig",
    "ConformerFeatureExtractor",
    "ConformerForCTC",
    "ConformerModel",
    "ConformerProcessor",
    "ConformerTokenizer",
]
