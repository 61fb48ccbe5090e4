"""Everything that a checkpoint consists of: configuration, features, tokenizer, processor and network.

transformers copies these files next to the weights (`trust_remote_code=True` loads them from there), and it copies only
files of this folder. So they import nothing else of hf_asr, and one another as siblings (`from .layers_conformer`).
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer

from .configuration_conformer import ConformerConfig
from .feature_extraction_conformer import ConformerFeatureExtractor
from .modeling_conformer import ConformerForCTC, ConformerModel
from .processing_conformer import ConformerProcessor
from .tokenization_conformer import ConformerTokenizer

AutoConfig.register(ConformerConfig.model_type, ConformerConfig)
AutoFeatureExtractor.register(ConformerConfig, ConformerFeatureExtractor)
AutoTokenizer.register(ConformerConfig, fast_tokenizer_class=ConformerTokenizer)
AutoProcessor.register(ConformerConfig, ConformerProcessor)
AutoModel.register(ConformerConfig, ConformerModel)
AutoModelForCTC.register(ConformerConfig, ConformerForCTC)

# `save_pretrained` copies these files into a checkpoint, so that trust_remote_code=True loads it without hf_asr.
ConformerConfig.register_for_auto_class()
ConformerFeatureExtractor.register_for_auto_class()
ConformerTokenizer.register_for_auto_class()
ConformerProcessor.register_for_auto_class()
ConformerModel.register_for_auto_class("AutoModel")
ConformerForCTC.register_for_auto_class("AutoModelForCTC")

__all__ = [
    "ConformerConfig",
    "ConformerFeatureExtractor",
    "ConformerForCTC",
    "ConformerModel",
    "ConformerProcessor",
    "ConformerTokenizer",
]
