"""Imported models give WeNet's own outputs (see ../shared/wenet_reference/README.md)."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchaudio.compliance import kaldi

from hf_asr import ConformerForCTC, ConformerTokenizer
from hf_asr.decoding import token_texts
from hf_asr.hub.wenet import import_wenet, read_cmvn
from hf_asr.hub.wenet_recipe import parse_recipe
from hf_asr.hub.wenet_units import find_pieces, read_tokenizer, read_units
from hf_asr.hub.wenet_weights import from_wenet
from hf_asr.training.vocabulary import check_spells, unknown_characters

from .wenet_folder import PIECES, sentencepiece_model

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("HF_ASR_WENET_REFERENCE", ROOT.parent / "shared" / "wenet_reference"))
NAMES = ["conformer_offline", "u2pp_streaming"]
FBANK = {"num_mel_bins": 80, "dither": 0.0, "energy_floor": 0.0, "sample_frequency": 16000}  # as in train.yaml

pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"WeNet's outputs are not at {REFERENCE} (HF_ASR_WENET_REFERENCE)"
)


@pytest.fixture(scope="module", params=NAMES)
def imported(request):
    folder = REFERENCE / request.param
    return folder, *import_wenet(folder), np.load(folder / "expected.npz")


@pytest.fixture
def variant(tmp_path):
    """Return a function that copies a reference model with another recipe, other weights or other units."""

    def make(
        recipe: dict | None = None, *, encoder_conf: dict | None = None, state=None, units=None, name: str = NAMES[0]
    ) -> Path:
        folder = tmp_path / "wenet"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(REFERENCE / name, folder, copy_function=shutil.copyfile)
        original = yaml.safe_load((folder / "train.yaml").read_text())
        changed = original | (recipe or {})
        changed["encoder_conf"] = original["encoder_conf"] | (encoder_conf or {})
        (folder / "train.yaml").write_text(yaml.safe_dump({k: v for k, v in changed.items() if v != "absent"}))
        if state is not None:
            torch.save(state, folder / "final.pt")
        if units is not None:
            (folder / "units.txt").write_text(units, encoding="utf-8")
        return folder

    return make


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return torch.load(REFERENCE / NAMES[0] / "final.pt", weights_only=True)


@torch.inference_mode()
def log_probs(model, processor, waveforms) -> tuple[torch.Tensor, list[int]]:
    batch = processor(waveforms, sampling_rate=16000)
    lengths = model.get_output_lengths(batch["attention_mask"].sum(-1)).tolist()
    return model(**batch).logits.log_softmax(-1), lengths


def assert_equals_reference(model, processor) -> None:
    expected = np.load(REFERENCE / NAMES[0] / "expected.npz")
    found, lengths = log_probs(model, processor, [expected["waveform_0"], expected["waveform_1"]])
    for i, frames in enumerate(lengths):
        np.testing.assert_allclose(found[i, :frames], expected["ctc_log_probs"][i, :frames], atol=1e-4)


def test_features_equal_torchaudios(imported):
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


@torch.inference_mode()
@pytest.mark.parametrize(("chunk_size", "num_left_chunks"), [(16, -1), (16, 4), (8, 2)])
def test_chunk_by_chunk(chunk_size, num_left_chunks):
    folder = REFERENCE / NAMES[1]
    model, processor = import_wenet(folder)
    expected = np.load(folder / "expected.npz")
    model.config.chunk_size, model.config.num_left_chunks = chunk_size, num_left_chunks
    features = processor([expected["waveform_0"]], sampling_rate=16000)["input_features"]
    cache, parts = model.encoder.empty_cache(), []
    for start in range(0, features.shape[1] - 6, 4 * chunk_size):
        output = model(features[:, start : start + model.encoder.frames_of_step()], cache=cache)
        parts.append(output.logits.log_softmax(-1))
        cache = output.cache
    name = f"chunk{chunk_size}_left{num_left_chunks}_ctc_log_probs"
    np.testing.assert_allclose(torch.cat(parts, 1), expected[f"stream_{name}"], atol=1e-4)
    masked = model(features).logits.log_softmax(-1)
    np.testing.assert_allclose(masked, expected[f"masked_{name}"], atol=1e-4)


@pytest.mark.parametrize(
    ("encoder_conf", "is_dynamic", "chunk_size"),
    [
        ({"causal": True}, True, -1),
        ({"causal": True, "use_dynamic_chunk": False, "static_chunk_size": 16}, False, 16),
        ({"causal": True, "static_chunk_size": 16}, True, -1),
    ],
)
def test_the_chunks_of_the_recipe(variant, encoder_conf, is_dynamic, chunk_size):
    model, _ = import_wenet(variant(encoder_conf=encoder_conf, name=NAMES[1]))
    assert (model.config.use_dynamic_chunk, model.config.chunk_size) == (is_dynamic, chunk_size)


@pytest.mark.parametrize(("input_layer", "factor", "bins"), [("conv2d6", 6, 12), ("conv2d8", 8, 9)])
def test_the_projection_of_subsampling_6_and_8_is_imported(input_layer, factor, bins):
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
    config = parse_recipe(recipe, vocab_size=len(state["ctc.ctc_lo.bias"])).config
    assert config.subsampling_factor == factor
    model = ConformerForCTC(config)
    model.load_state_dict(from_wenet(state, config), strict=True)
    assert torch.equal(model.encoder.subsampling.out.weight, state["encoder.embed.linear.weight"])


def test_the_cmvn_file_agrees_with_the_weights(imported):
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
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


REFUSED = {  # part of the message: the change to the recipe
    "encoder: 'branchformer'": {"encoder": "branchformer"},
    "model: 'paraformer'": {"model": "paraformer"},
    "lfmmi_dir: 'lf'": {"lfmmi_dir": "lf"},
    "mlp_type: 'moe'": {"encoder_conf": {"mlp_type": "moe", "n_expert": 4}},
    "num_experts: 4": {"encoder_conf": {"num_experts": 4}},
    "n_kv_head: 1": {"encoder_conf": {"n_kv_head": 1}},
    "layer_norm_type: 'rms_norm'": {"encoder_conf": {"layer_norm_type": "rms_norm"}},
    "selfattention_layer_type: 'shaw_rel_selfattn'": {
        "encoder_conf": {"selfattention_layer_type": "shaw_rel_selfattn"}
    },
    "pos_enc_layer_type: 'abs_pos'": {"encoder_conf": {"pos_enc_layer_type": "abs_pos"}},
    "concat_after: True": {"encoder_conf": {"concat_after": True}},
    "final_norm: False": {"encoder_conf": {"final_norm": False}},
    "norm_eps 0.001 and conv_norm_eps 1e-05": {"encoder_conf": {"norm_eps": 1e-3, "cnn_module_norm": "layer_norm"}},
    "conv_norm_eps 0.001": {"encoder_conf": {"conv_norm_eps": 1e-3}},
    "num_blocks must be a whole number of at least 1, not 'three'": {"encoder_conf": {"num_blocks": "three"}},
    "conv_kernel_size must be odd": {"encoder_conf": {"cnn_module_kernel": 8}},
    "encoder_conf must be a mapping of options, not 'none'": {"encoder_conf": "none"},
    "encoder_conf.attention_window: 3 is not known here": {"encoder_conf": {"attention_window": 3}},
    "front_end: 'x' is not known here": {"front_end": "x"},
    "ctc_blank_id: 39": {"ctc_conf": {"ctc_blank_id": 39}},
    "special_tokens has <blank>: 39": {"tokenizer_conf": {"special_tokens": {"<blank>": 39}}},
    "no id 99, which train.yaml's special_tokens give to <eos>": {"tokenizer_conf": {"special_tokens": {"<eos>": 99}}},
    "ctc_weight is 0": {"model_conf": {"ctc_weight": 0.0}},
    "apply_non_blank_embedding: True": {"model_conf": {"apply_non_blank_embedding": True}},
    "feats_type: 'mfcc'": {"dataset_conf": {"feats_type": "mfcc"}},
    "fbank_conf.window_type: 'blackman'": {"dataset_conf": {"fbank_conf": {"window_type": "blackman"}}},
    "fbank_conf.preemphasis: 0.9": {"dataset_conf": {"fbank_conf": {"preemphasis": 0.9}}},
    "lfr_conf: .* is not known here": {"dataset_conf": {"lfr_conf": {"lfr_m": 7, "lfr_n": 6}}},
    "input_dim is 80, but the features have 40 mel bins": {"dataset_conf": {"fbank_conf": {"num_mel_bins": 40}}},
    "output_dim is 41, but the CTC head has 40 outputs": {"output_dim": 41},
    "split_with_space: True": {"tokenizer_conf": {"split_with_space": True}},
    "tokenizer: 'whisper'": {"tokenizer": "whisper"},
    "raw_wav: False": {"raw_wav": False},
    "using_pitch: True": {"collate_conf": {"feature_extraction_conf": {"using_pitch": True}}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_option_that_changes_the_outputs_is_refused_by_name(message, variant):
    change = REFUSED[message]
    encoder_conf = change.get("encoder_conf")
    if isinstance(encoder_conf, dict):
        folder = variant(encoder_conf=encoder_conf)
    else:
        folder = variant(change)
        if encoder_conf:
            recipe = yaml.safe_load((folder / "train.yaml").read_text())
            (folder / "train.yaml").write_text(yaml.safe_dump(recipe | change))
    with pytest.raises(ValueError, match=message) as raised:
        import_wenet(folder)
    assert "\n" not in str(raised.value)


def test_options_that_leave_the_outputs_alone_are_accepted(variant):
    folder = variant(
        {"model_conf": None, "cmvn": "global_cmvn", "dtype": "fp32", "optim": "adam", "optim_conf": {"lr": 1}},
        encoder_conf={"mlp_type": "position_wise_feed_forward", "n_expert": 8, "n_kv_head": 2, "head_dim": 32}
        | {"use_dynamic_chunk": True, "use_sdpa": True, "gradient_checkpointing": True, "concat_after": False}
        | {"norm_eps": "1e-5", "conv_inner_factor": 2, "positional_dropout_rate": 0.5, "static_chunk_size": 0},
    )
    assert_equals_reference(*import_wenet(folder))


def test_missing_options_have_wenets_defaults():
    config = parse_recipe({"input_dim": 80}, vocab_size=9).config
    found = (config.hidden_size, config.num_attention_heads, config.intermediate_size, config.num_hidden_layers)
    assert found == (256, 4, 2048, 6)
    assert (config.conv_norm, config.conv_kernel_size, config.causal_conv) == ("batch_norm", 15, False)


@pytest.mark.parametrize(("window_type", "frequencies"), [("hanning", (20.0, 0.0)), ("hamming", (60.0, -400.0))])
def test_features_are_those_that_the_recipe_describes(window_type, frequencies, variant):
    low_freq, high_freq = frequencies
    options = {"window_type": window_type, "low_freq": low_freq, "high_freq": high_freq}
    options |= {"num_mel_bins": 80, "frame_length": 20, "frame_shift": 8, "energy_floor": 5.0}
    _, processor = import_wenet(variant({"dataset_conf": {"fbank_conf": options | {"dither": 1.0}}}))
    waveform = np.load(REFERENCE / NAMES[0] / "expected.npz")["waveform_0"]
    found = processor([waveform], sampling_rate=16000)["input_features"][0]
    expected = kaldi.fbank(torch.from_numpy(waveform)[None] * 32768, sample_frequency=16000, **options)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_features_of_the_first_versions_of_wenet_are_read(variant):
    features = {"feature_type": "fbank", "mel_bins": 80, "frame_length": 25, "frame_shift": 12, "using_pitch": False}
    collate = {"feature_extraction_conf": features, "spec_aug": True, "spec_aug_conf": {"max_t": 50}}
    collate |= {"wav_distortion_conf": {"wav_dither": 1.0}, "speed_perturb": True, "feature_dither": 0.0}
    dataset = {"max_length": 40960, "min_length": 0, "batch_type": "static", "batch_size": 20, "sort": True}
    absent = dict.fromkeys(["input_dim", "output_dim", "model", "dataset", "tokenizer", "tokenizer_conf"], "absent")
    recipe = absent | {"raw_wav": True, "collate_conf": collate, "dataset_conf": dataset}
    _, processor = import_wenet(variant(recipe))
    assert (processor.feature_extractor.num_mel_bins, processor.feature_extractor.frame_shift) == (80, 12)


def statistics(folder: Path) -> tuple[list[float], list[float], float]:
    values = json.loads((folder / "global_cmvn").read_text())
    return values["mean_stat"], values["var_stat"], values["frame_num"]


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("is_new", [True, False])
def test_statistics_that_the_weights_lack_are_read_from_their_file(is_json, is_new, variant, state):
    named = {"cmvn_file": "/their/disk/global_cmvn", "is_json_cmvn": is_json}
    recipe = {"cmvn_conf": named} if is_new else {"cmvn": "absent", "cmvn_conf": "absent"} | named
    del state["encoder.global_cmvn.mean"], state["encoder.global_cmvn.istd"]
    folder = variant(recipe, state=state)
    if not is_json:
        mean, squares, count = statistics(folder)
        rows = " ".join(map(str, [*mean, count])), " ".join(map(str, [*squares, 0]))
        (folder / "global_cmvn").write_text(f" [\n  {rows[0]} \n  {rows[1]} ]\n")
    assert_equals_reference(*import_wenet(folder))
    damaged = {b"\0BFM \4": "contains no statistics", b"[ 1 2 ]": "does not end with 0", b"{}": "KeyError"}
    for content, message in (damaged | {b"[ 3 1\n 9 0 ]": "has 1 mel bins", b"[1 0 1 0]": "not finite"}).items():
        (folder / "global_cmvn").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            import_wenet(folder)
    (folder / "global_cmvn").unlink()
    with pytest.raises(ValueError, match="global_cmvn is missing"):
        import_wenet(folder)


def test_without_statistics_features_are_not_normalised(variant, state):
    del state["encoder.global_cmvn.mean"], state["encoder.global_cmvn.istd"]
    model, _ = import_wenet(variant({"cmvn": None}, state=state))
    assert not model.encoder.feature_mean.any() and (model.encoder.feature_istd == 1).all()


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module"])
def test_weights_inside_another_dict_or_under_prefixes_are_the_same_weights(wrapper, variant, state):
    renamed = {f"module._orig_mod.{key}": value for key, value in state.items()}
    folder = variant(state={wrapper: renamed, "optimizer": {"lr": 1.0}, "step": 3})
    assert_equals_reference(*import_wenet(folder))


BIASES = {"query_bias": ["linear_q", "linear_out"], "key_bias": ["linear_k"], "value_bias": ["linear_v"]} | {
    "mlp_bias": ["feed_forward.w_1", "feed_forward.w_2", "feed_forward_macaron.w_1", "feed_forward_macaron.w_2"],
    "conv_bias": ["pointwise_conv1", "depthwise_conv", "pointwise_conv2"],
}


@pytest.mark.parametrize("option", BIASES)
def test_projections_without_bias_equal_those_with_a_zero_bias(option, variant, state):
    names = [key for key in state if any(key.endswith(f".{part}.bias") for part in BIASES[option])]
    names = [key for key in names if key.startswith("encoder.encoders.")]
    assert len(names) == 3 * len(BIASES[option])
    expected, processor = import_wenet(variant(state=state | {name: torch.zeros_like(state[name]) for name in names}))
    without = {key: value for key, value in state.items() if key not in names}
    found, _ = import_wenet(variant(encoder_conf={option: False}, state=without))
    waveforms = [np.load(REFERENCE / NAMES[0] / "expected.npz")[f"waveform_{i}"] for i in range(2)]
    torch.testing.assert_close(
        log_probs(found, processor, waveforms)[0], log_probs(expected, processor, waveforms)[0], atol=1e-5, rtol=0
    )
    with pytest.raises(ValueError, match=f"{BIASES[option][0]}.bias"):  # the recipe has no bias
        import_wenet(variant(encoder_conf={option: False}, state=state))
    with pytest.raises(ValueError, match=rf"{BIASES[option][0].partition('.')[0]}\S*.bias .*is missing"):
        import_wenet(variant(state=without))


def test_weights_that_do_not_fit_are_errors_with_their_name(variant, state):
    final_pt = "encoder.encoders.1.self_attn.linear_k.weight"
    two = {key: value for key, value in state.items() if not key.startswith("encoder.encoders.2.")}
    for message, weights in {
        r"encoder.mystery.weight, of shape \(1,\), has no place": state | {"encoder.mystery.weight": torch.zeros(1)},
        rf"{final_pt} is missing": {key: value for key, value in state.items() if key != final_pt},
        r"encoder.encoders.2.\S+ \(and \d+ more\) is missing": two,
        rf"{final_pt} has shape \(64, 32\); by train.yaml it is \(64, 64\)": state | {final_pt: torch.zeros(64, 32)},
        "ctc.ctc_lo.weight is missing": {key: value for key, value in state.items() if not key.startswith("ctc.")},
        rf"{final_pt}' has values that are not finite": state | {final_pt: torch.full((64, 64), torch.nan)},
        "'epoch' is int, not a tensor": state | {"epoch": 3},
        "contains list, not weights": [1, 2],
        "contains dict, not weights": {},
    }.items():
        with pytest.raises(ValueError, match=message) as raised:
            import_wenet(variant(state=weights))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("final.pt", b"no weights", "final.pt cannot be read as weights"),
        ("final.pt", b"", "final.pt cannot be read as weights"),
        ("train.yaml", b"a: [1", "train.yaml is not YAML in UTF-8"),
        ("train.yaml", b"\xff\xfe\x80", "train.yaml is not YAML in UTF-8"),
        ("train.yaml", b"- 1", "train.yaml must be a mapping of options"),
        ("units.txt", b"\xff\xfe\x80", "units.txt is not in UTF-8"),
    ],
)
def test_damaged_and_missing_files_are_errors(name, content, message, variant):
    folder = variant()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        import_wenet(folder)
    assert "\n" not in str(raised.value)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"it has no {name}"):
        import_wenet(folder)


def test_blank_lines_tabs_and_a_byte_order_mark_in_units_are_read(tmp_path):
    path = tmp_path / "units.txt"
    path.write_bytes("\ufeff<blank>\t0\r\n\r\n<unk> 1\r\n  a   2\r\n<space> 3\r\n\r\n".encode())
    assert read_units(path) == {"<blank>": 0, "<unk>": 1, "a": 2, "▁": 3}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("<blank> 0\n<unk> 1\n\u3000 2\n", "line 3: a line must be a unit, a space or tab, and its id"),
        ("<blank> 0\n<unk> 1\nnew york 2\n", "line 3: a line must be a unit, a space or tab, and its id"),
        ("<blank> 0\n<unk> one\n", "line 2: a line must be a unit, a space or tab, and its id"),
        ("<blank> 0\n<unk> 1\na 1\n", "line 3: 'a' has id 1, but '<unk>' has id 1"),
        ("<blank> 0\n<unk> 1\na 2\na 3\n", "line 4: 'a' has id 3, but 'a' has id 2"),
        ("<blank> 0\n<unk> 1\na 3\n", "no unit has id 2"),
        ("<unk> 1\na 2\n", "no unit has id 0"),
        ("\n", "no unit has id 0"),
        ("<unk> 0\n<blank> 1\n", "<blank> has id 1, but only a blank of id 0"),
        ("<blank> 0\n<unk> 1\na 2\n", "units.txt has 3 units, but final.pt's CTC head 40 outputs"),
        ("".join(f"{chr(0x4E00 + i)} {i}\n" for i in range(40)), "units.txt has no <unk>"),
    ],
)
def test_malformed_units_are_refused_by_line(units, message, variant):
    with pytest.raises(ValueError, match=message):
        import_wenet(variant(units=units))


def test_the_unknown_unit_is_found_by_its_name(tmp_path):
    path = tmp_path / "units.txt"
    path.write_text("<blank> 0\na 1\nb 2\n<unk> 3\n<sos/eos> 4\n")
    assert read_tokenizer(read_units(path)).unk_token_id == 3


def test_only_a_non_causal_convolution_with_bias_depends_on_the_batch(imported, variant, state):
    """WeNet's padding is not zero after a projection with a bias, and the last frames depend on it."""
    folder, model, processor, expected = imported
    waveforms = [expected["waveform_0"], expected["waveform_1"]]

    def difference(model) -> float:
        together, lengths = log_probs(model, processor, waveforms)
        alone, _ = log_probs(model, processor, waveforms[:1])
        assert lengths[0] < lengths[1]
        return (together[0, : lengths[0]] - alone[0]).abs().max().item()

    if model.config.causal_conv:
        assert difference(model) < 1e-5
        return
    assert 1e-3 < difference(model) < 0.1
    without = {key: value for key, value in state.items() if not ("conv_module" in key and key.endswith("conv1.bias"))}
    for part in ("depthwise_conv", "pointwise_conv2"):
        without = {key: value for key, value in without.items() if not key.endswith(f"{part}.bias")}
    assert difference(import_wenet(variant(encoder_conf={"conv_bias": False}, state=without))[0]) < 1e-5


def test_no_folder_is_overwritten_or_left_half_written(variant, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model.safetensors").write_text("another model")
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        import_wenet(variant(), tmp_path / "there")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("hf_asr.hub.wenet.ConformerProcessor.save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        import_wenet(variant(), tmp_path / "new" / "model")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_units_of_several_characters_are_split_by_sentencepiece(model_type, tmp_path):
    (tmp_path / "units.txt").write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(PIECES)))
    sentencepiece_model(tmp_path / "train_960.model", model_type)
    pieces = find_pieces(tmp_path, "/their/disk/train_960.model")
    read_tokenizer(read_units(tmp_path / "units.txt"), pieces=pieces).save_pretrained(tmp_path / "saved")
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
    assert token_texts.unknown_characters("the cat's 打q", tokenizer) == ["Q"]  # the Q alone, although no T is a unit


def test_without_a_sentencepiece_model_such_units_only_transcribe(tmp_path, caplog):
    (tmp_path / "units.txt").write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(PIECES)))
    tokenizer = read_tokenizer(read_units(tmp_path / "units.txt"), pieces=find_pieces(tmp_path, None))
    assert "no sentencepiece .model beside it" in caplog.text
    assert tokenizer.decode([6, 0, 5, 7]) == "THE CATS"
    with pytest.raises(ValueError, match="import it again with its sentencepiece .model"):
        check_spells(tokenizer)
