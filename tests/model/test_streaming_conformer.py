"""A step through the cache equals the masked full pass, whatever the chunks, the offset and the other streams are."""

import itertools

import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.model.streaming_conformer import StreamingCache, chunk_mask, draw_chunk

SIZES = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
TEN_HOURS = 10 * 3600 * 25  # in encoder frames of 40 ms


def build(**options) -> ConformerForCTC:
    torch.manual_seed(0)
    config = {"causal_conv": True, "conv_kernel_size": 8, "chunk_size": 4, "num_left_chunks": 2}
    return ConformerForCTC(ConformerConfig(**(SIZES | config | options))).eval()


def noise(model: ConformerForCTC, *, frames: int, batch: int = 1) -> torch.Tensor:
    """Return features that give `frames` encoder frames."""
    return torch.randn(batch, model.encoder.min_frames + model.config.subsampling_factor * (frames - 1), 80)


@torch.inference_mode()
def stream(
    model: ConformerForCTC, features: torch.Tensor, *, num_chunks: int = 1, cache: StreamingCache | None = None
) -> torch.Tensor:
    """Return the logits of features that are streamed in steps of `num_chunks` chunks."""
    cache = model.encoder.empty_cache(len(features)) if cache is None else cache
    hop = num_chunks * model.config.chunk_size * model.config.subsampling_factor
    size, parts = model.encoder.frames_of_step(num_chunks), []
    for start in range(0, features.shape[1] - model.encoder.min_frames + 1, hop):
        output = model(features[:, start : start + size], cache=cache)
        parts.append(output.logits)
        cache = output.cache
    return torch.cat(parts, 1)


@pytest.mark.parametrize("positions", ["rotary", "absolute"])
@pytest.mark.parametrize(("chunk_size", "num_left_chunks"), itertools.product([1, 4, 16], [0, 1, 3, -1]))
def test_streamed_equals_masked(chunk_size, num_left_chunks, positions):
    model = build(chunk_size=chunk_size, num_left_chunks=num_left_chunks, position_embeddings=positions)
    features = noise(model, frames=7 * chunk_size - chunk_size // 2, batch=2)  # the last chunk is not whole
    with torch.inference_mode():
        masked = model(features).logits
    torch.testing.assert_close(stream(model, features), masked, rtol=0, atol=1e-5)
    torch.testing.assert_close(stream(model, features, num_chunks=3), masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"conv_bias": True}, {"conv_norm": "batch_norm"}, {"subsampling_factor": 8}, {"conv_kernel_size": 1}]
)
def test_streamed_equals_masked_for_other_layers(options):
    model = build(**options)
    features = noise(model, frames=18)
    with torch.inference_mode():
        masked = model(features).logits
    torch.testing.assert_close(stream(model, features), masked, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_without_a_chunk_size_a_step_is_one_chunk():
    model = build()
    features = noise(model, frames=28)
    expected, cache = stream(model, features), model.encoder.empty_cache()
    size, model.config.chunk_size = model.encoder.frames_of_step(), -1
    parts = []
    for start in range(0, 16 * 7, 16):
        output = model(features[:, start : start + size], cache=cache)
        parts.append(output.logits)
        cache = output.cache
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-5)


def test_streamed_equals_masked_in_bf16():
    model = build().to(torch.bfloat16)
    features = noise(model, frames=18)
    with torch.inference_mode():
        masked = model(features).logits
    torch.testing.assert_close(stream(model, features), masked, rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ten_hours_later_the_logits_are_the_same(dtype):
    model = build().to(dtype)
    features = noise(model, frames=24)
    warm = model.encoder.empty_cache()
    late = warm._replace(offset=warm.offset + TEN_HOURS)
    # After as many frames as three layers reach to the left, what was before the first of them has no influence.
    early, later = stream(model, features, cache=warm), stream(model, features, cache=late)
    model.config.num_left_chunks = 0  # and without cached frames the first logits are the same too
    torch.testing.assert_close(
        stream(model, features), stream(model, features, cache=late._replace(attention=late.attention[:, :, :, :0]))
    )
    assert early.isfinite().all() and later.isfinite().all()


@torch.inference_mode()
def test_streams_at_different_offsets_in_a_batch():
    model = build()
    first, second = noise(model, frames=24), noise(model, frames=16)
    alone = [stream(model, features) for features in (first, second)]
    size, hop = model.encoder.frames_of_step(), 16
    cache, found = model.encoder.empty_cache(), [[], []]
    for step in range(6):
        if step == 2:  # the second stream joins
            new = model.encoder.empty_cache()
            cache = StreamingCache(*(torch.cat([cache[i], new[i]], dim) for i, dim in enumerate((1, 1, 0))))
        parts = [first[:, hop * step :][:, :size]]
        if step >= 2:
            parts.append(second[:, hop * (step - 2) :][:, :size])
        output = model(torch.cat(parts), cache=cache)
        cache = output.cache
        for logits, into in zip(output.logits, found, strict=False):
            into.append(logits)
    assert cache.offset.tolist() == [24, 16]
    for logits, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(torch.cat(logits), expected[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_padding_does_not_change_the_last_step():
    model = build()
    features = noise(model, frames=3, batch=2)
    mask = torch.ones(features.shape[:2], dtype=torch.long)
    mask[1, 7:] = 0  # one encoder frame
    padded = model(features, mask, cache=model.encoder.empty_cache(2)).logits
    alone = model(features[1:, :7], cache=model.encoder.empty_cache()).logits
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[1:, :1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_does_not_change_chunks(attention):
    model = build()
    model.set_attn_implementation(attention)
    features = noise(model, frames=20, batch=2)
    mask = torch.ones(features.shape[:2], dtype=torch.long)
    mask[1, 30:] = 0
    with torch.inference_mode():
        logits = model(features, mask).logits
        alone = model(features[1:, :30]).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[1:, : alone.shape[1]], alone, rtol=0, atol=1e-5)


def test_a_frame_depends_on_its_chunk_and_the_left_chunks_only():
    model = build(num_hidden_layers=1, conv_kernel_size=1, num_left_chunks=1)
    features = noise(model, frames=12).requires_grad_()
    model(features).logits[0, 6].sum().backward()  # in the second of three chunks
    frames = features.grad[0].abs().sum(-1).nonzero().flatten()
    assert (frames.min().item(), frames.max().item()) == (0, 4 * 7 + 6)
    features.grad = None
    model(features).logits[0, 9].sum().backward()  # in the third one
    assert features.grad[0].abs().sum(-1).nonzero().min().item() == 4 * 4


def test_chunk_mask():
    places = torch.arange(6)
    mask = chunk_mask(places, places, chunk_size=2, num_left_chunks=1)
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]
    assert chunk_mask(places, places, chunk_size=-1, num_left_chunks=0).all()


def test_training_draws_chunks():
    torch.manual_seed(0)
    config = ConformerConfig(causal_conv=True, use_dynamic_chunk=True)
    drawn = [draw_chunk(config, num_frames=50) for _ in range(2000)]
    assert 0.45 < sum(chunk == (-1, -1) for chunk in drawn) / len(drawn) < 0.55
    chunks = [chunk for chunk in drawn if chunk != (-1, -1)]
    assert {size for size, _ in chunks} == set(range(1, 26))
    assert {left for size, left in chunks if size == 25} == {0, 1}
    config = ConformerConfig(
        causal_conv=True,
        use_dynamic_chunk=True,
        full_context_probability=0,
        dynamic_chunk_sizes=[8],
        dynamic_left_chunks=[-1, 4],
    )
    assert {draw_chunk(config, num_frames=50) for _ in range(100)} == {(8, -1), (8, 4)}


def test_training_uses_chunks_and_inference_those_of_the_configuration():
    options = {
        "use_dynamic_chunk": True,
        "full_context_probability": 0,
        "dynamic_chunk_sizes": [2],
        "dynamic_left_chunks": [0],
    }
    no_noise = {"hidden_dropout": 0.0, "activation_dropout": 0.0, "apply_spec_augment": False}
    model = build(**options, **no_noise, chunk_size=-1)
    features = noise(model, frames=8)
    with torch.inference_mode():
        full = model(features).logits
        model.config.chunk_size, model.config.num_left_chunks = 2, 0
        chunks = model(features).logits
        model.config.chunk_size = -1
        trained = model.train()(features).logits
    assert not torch.allclose(full, chunks)
    torch.testing.assert_close(trained, chunks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dynamic_chunk": True}, "needs causal_conv"),
        ({"use_dynamic_chunk": True, "causal_conv": True, "block_type": "e_branchformer"}, "needs block_type"),
        ({"chunk_size": 0}, "chunk_size must be 1 or more"),
        ({"num_left_chunks": -2}, "num_left_chunks must be 0 or more"),
        ({"dynamic_chunk_sizes": [0]}, "dynamic_chunk_sizes must be 1 or more"),
        ({"dynamic_left_chunks": [-2]}, "dynamic_left_chunks must be -1 or more"),
        ({"full_context_probability": 1.5}, "full_context_probability must be between 0 and 1"),
    ],
)
def test_impossible_chunks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConformerConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": -1}, "streaming needs a chunk_size"),
        ({"causal_conv": False, "conv_kernel_size": 7}, "causal_conv"),
        ({"block_type": "e_branchformer"}, "block_type"),
    ],
)
def test_a_model_that_cannot_stream_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options).encoder.empty_cache()
