"""Test what transformers offers for every model: hidden states, attentions, attention kernels, a resized vocabulary."""

import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.model.modeling_conformer import ConformerModel

from .test_modeling_conformer import BASE as TWO_LAYERS
from .test_modeling_conformer import build as build_small

BASE = TWO_LAYERS | {"num_hidden_layers": 3}
BLOCKS = pytest.mark.parametrize("block_type", ["conformer", "e_branchformer"])


def build(**options) -> ConformerForCTC:
    return build_small(**(BASE | options))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([120, 61])
    return {
        "input_features": torch.randn(2, 120, 80, generator=generator) * 3,
        "attention_mask": (torch.arange(120) < lengths[:, None]).long(),
        "labels": torch.tensor([[3, 4, 5], [6, -100, -100]]),
    }


@BLOCKS
def test_hidden_states_are_the_inputs_of_the_layers(batch, block_type):
    model = build(block_type=block_type)
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        output = model(**batch, output_hidden_states=True)
        encoded = model.encoder(batch["input_features"], batch["attention_mask"], output_hidden_states=True)
        plain = model(**batch)
    assert len(output.hidden_states) == len(encoded.hidden_states) == 1 + 3
    for state, expected in zip(output.hidden_states[:-1], seen, strict=False):
        assert state.shape == (2, 29, 32) and torch.equal(state, expected)
    assert torch.equal(output.hidden_states[-1], encoded.last_hidden_state)
    torch.testing.assert_close(output.logits, plain.logits, atol=0, rtol=0)
    assert plain.hidden_states is None and plain.attentions is None


@BLOCKS
@pytest.mark.parametrize("position_embeddings", ["rotary", "absolute"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attentions_are_the_weights_of_the_attention_output(batch, block_type, position_embeddings, implementation):
    model = build(block_type=block_type, position_embeddings=position_embeddings)
    model.set_attn_implementation(implementation)
    with torch.inference_mode():
        output = model(**batch, output_attentions=True)
        torch.testing.assert_close(output.logits, model(**batch).logits, atol=1e-5, rtol=0)
    assert len(output.attentions) == 3
    for weights in output.attentions:
        assert weights.shape == (2, 2, 29, 29)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 29))
        frames = int(model.get_output_lengths(torch.tensor(61)))
        assert (weights[1, :, :, frames:] == 0).all() and (weights[0] > 0).all()
    # The weights times the values, projected, are the attention's output.
    attention, seen = model.encoder.layers[0].attention, {}
    attention.qkv_proj.register_forward_hook(lambda _, __, out: seen.update(qkv=out))
    attention.register_forward_hook(lambda _, __, out: seen.update(out=out[0]))
    with torch.inference_mode():
        model(**batch)
        value = seen["qkv"].unflatten(-1, (3, 2, 16))[:, :, 2].transpose(1, 2)
        expected = attention.o_proj((output.attentions[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen["out"], expected, atol=1e-5, rtol=1e-4)


def test_configuration_can_request_hidden_states_and_attentions(batch):
    config = ConformerConfig(**BASE, output_hidden_states=True, attn_implementation="eager")
    config.output_attentions = True
    with torch.inference_mode():
        output = ConformerForCTC(config).eval()(**batch)
        assert len(output.hidden_states) == 4 and len(output.attentions) == 3
        encoded = ConformerModel(config).eval()(batch["input_features"])
        assert len(encoded.hidden_states) == 4 and len(encoded.attentions) == 3
        few = ConformerForCTC(config).eval()(**batch, output_hidden_states=False, output_attentions=False)
        assert few.hidden_states is None and few.attentions is None


def test_return_dict_false_gives_the_same_values_as_a_tuple(batch):
    model = build()
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        output, parts = model(**batch, **options), model(**batch, **options, return_dict=False)
        assert len(parts) == 4 and torch.equal(parts[0], output.loss) and torch.equal(parts[1], output.logits)
        assert len(parts[2]) == 4 and torch.equal(parts[2][-1], output.hidden_states[-1])
        assert len(parts[3]) == 3 and torch.equal(parts[3][0], output.attentions[0])
        states, hidden, attentions, mask = model.encoder(
            batch["input_features"], batch["attention_mask"], **options, return_dict=False
        )
        assert states is hidden[-1] and len(attentions) == 3 and mask.dtype == torch.bool
        model.config.return_dict = False
        assert isinstance(model(**batch), tuple)


def test_outputs_have_one_copy_of_the_batch_with_consistency_loss(batch):
    """Check that outputs have the batch size of the inputs, although CR-CTC trains on two copies of the batch."""
    model = build(consistency_weight=0.2).train()
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert {len(part) for part in (*output.hidden_states, *output.attentions, output.logits)} == {2}


def test_gradient_checkpointing_returns_hidden_states_and_attentions(batch):
    model = build().train()
    expected = model(**batch, output_hidden_states=True, output_attentions=True)
    model.gradient_checkpointing_enable()
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    output.loss.backward()
    torch.testing.assert_close(output.hidden_states, expected.hidden_states)
    torch.testing.assert_close(output.attentions, expected.attentions)


def test_eager_and_sdpa_give_equal_gradients_and_use_their_own_kernels(batch, monkeypatch):
    gradients, calls, fused = {}, [], torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **options):
        calls.append(1)
        return fused(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    for implementation in ("sdpa", "eager"):
        model = build(decoder_layers=1).train()
        model.set_attn_implementation(implementation)
        calls.clear()
        model(**batch).loss.backward()
        assert len(calls) == {"sdpa": 3 + 2, "eager": 0}[implementation]
        gradients[implementation] = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(gradients["sdpa"], gradients["eager"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention", "paged|eager", "einsum"])
def test_unsupported_attention_implementation_is_an_error(tmp_path, implementation):
    model = build()
    with pytest.raises(ValueError, match="attn_implementation must be 'sdpa' or 'eager', not"):
        model.set_attn_implementation(implementation)
    assert model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="attn_implementation must be 'sdpa' or 'eager', not"):
        ConformerForCTC.from_pretrained(tmp_path, attn_implementation=implementation)
    assert ConformerForCTC.from_pretrained(tmp_path, attn_implementation="eager").config._attn_implementation == "eager"


@pytest.mark.parametrize("decoders", [(), ("decoder",), ("decoder", "reverse_decoder")])
def test_resized_vocabulary_keeps_its_rows_and_trains(batch, tmp_path, decoders):
    model = build(**{f"{name}_layers": 1 for name in decoders})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(**batch).logits
    head = model.resize_token_embeddings(15)
    assert head is model.ctc_head is model.get_output_embeddings() and model.config.vocab_size == 15
    resized = {"ctc_head.weight", "ctc_head.bias"}
    for name in decoders:
        resized |= {f"{name}.lm_head.weight", f"{name}.lm_head.bias", f"{name}.embed_tokens.weight"}
    for name, value in model.state_dict().items():
        assert len(value) == 15 if name in resized else value.shape == before[name].shape
        assert torch.equal(value[:12] if name in resized else value, before[name]), name
    with torch.inference_mode():
        torch.testing.assert_close(model(**batch).logits[..., :12], logits, atol=1e-5, rtol=0)
    batch["labels"][0, 0] = 14
    model.train()(**batch).loss.backward()
    assert model.ctc_head.weight.grad[14].any()
    model.save_pretrained(tmp_path)
    loaded = ConformerForCTC.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == loaded.ctc_head.out_features == 15
    # Make it smaller, round it up, and leave it unchanged.
    assert model.resize_token_embeddings(9).out_features == 9
    assert model.resize_token_embeddings(pad_to_multiple_of=8).out_features == 16
    assert model.resize_token_embeddings() is model.ctc_head
    assert torch.equal(model.ctc_head.weight[:9], before["ctc_head.weight"][:9])
    with pytest.raises(ValueError, match="lacks the special token 2: use 3 or more"):
        model.resize_token_embeddings(2)


def test_input_embeddings_are_the_decoders():
    model = build(decoder_layers=1)
    assert model.get_input_embeddings() is model.decoder.embed_tokens
    new = torch.nn.Embedding(12, 32)
    model.set_input_embeddings(new)
    assert model.decoder.embed_tokens is new
    with pytest.raises(NotImplementedError, match="without a decoder has no token embedding"):
        build().get_input_embeddings()
