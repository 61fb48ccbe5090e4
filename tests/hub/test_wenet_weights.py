"""WeNet's weights, decoders included, become ours; what does not fit is named. No file of WeNet's is needed."""

from pathlib import Path

import pytest
import torch
import yaml

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.hub.wenet import import_wenet
from hf_asr.hub.wenet_recipe import parse_recipe
from hf_asr.hub.wenet_weights import from_wenet, narrow_subsampling, to_wenet, wenet_names, widen_subsampling

from .wenet_folder import CHARACTERS, PIECES, WIDTH, random_state, wenet_decoder, write_folder

TOKENS = torch.tensor([2, 5, 7, 9, 9, 4])


def change_recipe(folder: Path, section: str, **options: object) -> None:
    values = yaml.safe_load((folder / "train.yaml").read_text())
    values[section] = values.get(section, {}) | options
    (folder / "train.yaml").write_text(yaml.safe_dump(values))


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["rel_pos", "rope_pos"])
@pytest.mark.parametrize("is_both_ways", [False, True], ids=["one decoder", "both directions"])
def test_imported_decoders_compute_wenets_numbers(is_both_ways, positions, tmp_path):
    state = write_folder(tmp_path, is_both_ways=is_both_ways, positions=positions)
    model, _ = import_wenet(tmp_path)
    memory = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(1))
    prefixes = {"decoder.left_decoder": 2, "decoder.right_decoder": 1} if is_both_ways else {"decoder": 2}
    assert len(model.decoders()) == len(prefixes)
    for decoder, (prefix, blocks) in zip(model.decoders(), prefixes.items(), strict=True):
        expected = wenet_decoder(state, prefix, blocks=blocks, tokens=TOKENS, memory=memory)
        padded = torch.cat([memory, torch.ones(3, WIDTH)])[None]
        found = decoder(TOKENS[None], padded, (torch.arange(12) < 9)[None])
        torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_the_options_of_the_decoders_are_imported(tmp_path):
    write_folder(tmp_path)
    change_recipe(tmp_path, "decoder_conf", activation_type="gelu", positional_dropout_rate=0.3)
    config = import_wenet(tmp_path)[0].config
    assert (config.decoder_layers, config.reverse_decoder_layers, config.decoder_attention_heads) == (2, 1, 4)
    assert (config.decoder_intermediate_size, config.decoder_hidden_act) == (40, "gelu")
    assert (config.ctc_weight, config.reverse_weight) == (0.3, 0.3)
    assert (config.bos_token_id, config.eos_token_id) == (2, 2)


@pytest.mark.parametrize("positions", ["rel_pos", "rope_pos"])
def test_each_weight_of_ours_has_other_names_in_wenet_and_comes_back(positions):
    state = random_state(len(CHARACTERS), is_both_ways=True, positions=positions)
    state = {name: value for name, value in state.items() if not name.endswith(".pe")}
    options = {"causal_conv": True, "conv_kernel_size": 8, "conv_bias": True, "reverse_decoder_layers": 1}
    options |= {"decoder_attention_heads": 4, "decoder_intermediate_size": 40, "decoder_layers": 2}
    options |= {"position_embeddings": "absolute" if positions == "rel_pos" else "rotary", "num_hidden_layers": 1}
    config = ConformerConfig(
        vocab_size=len(CHARACTERS), hidden_size=WIDTH, num_attention_heads=2, intermediate_size=24, **options
    )
    converted = from_wenet(state, config)
    again = to_wenet(converted, config)
    assert set(again) == set(state) and all(torch.equal(again[name], state[name]) for name in state)
    ConformerForCTC(config).load_state_dict(converted, strict=True)
    names = [name for own in converted for name in wenet_names(own, config)]
    assert len(names) == len(set(names))


@torch.inference_mode()
def test_rotary_positions_are_wenets(tmp_path):
    """WeNet's rope_pos takes the two halves of a head as real and imaginary part and turns them by the place."""
    write_folder(tmp_path, positions="rope_pos")
    model, _ = import_wenet(tmp_path)
    attention = model.encoder.layers[0].attention
    hidden = torch.randn(1, 12, WIDTH, generator=torch.Generator().manual_seed(2))
    query, key, value = attention.qkv_proj(hidden)[0].view(12, 3, 2, 8).permute(1, 2, 0, 3)  # (2, 12, 8) each
    turns = torch.polar(torch.ones(12, 4), torch.arange(12)[:, None] * 10000.0 ** -(torch.arange(0, 8, 2) / 8))
    query, key = (
        torch.view_as_real(torch.complex(*states.chunk(2, -1)) * turns).transpose(-1, -2).flatten(-2)
        for states in (query, key)
    )
    context = (query @ key.mT * 8**-0.5).softmax(-1) @ value  # (2, 12, 8)
    expected = attention.o_proj(context.transpose(0, 1).flatten(1))
    found, _, _ = attention(hidden, model.encoder._positions(hidden, None), None)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_recording_longer_than_wenets_table_of_5000_positions(tmp_path):
    write_folder(tmp_path)
    model, _ = import_wenet(tmp_path)
    model.config.chunk_size, model.config.num_left_chunks = 100, 1
    features = torch.randn(1, 4 * 5300 + 3, 80, generator=torch.Generator().manual_seed(3))
    masked = model(features).logits
    assert masked.shape[1] == 5300
    cache, parts = model.encoder.empty_cache(), []
    for start in range(0, 4 * 5300, 400):
        output = model(features[:, start : start + model.encoder.frames_of_step()], cache=cache)
        parts.append(output.logits)
        cache = output.cache
    torch.testing.assert_close(torch.cat(parts, 1), masked, atol=1e-4, rtol=0)


def test_other_heads_are_set_aside_by_name(tmp_path, caplog):
    state = write_folder(tmp_path)
    state |= {"predictor.embed.weight": torch.zeros(3, 4), "joint.enc_ffn.weight": torch.zeros(2, 2)}
    torch.save(state | {"joint.enc_ffn.bias": torch.zeros(2)}, tmp_path / "final.pt")
    change_recipe(tmp_path, "model_conf", transducer_weight=0.5, attention_weight=0.3, ctc_weight=0.2)
    values = yaml.safe_load((tmp_path / "train.yaml").read_text())
    values |= {"model": "transducer", "predictor": "rnn", "predictor_conf": {"embed_size": 4}, "joint_conf": {}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    model, _ = import_wenet(tmp_path)
    assert "not imported: predictor (1 weights), joint (2 weights)" in caplog.text
    assert model.config.decoder_layers == 2 and model.config.ctc_weight == pytest.approx(0.4)
    assert torch.equal(model.ctc_head.weight, state["ctc.ctc_lo.weight"])


@pytest.mark.parametrize("change", ["ctc_weight is 1", "no decoder"])
def test_a_decoder_that_was_not_trained_is_set_aside(change, tmp_path, caplog):
    write_folder(tmp_path)
    if change == "ctc_weight is 1":
        change_recipe(tmp_path, "model_conf", ctc_weight=1.0)
    else:
        values = yaml.safe_load((tmp_path / "train.yaml").read_text()) | {"decoder": None}
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    model, _ = import_wenet(tmp_path)
    assert model.decoders() == [] and "not imported: decoder (" in caplog.text


LEFT, RIGHT = "decoder.left_decoder.decoders.1", "decoder.right_decoder"
DAMAGED = {  # part of the message: weights that are added, and one that is removed
    rf"{LEFT}.src_attn.linear_k.weight is missing": ({}, f"{LEFT}.src_attn.linear_k.weight"),
    rf"{RIGHT}.output_layer.bias is missing": ({}, f"{RIGHT}.output_layer.bias"),
    rf"{RIGHT}.decoders.1.norm1.weight, of shape \(16,\), has no place": (
        {f"{RIGHT}.decoders.1.norm1.weight": torch.ones(16)},
        None,
    ),
    rf"{LEFT}.feed_forward.w_1.weight has shape \(39, 16\); by train.yaml it is \(40, 16\)": (
        {f"{LEFT}.feed_forward.w_1.weight": torch.ones(39, 16)},
        None,
    ),
    rf"{RIGHT}.embed.0.weight has shape \(18, 16\); by train.yaml it is \(19, 16\)": (
        {f"{RIGHT}.embed.0.weight": torch.ones(18, 16)},
        None,
    ),
    rf"{LEFT}.norm2.bias' has values that are not finite": ({f"{LEFT}.norm2.bias": torch.full((16,), torch.inf)}, None),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_weights_of_a_decoder_that_do_not_fit_are_errors_with_their_name(message, tmp_path):
    state = write_folder(tmp_path / "wenet")
    added, removed = DAMAGED[message]
    torch.save({k: v for k, v in (state | added).items() if k != removed}, tmp_path / "wenet" / "final.pt")
    with pytest.raises(ValueError, match=message) as raised:
        import_wenet(tmp_path / "wenet", tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["wenet"]  # nothing is half-written


REFUSED = {  # part of the message: section and options
    "decoder: 'sanm_decoder' cannot be imported, only 'transformer', 'bitransformer'": (
        "",
        {"decoder": "sanm_decoder"},
    ),
    "encoder: 'squeezeformer' cannot be imported": ("", {"encoder": "squeezeformer"}),
    "decoder_conf.mlp_type: 'moe'": ("decoder_conf", {"mlp_type": "moe", "n_expert": 4}),
    "decoder_conf.normalize_before: False": ("decoder_conf", {"normalize_before": False}),
    "decoder_conf.use_output_layer: False": ("decoder_conf", {"use_output_layer": False}),
    "decoder_conf.src_attention: False": ("decoder_conf", {"src_attention": False}),
    "decoder_conf.concat_after: True": ("decoder_conf", {"concat_after": True}),
    "decoder_conf.input_layer: 'embed_learnable_pe'": ("decoder_conf", {"input_layer": "embed_learnable_pe"}),
    "decoder_conf.layer_norm_type: 'rms_norm'": ("decoder_conf", {"layer_norm_type": "rms_norm"}),
    "decoder_conf.n_kv_head: 1": ("decoder_conf", {"n_kv_head": 1}),
    "decoder_conf.head_dim: 8": ("decoder_conf", {"head_dim": 8}),
    "decoder_conf.activation_type: 'tanh'": ("decoder_conf", {"activation_type": "tanh"}),
    "decoder_conf.norm_eps is 0.001, but only the encoder's 1e-05": ("decoder_conf", {"norm_eps": 1e-3}),
    "decoder_conf.r_num_blocks must be a whole number of at least 1, not 0": ("decoder_conf", {"r_num_blocks": 0}),
    "decoder_conf.window: 3 is not known here": ("decoder_conf", {"window": 3}),
    "hidden_size 16 is not a multiple of decoder_attention_heads 3": ("decoder_conf", {"attention_heads": 3}),
    "reverse_weight must be between 0 and 1, not 2": ("model_conf", {"reverse_weight": 2}),
    "selfattention_layer_type: 'rope_abs_selfattn' cannot be imported, only 'rel_selfattn'": (
        "encoder_conf",
        {"selfattention_layer_type": "rope_abs_selfattn"},
    ),
    "has <sos>: 2 and <eos>: 3, but only one token for both": (
        "tokenizer_conf",
        {"special_tokens": {"<sos>": 2, "<eos>": 3}},
    ),
    "hf_asr.config.colour: 'red' is not known here": ("hf_asr", {"config": {"colour": "red"}}),
    "hf_asr.feature_extractor.colour: 'red' is not known here": ("hf_asr", {"feature_extractor": {"colour": "red"}}),
    "hf_asr.text_normalization: 'fr'": ("hf_asr", {"text_normalization": "fr"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_option_that_changes_the_outputs_is_refused_by_name(message, tmp_path):
    write_folder(tmp_path / "wenet")
    section, options = REFUSED[message]
    if section:
        change_recipe(tmp_path / "wenet", section, **options)
    else:
        values = yaml.safe_load((tmp_path / "wenet" / "train.yaml").read_text()) | options
        (tmp_path / "wenet" / "train.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message) as raised:
        import_wenet(tmp_path / "wenet", tmp_path / "out")
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["query_bias", "key_bias", "value_bias", "mlp_bias"])
def test_projections_of_a_decoder_without_bias(option, tmp_path):
    state = write_folder(tmp_path)
    parts = {"query_bias": ("_q", "_out"), "key_bias": ("_k",), "value_bias": ("_v",), "mlp_bias": ("w_1", "w_2")}
    names = [
        name
        for name in state
        if name.startswith("decoder.") and name.endswith(tuple(f"{part}.bias" for part in parts[option]))
    ]
    assert len(names) == 3 * (len(parts[option]) if option == "mlp_bias" else 2 * len(parts[option]))
    change_recipe(tmp_path, "decoder_conf", **{option: False})
    with pytest.raises(ValueError, match=f"train.yaml has decoder_conf.{option}: false"):
        import_wenet(tmp_path)
    torch.save({name: value for name, value in state.items() if name not in names}, tmp_path / "final.pt")
    model, _ = import_wenet(tmp_path)
    memory = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(1))
    zeroed = state | {name: torch.zeros_like(state[name]) for name in names}
    expected = wenet_decoder(zeroed, "decoder.left_decoder", blocks=2, tokens=TOKENS, memory=memory)
    torch.testing.assert_close(model.decoder(TOKENS[None], memory[None])[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_a_model_of_pieces_is_imported_with_its_decoders(model_type, tmp_path):
    state = write_folder(tmp_path, units=PIECES, model_type=model_type)
    model, processor = import_wenet(tmp_path)
    ids = processor.tokenizer("the cat's")["input_ids"]
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["▁THE", "▁CAT", "'", "S"]
    assert model.config.eos_token_id == 10
    assert torch.equal(model.reverse_decoder.embed_tokens.weight, state["decoder.right_decoder.embed.0.weight"])


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_a_wider_subsampling_with_a_factor_is_the_same_function(positions):
    """WeNet computes with the wide one, whose additional channels are zero."""
    options = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    options |= {"position_embeddings": positions, "vocab_size": 7}
    config = ConformerConfig(**options, subsampling_channels=5)
    torch.manual_seed(0)
    ours = ConformerForCTC(config).eval()
    state = to_wenet(ours.state_dict(), config)
    widened = widen_subsampling(state, config)
    wide = ConformerConfig(**options, scale_input=True)
    theirs = ConformerForCTC(wide).eval()
    theirs.load_state_dict(from_wenet(widened, wide))
    features = torch.randn(2, 60, 80)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(features).logits, ours(features).logits, atol=1e-5, rtol=0)
    narrowed = narrow_subsampling(widened, config)
    assert all(torch.equal(narrowed[name], value) for name, value in state.items())  # bit for bit
    widened["encoder.embed.conv.2.bias"][7] = 0.1
    with pytest.raises(ValueError, match=r"conv.2.bias uses more than the 5 channels of train.yaml's hf_asr.config"):
        narrow_subsampling(widened, config)


def test_a_recipe_without_a_decoder_has_none():
    assert parse_recipe({"input_dim": 80}, vocab_size=9).config.decoder_layers == 0


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (CHARACTERS[:-1], "units.txt has 18 units, but final.pt's CTC head 19 outputs"),
        ([*CHARACTERS, "好"], "units.txt has 20 units, but final.pt's CTC head 19 outputs"),
        (["a", *CHARACTERS[1:]], "line 5: 'a' has id 4, but 'a' has id 0"),
    ],
)
def test_units_that_do_not_fit_leave_nothing_behind(units, message, tmp_path):
    write_folder(tmp_path / "wenet")
    lines = "".join(f"{unit} {number}\n" for number, unit in enumerate(units))
    (tmp_path / "wenet" / "units.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        import_wenet(tmp_path / "wenet", tmp_path / "out")
    assert "\n" not in str(raised.value) and [path.name for path in tmp_path.iterdir()] == ["wenet"]
