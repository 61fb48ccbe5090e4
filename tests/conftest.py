"""Small data that the tests make for themselves: a spoken corpus, and a tiny checkpoint."""

from pathlib import Path

import pytest
import torch

from hf_asr import (
    ConformerConfig,
    ConformerFeatureExtractor,
    ConformerForCTC,
    ConformerProcessor,
    ConformerTokenizer,
)
from hf_asr.data.synthetic import SyntheticCorpusArguments, make_corpus

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "subsampling_channels": 8,
    "apply_spec_augment": False,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
}


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """An audiofolder: 40 training and 8 validation sentences in Mandarin and English."""
    return make_corpus(
        tmp_path_factory.mktemp("corpus") / "spoken",
        SyntheticCorpusArguments(train_sentences=40, validation_sentences=8, seed=1),
    )


@pytest.fixture(scope="session")
def processor() -> ConformerProcessor:
    texts = ["the quick brown fox jumps over the lazy dog's tail", "把空调调到二十六度"]
    return ConformerProcessor(
        ConformerFeatureExtractor(), ConformerTokenizer.from_texts(texts, text_normalization="zh-en")
    )


@pytest.fixture
def tiny_model(processor) -> ConformerForCTC:
    torch.manual_seed(0)
    return ConformerForCTC(ConformerConfig(**TINY, vocab_size=len(processor.tokenizer))).eval()


@pytest.fixture(scope="session")
def checkpoint(processor, tmp_path_factory) -> Path:
    """A checkpoint folder with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    ConformerForCTC(ConformerConfig(**TINY, vocab_size=len(processor.tokenizer))).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
