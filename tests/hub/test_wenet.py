"""WeNet's own outputs are the oracle that the blocks are right (see ../shared/wenet_reference/README.md)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchaudio.compliance import kaldi
from transformers.convert_slow_tokenizer import import_protobuf

from hf_asr import ConformerForCTC, ConformerTokenizer
from hf_asr.hub.wenet import config_from_wenet, convert_state_dict, find_pieces, import_wenet, read_cmvn, read_tokenizer
from hf_asr.training.vocabulary import check_spells, unknown_characters

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("HF_ASR_WENET_REFERENCE", ROOT.parent / "shared" / "wenet_reference"))
NAMES = ["conformer_offline", "u2pp_streaming"]
FBANK = {"num_mel_bins": 80, "dither": 0.0, "energy_floor": 0.0, "sample_frequency": 16000}  # train.yaml's

pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"WeNet's outputs are not at {REFERENCE} (HF_ASR_WENET_REFERENCE)"
)


@pytest.fixture(scope="module", params=NAMES)
def imported(request):
    folder = REFERENCE / request.param
    return folder, *import_wenet(folder), np.load(folder / "expected.npz")


def test_features(imported):
    _, _, processor, expected = imported
    waveforms = [expected["waveform_0"], expected["waveform_1"]]
    batch = processor(waveforms, sampling_rate=16000)
    for i, frames in enumerate(batch["attention_mask"].sum(-1).tolist()):
        features = batch["input_features"][i, :frames].numpy()
        waveform, stored = torch.from_numpy(expected[f"waveform_{i}"])[None], expected[f"fbank_{i}"]
        assert features.shape == stored.shape
        np.testing.assert_allclose(features, kaldi.fbank(waveform * 32768, **FBANK).numpy(), atol=1e-3)
        # Bins 87 dB below their frame's loudest hold the rounding of the float32 FFT of the CPU that wrote the file:
        # torchaudio itself, on another CPU, is 2e-3 from them.
        audible = stored > stored.max(-1, keepdims=True) - 20
        assert audible.mean() > 0.99
        np.testing.assert_allclose(features[audible], stored[audible], atol=1e-3)


@torch.inference_mode()
def test_encoder_and_ctc_of_a_padded_batch(imported):
    _, model, processor, expected = imported
    batch = processor([expected["waveform_0"], expected["waveform_1"]], sampling_rate=16000)
    lengths = model.get_output_lengths(batch["attention_mask"].sum(-1))
    assert lengths.tolist() == expected["encoder_lengths"].tolist()
    encoded = model.encoder(**batch).last_hidden_state
    log_probs = model(**batch).logits.log_softmax(-1)
    for i, frames in enumerate(lengths.tolist()):
        np.testing.assert_allclose(encoded[i, :frames], expected["encoder_out"][i, :frames], atol=1e-4)
        np.testing.assert_allclose(log_probs[i, :frames], expected["ctc_log_probs"][i, :frames], atol=1e-4)


@pytest.mark.parametrize(("input_layer", "factor", "bins"), [("conv2d6", 6, 12), ("conv2d8", 8, 9)])
def test_coarser_subsampling_calls_its_projection_linear(input_layer, factor, bins):
    folder = REFERENCE / NAMES[0]
    recipe = yaml.safe_load((folder / "train.yaml").read_text())
    recipe["encoder_conf"]["input_layer"] = input_layer
    state = torch.load(folder / "final.pt", weights_only=True)
    width, kernel = recipe["encoder_conf"]["output_size"], 5 if factor == 6 else 3
    del state["encoder.embed.out.0.weight"]
    state["encoder.embed.linear.bias"] = state.pop("encoder.embed.out.0.bias")
    state["encoder.embed.linear.weight"] = torch.randn(width, width * bins)
    for layer in (2,) if factor == 6 else (2, 4):
        state[f"encoder.embed.conv.{layer}.weight"] = torch.randn(width, width, kernel, kernel)
        state[f"encoder.embed.conv.{layer}.bias"] = torch.randn(width)
    config = config_from_wenet(recipe, vocab_size=len(state["ctc.ctc_lo.bias"]))
    assert config.subsampling_factor == factor
    model = ConformerForCTC(config)
    model.load_state_dict(convert_state_dict(state, config), strict=True)
    assert torch.equal(model.encoder.subsampling.out.weight, state["encoder.embed.linear.weight"])


def test_the_decoder_is_set_aside_and_said(caplog):
    import_wenet(REFERENCE / NAMES[1])
    assert "weights of the attention decoder are set aside" in caplog.text


def test_cmvn_file_agrees_with_the_weights(imported):
    folder, model, *_ = imported
    mean, istd = read_cmvn(folder / "global_cmvn")
    torch.testing.assert_close(model.encoder.feature_mean, mean)
    torch.testing.assert_close(model.encoder.feature_istd, istd)


def test_ids_of_units_are_kept_and_survive_a_reload(imported, tmp_path):
    folder, model, processor, _ = imported
    import_wenet(folder, tmp_path)
    units = dict(line.rsplit(maxsplit=1) for line in (folder / "units.txt").read_text().splitlines())
    reloaded = type(processor).from_pretrained(tmp_path)
    text = "".join(token for token in units if len(token) == 1)
    assert reloaded.tokenizer(text)["input_ids"] == [int(units[token]) for token in text]
    assert len(units) == model.config.vocab_size


def test_what_has_no_place_is_refused_by_name():
    folder = REFERENCE / NAMES[0]
    recipe = yaml.safe_load((folder / "train.yaml").read_text())
    config = config_from_wenet(recipe, vocab_size=40)
    with pytest.raises(ValueError, match="encoder.mystery.weight"):
        convert_state_dict({"encoder.mystery.weight": torch.zeros(1)}, config)
    encoder = recipe["encoder_conf"]
    for message, change in {
        "branchformer": {"encoder": "branchformer"},
        "mlp_type: 'moe'": {"encoder_conf": encoder | {"mlp_type": "moe", "n_expert": 4}},
        "num_experts: 4": {"encoder_conf": encoder | {"num_experts": 4}},
        "n_kv_head: 1": {"encoder_conf": encoder | {"n_kv_head": 1}},
        "layer_norm_type: 'rms_norm'": {"encoder_conf": encoder | {"layer_norm_type": "rms_norm"}},
        "feats_type: 'mfcc'": {"dataset_conf": recipe["dataset_conf"] | {"feats_type": "mfcc"}},
        "apply_non_blank_embedding": {"model_conf": {"apply_non_blank_embedding": True}},
    }.items():
        with pytest.raises(ValueError, match=message):
            config_from_wenet(recipe | change, vocab_size=40)


def test_defaults_that_newer_recipes_spell_out_are_accepted():
    recipe = yaml.safe_load((REFERENCE / NAMES[0] / "train.yaml").read_text())
    recipe["encoder_conf"] |= {"mlp_type": "position_wise_feed_forward", "n_expert": 8, "n_kv_head": 2, "head_dim": 32}
    assert config_from_wenet(recipe | {"model_conf": None}, vocab_size=40).head_dim == 32


UNITS = ["<blank>", "<unk>", "'", "THE", "▁", "▁CAT", "▁THE", "S", "打", "开", "<sos/eos>"]


def sentencepiece_model(path: Path, model_type: str) -> Path:
    """▁THE out of ▁T and HE, which are no units of WeNet's, and what else UNITS has; the blank is no piece of it."""
    pieces = ["▁T", "HE", "▁THE", "▁C", "AT", "▁CAT", "THE", *"▁TCHEAS'"]
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = {"unigram": 1, "bpe": 2}[model_type]
    for i, piece in enumerate(["<unk>", "<s>", "</s>", *pieces]):
        kind = {"<unk>": 2, "<s>": 3, "</s>": 3}.get(piece, 1)
        proto.pieces.add(piece=piece, score=0.0 if kind > 1 else -float(i), type=kind)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_units_of_several_characters_are_cut_by_sentencepiece(model_type, tmp_path):
    (tmp_path / "units.txt").write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(UNITS)))
    sentencepiece_model(tmp_path / "train_960.model", model_type)
    pieces = find_pieces(tmp_path, {"tokenizer_conf": {"bpe_path": "/their/disk/train_960.model"}})
    read_tokenizer(tmp_path / "units.txt", pieces=pieces).save_pretrained(tmp_path / "saved")
    tokenizer = ConformerTokenizer.from_pretrained(tmp_path / "saved")
    check_spells(tokenizer)
    for text, expected in {
        "the cat's": ["▁THE", "▁CAT", "'", "S"],
        "打开the  CAT 开": ["打", "开", "▁THE", "▁CAT", "开"],
        "the <blank> cat": None,
        "<sos/eos>": None,
    }.items():
        ids = tokenizer(text)["input_ids"]
        assert not {0, 10} & set(ids)
        if expected:
            assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert tokenizer.decode(tokenizer("the cat")["input_ids"], group_tokens=False) == tokenizer.normalize("the cat")
    assert unknown_characters(tokenizer, ["the cat's 打q"]) == ["Q"]


def test_without_their_model_such_units_transcribe_and_are_not_trained(tmp_path, caplog):
    (tmp_path / "units.txt").write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(UNITS)))
    tokenizer = read_tokenizer(tmp_path / "units.txt", pieces=find_pieces(tmp_path, {}))
    assert "no sentencepiece .model beside it" in caplog.text
    assert tokenizer.decode([6, 0, 5, 7]) == "THE CATS"
    with pytest.raises(ValueError, match="import it again with its sentencepiece .model"):
        check_spells(tokenizer)
