"""What a checkpoint takes of the arguments, refuses, or has otherwise and says so."""

import pytest

from hf_asr.training.arguments import ModelArguments
from hf_asr.training.building import build

TEXTS = ["the lazy dog 把空调"]


def built(checkpoint, **arguments):
    return build(ModelArguments(model_name_or_path=str(checkpoint), **arguments), TEXTS)[0]


def test_denoise_is_taken(checkpoint):
    processor = built(checkpoint, feature_extractor={"denoise": True, "num_mel_bins": 80})
    assert processor.feature_extractor.denoise
    assert not built(checkpoint).feature_extractor.denoise


def test_other_features_than_the_checkpoints_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"num_mel_bins 40 \(it has 80\): the checkpoint's weights fit"):
        built(checkpoint, feature_extractor={"num_mel_bins": 40})
    with pytest.raises(ValueError, match="ConformerFeatureExtractor has no denois; it has: .*denoise"):
        built(checkpoint, feature_extractor={"denois": True})


@pytest.mark.parametrize(
    ("arguments", "rule", "told"),
    [
        ({"text_normalization": "en"}, "zh-en", "text_normalization: zh-en, which the checkpoint's vocabulary was"),
        ({"text_normalization": "auto"}, "zh-en", ""),
        ({}, "zh-en", ""),
        ({"text_normalization": "basic", "vocabulary": "new"}, "basic", ""),
        ({"vocabulary": "new"}, "zh-en", ""),
        ({"tokenizer": "bpe"}, "zh-en", "tokenizer: char, as the checkpoint has it, not bpe"),
    ],
)
def test_the_rule_and_the_tokens_are_the_checkpoints_or_asked_for(checkpoint, caplog, arguments, rule, told):
    processor = built(checkpoint, **arguments)
    assert processor.tokenizer.init_kwargs["text_normalization"] == rule
    assert told in caplog.text
    assert told or "as the checkpoint" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"bpe_vocab_size": 500}, "bpe_vocab_size: 500 has no effect: the checkpoint's vocabulary stays"),
        ({"bpe_vocab_size": 500, "vocabulary": "new"}, "bpe_vocab_size: 500 has no effect: tokenizer is char"),
        ({"bpe_vocab_size": 500, "vocabulary": "new", "tokenizer": "bpe"}, ""),
        ({"vocabulary": "new", "tokenizer": "bpe"}, ""),
        ({}, ""),
    ],
)
def test_a_bpe_vocab_size_without_effect_is_told(checkpoint, caplog, arguments, told):
    built(checkpoint, **arguments)
    assert told in caplog.text
    assert told or "bpe_vocab_size" not in caplog.text


def test_the_size_of_a_new_bpe_vocabulary(caplog):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words = ["the lazy dog and the lazy cat"] * 3
    sized = build(ModelArguments(model=small, tokenizer="bpe", bpe_vocab_size=20), words)[0].tokenizer
    assert len(sized) == 20
    assert len(build(ModelArguments(model=small, tokenizer="bpe"), words)[0].tokenizer) > 20
    assert "bpe_vocab_size" not in caplog.text
    build(ModelArguments(model=small, bpe_vocab_size=20), words)
    assert "bpe_vocab_size: 20 has no effect: tokenizer is char" in caplog.text


def test_auto_is_a_concrete_rule_before_anything_is_saved(caplog):
    caplog.set_level("INFO", logger="hf_asr")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    arguments = ModelArguments(text_normalization="auto", model=small)
    processor, _ = build(arguments, ["die Äpfel sind für dich"])
    assert processor.tokenizer.init_kwargs["text_normalization"] == "basic"
    assert "text_normalization: basic, chosen from the transcripts" in caplog.text
    assert processor.tokenizer.normalize("Äpfel") == "äpfel"


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("tokenizer", "bpee", "char or bpe"),
        ("text_normalization", "zhen", "auto, none, basic, en, zh or zh-en"),
        ("vocabulary", "old", "auto, keep or new"),
    ],
)
def test_a_value_that_there_is_not_is_refused_at_once(name, value, accepted):
    with pytest.raises(ValueError, match=f"{name} is {accepted}, not '{value}'"):
        ModelArguments(**{name: value})
