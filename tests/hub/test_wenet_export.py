"""A checkpoint of ours becomes a WeNet model directory and comes back the same."""

import json

import numpy as np
import pytest
import torch
import yaml

from hf_asr import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer
from hf_asr.hub import wenet_export
from hf_asr.hub.wenet import import_wenet, read_cmvn
from hf_asr.hub.wenet_export import FEATURES, export_wenet

from .wenet_folder import CHARACTERS, PIECES, write_folder

TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = ["the quick brown fox", "把空调调到二十六度"]
VARIANTS = {
    "rotary, few channels": {"subsampling_channels": 6},
    "live": {
        "causal_conv": True,
        "use_dynamic_chunk": True,
        "conv_kernel_size": 8,
        "chunk_size": 4,
        "num_left_chunks": 2,
    },
    "static chunks": {"causal_conv": True, "chunk_size": 8, "dynamic_left_chunks": (0, 2)},
    "as WeNet": {"position_embeddings": "absolute", "scale_input": True, "conv_norm": "batch_norm", "conv_bias": True},
    "6x, wide convolution": {"subsampling_factor": 6, "conv_expansion_factor": 2, "subsampling_channels": 4},
    "8x, another epsilon": {"subsampling_factor": 8, "layer_norm_eps": 1e-3, "hidden_act": "gelu"},
    "decoder": {"decoder_layers": 1, "ctc_weight": 0.4, "label_smoothing": 0.1},
    "decoder without loss": {"decoder_layers": 1, "ctc_weight": 1.0},
    "both decoders": {
        "decoder_layers": 2,
        "reverse_decoder_layers": 1,
        "reverse_weight": 0.4,
        "decoder_attention_heads": 4,
        "decoder_intermediate_size": 40,
        "decoder_hidden_act": "relu",
        "layerdrop": 0.1,
        "intermediate_ctc_layers": [1],
    },
}


def make(**options: object) -> tuple[ConformerForCTC, ConformerProcessor]:
    """Return a model with random weights and statistics, and a processor with the default features."""
    torch.manual_seed(0)
    tokenizer = ConformerTokenizer.from_texts(TEXTS, text_normalization="zh-en")
    model = ConformerForCTC(ConformerConfig(**TINY | options, vocab_size=len(tokenizer))).eval()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(10 * torch.rand_like(buffer) + (0.1 if "istd" in name else 5.0))
    return model, ConformerProcessor(ConformerFeatureExtractor(), tokenizer)


@torch.inference_mode()
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_checkpoint_comes_back_bit_for_bit(options, tmp_path):
    model, processor = make(**options)
    export_wenet(model, processor, tmp_path / "wenet", allow_other_features=True)
    again, other = import_wenet(tmp_path / "wenet")
    state = model.state_dict()
    assert set(again.state_dict()) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    waveforms = [0.1 * np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate((16000, 5000))]
    inputs, others = processor(waveforms, sampling_rate=16000), other(waveforms, sampling_rate=16000)
    assert torch.equal(inputs["input_features"], others["input_features"])
    assert torch.equal(model(**inputs).logits, again(**others).logits)
    for name in ConformerConfig.__annotations__:
        found, expected = getattr(again.config, name), getattr(model.config, name)
        assert found == expected or list(found) == list(expected), name  # YAML has no tuples
    assert [other.tokenizer(text)["input_ids"] for text in TEXTS] == [
        processor.tokenizer(x)["input_ids"] for x in TEXTS
    ]
    assert other.tokenizer.normalize("The Fox, 26 度!") == processor.tokenizer.normalize("The Fox, 26 度!")


def test_a_checkpoint_comes_back_without_its_phonemes(tmp_path):
    model, processor = make(num_hidden_layers=2, intermediate_ctc_layers=[1], phoneme_language="en", phonemes=["a"])
    export_wenet(model, processor, tmp_path / "wenet", allow_other_features=True)
    again, _ = import_wenet(tmp_path / "wenet")
    assert {name for name in model.state_dict() if name not in again.state_dict()} == {
        "phoneme_head.weight",
        "phoneme_head.bias",
    }
    assert not again.config.phonemes and not again.config.intermediate_ctc_layers


@pytest.mark.parametrize("model_type", [None, "unigram", "bpe"])
@pytest.mark.parametrize("is_both_ways", [False, True])
def test_an_imported_model_goes_back_with_the_same_weights(is_both_ways, model_type, tmp_path):
    units = PIECES if model_type else CHARACTERS
    state = write_folder(tmp_path / "theirs", units=units, is_both_ways=is_both_ways, model_type=model_type)
    model, processor = import_wenet(tmp_path / "theirs")
    export_wenet(model, processor, tmp_path / "ours")
    written = torch.load(tmp_path / "ours" / "final.pt", weights_only=True)
    expected = {name: value for name, value in state.items() if not name.endswith(".pe")}
    assert set(written) == set(expected)
    assert all(
        torch.equal(written[name], value) and written[name].dtype == value.dtype for name, value in expected.items()
    )
    assert (tmp_path / "ours" / "units.txt").read_text() == (tmp_path / "theirs" / "units.txt").read_text()
    again = import_wenet(tmp_path / "ours")[1].tokenizer
    for text in ("the cat's", "打开 the cats", "that", "the theatre"):
        assert again(text)["input_ids"] == processor.tokenizer(text)["input_ids"]
    assert again.backend_tokenizer.to_str() == processor.tokenizer.backend_tokenizer.to_str()


def test_the_files_say_what_wenet_needs(tmp_path):
    model, processor = make(**VARIANTS["both decoders"] | VARIANTS["live"])
    export_wenet(model, processor, tmp_path, allow_other_features=True)
    recipe = yaml.safe_load((tmp_path / "train.yaml").read_text())
    assert recipe["encoder_conf"]["selfattention_layer_type"] == "rope_abs_selfattn"
    assert recipe["decoder"] == "bitransformer" and recipe["model_conf"]["reverse_weight"] == 0.4
    assert recipe["decoder_conf"] | {"r_num_blocks": 1, "attention_heads": 4} == recipe["decoder_conf"]
    assert recipe["tokenizer_conf"]["special_tokens"] == {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2}
    assert (tmp_path / "units.txt").read_text().splitlines()[:3] == ["<blank> 0", "<unk> 1", "<sos/eos> 2"]
    mean, istd = read_cmvn(tmp_path / "global_cmvn")
    torch.testing.assert_close(mean, model.encoder.feature_mean)
    torch.testing.assert_close(istd, model.encoder.feature_istd)
    state = torch.load(tmp_path / "final.pt", weights_only=True)
    assert state["encoder.embed.conv.2.weight"].shape == (24, 24, 3, 3)
    assert state["decoder.right_decoder.decoders.0.src_attn.linear_v.weight"].shape == (24, 24)


def test_without_a_decoder_wenets_has_no_blocks_and_no_loss(tmp_path):
    export_wenet(*make(), tmp_path, allow_other_features=True)
    recipe = yaml.safe_load((tmp_path / "train.yaml").read_text())
    assert (recipe["decoder"], recipe["decoder_conf"]["num_blocks"]) == ("transformer", 0)
    assert recipe["model_conf"]["ctc_weight"] == 1.0


REFUSED = {  # part of the message: options of the model
    "block_type is 'e_branchformer', which WeNet's Conformer does not have": {"block_type": "e_branchformer"},
    "subsampling_depthwise is True": {"subsampling_depthwise": True},
    "subsampling_channels is 48, .* only 1 to 24": {"subsampling_channels": 48},
    "conv_expansion_factor is 5": {"conv_expansion_factor": 5},
    "head_dim is 8": {"head_dim": 8},
    "hidden_act is 'tanh', .* only 'silu', 'relu', 'gelu'": {"hidden_act": "tanh"},
    "decoder_hidden_act is 'tanh'": {"decoder_layers": 1, "decoder_hidden_act": "tanh"},
    "rope_theta is 5000.0": {"rope_theta": 5000.0},
    "layer_norm_eps is 0.001": {"conv_norm": "batch_norm", "layer_norm_eps": 1e-3},
    "bos_token_id is 3": {"bos_token_id": 3},
    "pad_token_id is 1": {"pad_token_id": 1},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_model_that_wenet_cannot_express_is_refused_by_name(message, tmp_path):
    with pytest.raises(ValueError, match=message) as raised:
        export_wenet(*make(**REFUSED[message]), tmp_path / "wenet", allow_other_features=True)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_features_that_wenet_does_not_compute_are_refused_by_name(tmp_path):
    model, processor = make()
    with pytest.raises(ValueError, match=r"high_freq -400.0 \(it has 0.0\), snip_edges False .*--allow_other_features"):
        export_wenet(model, processor, tmp_path / "wenet")
    processor.feature_extractor.denoise = True
    with pytest.raises(ValueError, match="relies on denoising"):
        export_wenet(model, processor, tmp_path / "wenet", allow_other_features=True)
    chosen = FEATURES.to_dict() | {"frame_shift": 8.0, "window_type": "hann"}  # for these WeNet has options
    names = ("high_freq", "snip_edges", "energy_floor", "min_duration", "frame_shift", "window_type")
    extractor = ConformerFeatureExtractor(**{name: chosen[name] for name in names})
    export_wenet(model, ConformerProcessor(extractor, processor.tokenizer), tmp_path / "wenet")
    fbank = yaml.safe_load((tmp_path / "wenet" / "train.yaml").read_text())["dataset_conf"]["fbank_conf"]
    assert (fbank["frame_shift"], fbank["window_type"]) == (8.0, "hanning")


def test_a_vocabulary_that_wenet_cannot_have_is_refused(tmp_path):
    model, processor = make()
    texts = ["the quick brown fox and the lazy dog"] * 3
    tokenizer = ConformerTokenizer.from_texts(
        texts, kind="bpe", text_normalization="en", vocab_size=model.config.vocab_size
    )
    model.config.vocab_size = len(tokenizer)
    with pytest.raises(ValueError, match="BPE that was learned here"):
        export_wenet(model, ConformerProcessor(FEATURES, tokenizer), tmp_path / "wenet")
    write_folder(tmp_path / "theirs", units=PIECES)  # without its sentencepiece model
    with pytest.raises(ValueError, match="'THE' has several characters, and there is no sentencepiece model"):
        export_wenet(*import_wenet(tmp_path / "theirs"), tmp_path / "wenet")
    model, processor = make()
    model.resize_token_embeddings(len(processor.tokenizer) + 3)
    with pytest.raises(ValueError, match=r"head has \d+ outputs, but the tokenizer only \d+ tokens"):
        export_wenet(model, processor, tmp_path / "wenet", allow_other_features=True)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_no_folder_is_overwritten_or_left_half_written(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "final.pt").write_text("another model")
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        export_wenet(*make(), tmp_path / "there", allow_other_features=True)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(wenet_export, "statistics", fail)
    with pytest.raises(OSError, match="no space left"):
        export_wenet(*make(), tmp_path / "new" / "wenet", allow_other_features=True)
    assert not list((tmp_path / "new").iterdir())


def test_a_model_in_half_precision_is_written_in_float32(tmp_path):
    model, processor = make()
    export_wenet(model.to(torch.bfloat16), processor, tmp_path, allow_other_features=True)
    state = torch.load(tmp_path / "final.pt", weights_only=True)
    assert state["ctc.ctc_lo.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "global_cmvn").read_text())["frame_num"] == 1
