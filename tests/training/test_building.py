"""Arguments for fine-tuning that are applied, refused, or ignored with a warning."""

import json
import logging
import shutil

import pytest
import torch

from hf_asr.model import ConformerForCTC
from hf_asr.training.arguments import ModelArguments
from hf_asr.training.building import build
from hf_asr.training.lora import add_lora
from hf_asr.training.parameter_groups import parameter_groups

TEXTS = ["the lazy dog 把空调"]


def built(checkpoint, **arguments):
    return build(ModelArguments(model_name_or_path=str(checkpoint), **arguments), TEXTS)[0]


def test_denoise_is_applied_to_a_checkpoint(checkpoint):
    processor = built(checkpoint, feature_extractor={"denoise": True, "num_mel_bins": 80})
    assert processor.feature_extractor.denoise
    assert not built(checkpoint).feature_extractor.denoise


def test_features_that_differ_from_the_checkpoint_are_an_error(checkpoint):
    with pytest.raises(ValueError, match=r"num_mel_bins 40 \(it has 80\): the checkpoint's weights fit"):
        built(checkpoint, feature_extractor={"num_mel_bins": 40})
    with pytest.raises(ValueError, match="ConformerFeatureExtractor has no denois; it has: .*denoise"):
        built(checkpoint, feature_extractor={"denois": True})


@pytest.mark.parametrize(
    ("arguments", "rule", "warning"),
    [
        ({"text_normalization": "en"}, "zh-en", "text_normalization: zh-en, which the checkpoint's vocabulary was"),
        ({"text_normalization": "auto"}, "zh-en", ""),
        ({}, "zh-en", ""),
        ({"text_normalization": "basic", "vocabulary": "new"}, "basic", ""),
        ({"vocabulary": "new"}, "zh-en", ""),
        ({"tokenizer": "bpe"}, "zh-en", "tokenizer: char, as in the checkpoint, not bpe"),
    ],
)
def test_normalisation_and_tokens_of_a_checkpoint_override_the_arguments(checkpoint, caplog, arguments, rule, warning):
    processor = built(checkpoint, **arguments)
    assert processor.tokenizer.init_kwargs["text_normalization"] == rule
    assert warning in caplog.text
    assert warning or "as in the checkpoint" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ({"bpe_vocab_size": 500}, "bpe_vocab_size: 500 has no effect: the checkpoint's vocabulary is kept"),
        ({"bpe_vocab_size": 500, "vocabulary": "new"}, "bpe_vocab_size: 500 has no effect: tokenizer is char"),
        ({"bpe_vocab_size": 500, "vocabulary": "new", "tokenizer": "bpe"}, ""),
        ({"vocabulary": "new", "tokenizer": "bpe"}, ""),
        ({}, ""),
    ],
)
def test_a_bpe_vocab_size_without_effect_logs_a_warning(checkpoint, caplog, arguments, warning):
    built(checkpoint, **arguments)
    assert warning in caplog.text
    assert warning or "bpe_vocab_size" not in caplog.text


def test_bpe_vocab_size_limits_a_new_vocabulary(caplog):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words = ["the lazy dog and the lazy cat"] * 3
    sized = build(ModelArguments(model=small, tokenizer="bpe", bpe_vocab_size=20), words)[0].tokenizer
    assert len(sized) == 20
    assert len(build(ModelArguments(model=small, tokenizer="bpe"), words)[0].tokenizer) > 20
    assert "bpe_vocab_size" not in caplog.text
    build(ModelArguments(model=small, bpe_vocab_size=20), words)
    assert "bpe_vocab_size: 20 has no effect: tokenizer is char" in caplog.text


def test_text_normalization_auto_is_replaced_by_the_chosen_rule(caplog):
    caplog.set_level("INFO", logger="hf_asr")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    arguments = ModelArguments(text_normalization="auto", model=small)
    processor, *_ = build(arguments, ["die Äpfel sind für dich"])
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
def test_an_unknown_value_is_an_error(name, value, accepted):
    with pytest.raises(ValueError, match=f"{name} must be {accepted}, not '{value}'"):
        ModelArguments(**{name: value})


def test_a_recipe_adds_no_ctc_loss_to_the_layers_of_a_checkpoint(checkpoint, caplog):
    """They were trained without one, and the checkpoint may have fewer layers than the recipe."""
    caplog.set_level(logging.INFO, logger="hf_asr")
    options = {"intermediate_ctc_layers": [2, 4], "hidden_dropout": 0.3}
    _, model, _ = build(ModelArguments(model_name_or_path=str(checkpoint), model=options), TEXTS)
    assert list(model.config.intermediate_ctc_layers) == [] and model.config.hidden_dropout == 0.3
    assert "the checkpoint's values are used, not the recipe's: intermediate_ctc_layers []" in caplog.text


STREAMING = {"causal_conv": True, "use_dynamic_chunk": True, "num_left_chunks": 4}


def test_an_offline_checkpoint_learns_to_stream(checkpoint, caplog):
    """Its convolutions forget the later frames, and see the earlier ones as before."""
    caplog.set_level(logging.INFO, logger="hf_asr")
    arguments = ModelArguments(model_name_or_path=str(checkpoint), model=STREAMING)
    _, model, _ = build(arguments, TEXTS)
    assert "convolutions become causal" in caplog.text
    config = model.config
    assert (config.causal_conv, config.use_dynamic_chunk, config.num_left_chunks) == (True, True, 4)
    _, offline, _ = build(ModelArguments(model_name_or_path=str(checkpoint)), TEXTS)
    features = torch.randn(1, 200, 80)
    with torch.inference_mode():
        assert not torch.allclose(model.eval()(features).logits, offline.eval()(features).logits, atol=1e-2)
        for layer in offline.encoder.layers:
            weight = layer.convolution.depthwise_conv.weight
            weight[..., weight.shape[-1] // 2 + 1 :] = 0
        assert torch.allclose(model(features).logits, offline(features).logits, atol=1e-5)


def test_a_checkpoint_without_a_decoder_gets_one(checkpoint, caplog):
    caplog.set_level("INFO", logger="hf_asr")
    options = {"decoder_layers": 2, "reverse_decoder_layers": 1, "ctc_weight": 0.3, "reverse_weight": 0.2}
    arguments = ModelArguments(model_name_or_path=str(checkpoint), model=options, vocabulary="keep")
    _, model, _ = build(arguments, TEXTS)
    assert "an attention decoder of 2 layers is new" in caplog.text
    assert (len(model.decoder.layers), len(model.reverse_decoder.layers)) == (2, 1)
    assert (model.config.ctc_weight, model.config.reverse_weight) == (0.3, 0.2)
    assert model.decoder.lm_head.weight.std() > 0
    source = ConformerForCTC.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.items())


def test_a_checkpoint_that_is_causal_keeps_its_weights(checkpoint, tmp_path):
    _, model, _ = build(ModelArguments(model_name_or_path=str(checkpoint), model=STREAMING), TEXTS)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(checkpoint / name, tmp_path)
    _, again, _ = build(ModelArguments(model_name_or_path=str(tmp_path), model=STREAMING), TEXTS)
    for (name, expected), found in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name


def test_what_cannot_learn_to_stream_is_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="with use_dynamic_chunk: true it learns to stream"):
        build(ModelArguments(model_name_or_path=str(checkpoint), model={"causal_conv": True}), TEXTS)
    shutil.copytree(checkpoint, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"block_type": "e_branchformer"}))
    with pytest.raises(ValueError, match="use_dynamic_chunk needs block_type 'conformer'"):
        build(ModelArguments(model_name_or_path=str(tmp_path / "other"), model=STREAMING), TEXTS)


def test_chunks_without_causal_convolutions_are_refused(checkpoint):
    with pytest.raises(ValueError, match="use_dynamic_chunk needs causal_conv: true"):
        build(ModelArguments(model_name_or_path=str(checkpoint), model={"use_dynamic_chunk": True}), TEXTS)


PHONEMES = {"phoneme_language": "auto", "intermediate_ctc_layers": [1]}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("text", "language", "phoneme"),
    [("把空调打开", "zh", "kh"), ("open the window and the door", "en", "D"), ("mach das fenster auf", None, None)],
)
def test_the_lower_layers_recognise_the_phonemes_of_the_transcripts(text, language, phoneme, caplog):
    caplog.set_level("INFO", logger="hf_asr")
    config = build(ModelArguments(model=SMALL | PHONEMES), [text])[1].config
    assert config.phoneme_language == language
    assert phoneme is None or phoneme in config.phonemes
    assert ("set model: {phoneme_language: …}" in caplog.text) == (language is None)


def test_phonemes_are_those_of_the_named_language():
    german = SMALL | PHONEMES | {"phoneme_language": "de"}
    model = build(ModelArguments(model=german), ["mach das Fenster auf"])[1]
    assert "aU" in model.config.phonemes
    assert model.phoneme_head.out_features == 1 + len(model.config.phonemes)
    with pytest.raises(ValueError, match="espeak-ng does not speak the language 'deutsch'"):
        build(ModelArguments(model=german | {"phoneme_language": "deutsch"}), ["mach"])
    for without in ({"phoneme_language": None}, {"phoneme_language": "auto", "intermediate_ctc_layers": []}):
        assert not hasattr(build(ModelArguments(model=german | without), ["mach"])[1], "phoneme_head")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phoneme_language": "de"}, "phoneme_language de needs intermediate_ctc_layers"),
        ({"phonemes": ["a"]}, "phonemes: the training finds them"),
        (PHONEMES | {"phoneme_language": False}, "must be auto or a code such as de or 'no', not False"),
    ],
)
def test_phonemes_that_cannot_be_used_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        build(ModelArguments(model=SMALL | options), ["mach"])


def test_characters_of_the_same_sound_share_rows_of_the_head(tmp_path):
    options = ModelArguments(model=SMALL | PHONEMES, tokenizer="char")
    processor, model, _ = build(options, ["把她的空调打开", "他把 tv 打开"])
    ids = processor.tokenizer.get_vocab()
    shares = {token: model.ctc_head.shares[number] for token, number in ids.items()}
    assert shares["他"].all() and torch.equal(shares["他"], shares["她"])
    assert not shares["t"].any() and not model.ctc_head.shares[0].any()
    firsts = list(dict.fromkeys(model.ctc_head.shares.flatten().tolist()))
    assert firsts == sorted(firsts)  # the numbers do not depend on the order of the tokenizer's dictionary
    assert model.config.num_sounds == model.ctc_head.shares.max() == len(model.ctc_head.shared) - 1
    for part in (processor, model):
        part.save_pretrained(tmp_path)
    tuned = build(ModelArguments(model_name_or_path=str(tmp_path)), ["把空调打开"])[1]
    assert type(tuned.ctc_head) is torch.nn.Linear and not tuned.config.num_sounds


def test_sounds_can_be_switched_off():
    for without in ({"num_sounds": 0}, {"phoneme_language": None}):
        model = build(ModelArguments(model=SMALL | PHONEMES | without), ["把空调打开"])[1]
        assert type(model.ctc_head) is torch.nn.Linear
    with pytest.raises(ValueError, match="num_sounds: the training finds it"):
        build(ModelArguments(model=SMALL | PHONEMES | {"num_sounds": 5}), ["把空调打开"])


ENGLISH = ["open the window and the door", "it is the end of the day"]


@pytest.fixture
def english(tmp_path) -> ConformerForCTC:
    """A model with phonemes, whose checkpoint is in `tmp_path`."""
    processor, model, _ = build(ModelArguments(model=SMALL | PHONEMES), ENGLISH)
    for part in (processor, model):
        part.save_pretrained(tmp_path)
    return model


def tuned(folder, language: str | None, texts: list[str]) -> ConformerForCTC:
    options = {"model_name_or_path": str(folder), "model": PHONEMES | {"phoneme_language": language}}
    return build(ModelArguments(**options), texts)[1]


def rows(model: ConformerForCTC) -> dict[str, torch.Tensor]:
    """Return the row of each phoneme; that of the blank is the first one."""
    return dict(zip(["blank", *model.config.phonemes], model.phoneme_head.weight, strict=True))


@pytest.mark.parametrize("language", ["auto", "en-us"])
def test_a_checkpoint_that_is_fine_tuned_keeps_its_phonemes_and_gets_the_missing_ones(english, tmp_path, language):
    same = tuned(tmp_path, language, ["the judge and the king"])
    assert list(same.config.phonemes)[: len(english.config.phonemes)] == list(english.config.phonemes)
    assert "dZ" not in english.config.phonemes and "dZ" in same.config.phonemes
    assert all(torch.equal(rows(same)[name], row) for name, row in rows(english).items())


def test_a_checkpoint_that_is_fine_tuned_has_the_phonemes_of_another_language(english, tmp_path):
    german = tuned(tmp_path, "de", ["mach das Fenster auf"])
    assert german.config.phoneme_language == "de" and "aU" in german.config.phonemes
    shared = set(rows(german)) & set(rows(english))
    assert {"blank", "n"} <= shared < set(rows(english))
    assert all(torch.equal(rows(german)[name], rows(english)[name]) for name in shared)


@pytest.mark.parametrize(("language", "text"), [("auto", "mach das fenster auf"), (None, ENGLISH[0])])
def test_a_checkpoint_without_a_known_language_has_no_lower_loss(english, tmp_path, caplog, language, text):
    caplog.set_level("INFO", logger="hf_asr")
    model = tuned(tmp_path, language, [text])
    assert not hasattr(model, "phoneme_head") and not model.config.intermediate_ctc_layers
    assert "trained without a loss of their own" in caplog.text


def test_the_head_of_the_phonemes_is_trained_as_a_head(english):
    pytest.importorskip("peft")
    groups = parameter_groups(english, decayed=set(), learning_rate=1.0, weight_decay=0.0, layer_lr_decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates[id(english.phoneme_head.weight)] == rates[id(english.ctc_head.weight)] == 1.0
    adapted = {name for name, value in add_lora(english, {"r": 2}).named_parameters() if value.requires_grad}
    assert any("phoneme_head.modules_to_save" in name for name in adapted)
