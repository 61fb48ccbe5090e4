import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from hf_asr import ConformerConfig
from hf_asr.model.layers_conformer import (
    ConformerDropout,
    ConformerSubsampling,
    SharedRowsLinear,
    apply_rotary,
    attend,
    rotary_embedding,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.002, 0.1, 0.5])
def test_dropout_has_mean_rate_p_and_scales_kept_elements(p, dtype):
    torch.manual_seed(0)
    dropout, ones = ConformerDropout(p), torch.ones(16, 999, dtype=dtype)
    calls = torch.stack([dropout(ones) for _ in range(200)]).float()
    assert (calls == 0).float().mean().item() == pytest.approx(p, abs=6e-4)
    for call in calls:
        kept = call[call > 0]
        assert (kept == kept[0]).all()
        # The factor is 1 / (1 - q), where q is a multiple of 1/256 next to p.
        assert 1 / kept[0].item() == pytest.approx(1 - p, abs=1 / 256 + 0.004 * (1 - p))


def test_dropout_is_reproducible_and_passes_gradients_of_kept_elements():
    dropout, values = ConformerDropout(0.3), torch.randn(7, 13, requires_grad=True)
    torch.manual_seed(1)
    first = dropout(values)
    first.sum().backward()
    torch.manual_seed(1)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(dropout(values), first)
    assert torch.allclose(values.grad * values, first)


def test_dropout_changes_nothing_in_inference():
    values = torch.randn(5, 5)
    assert ConformerDropout(0.3).eval()(values) is values


def test_rotary_embedding_equals_llamas():
    config = ConformerConfig(hidden_size=32, num_attention_heads=2)
    states = torch.randn(3, 50, 2, config.head_dim)  # (B, S, H, K)
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    angles = torch.arange(50)[:, None] * config.rope_theta**-exponents
    angles = torch.cat([angles, angles], -1)  # (S, K)
    expected, _ = apply_rotary_pos_emb(states, states, angles.cos(), angles.sin(), unsqueeze_dim=1)
    found = apply_rotary(states, rotary_embedding(config, num_frames=50, device=torch.device("cpu")))
    assert torch.allclose(found, expected, atol=1e-5)


def test_bf16_training_attention_equals_the_fused_kernel():
    torch.manual_seed(0)
    states = torch.randn(3, 2, 4, 50, 16)
    mask = torch.arange(50) < torch.tensor([50, 31, 1])[:, None, None, None]  # (B, 1, 1, S)
    gradients, outputs = [], []
    for dtype in (torch.float32, torch.bfloat16):
        query, key, value = (part.to(dtype).requires_grad_() for part in (states[:, 0], states[:, 1], states.sum(1)))
        output, _ = attend(query, key, value, mask=mask, dropout=0.0, scale=0.25)
        output.float().square().sum().backward()
        outputs.append(output.float())
        gradients.append([part.grad.float() for part in (query, key, value)])
    assert torch.allclose(*outputs, atol=0.05)
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() <= 0.02 * exact.norm()
    assert (gradients[1][1][2, :, 1:] == 0).all()  # masked keys get no gradient


def test_a_few_frames_are_subsampled_like_many():
    """For a live chunk the frames are reordered, for long recordings the weight of the projection is."""
    torch.manual_seed(0)
    subsampling = ConformerSubsampling(ConformerConfig(vocab_size=10, hidden_size=16, subsampling_channels=4)).eval()
    few = torch.randn(1, 47, 80)  # 11 frames at the output, fewer than the hidden size
    with torch.no_grad():
        alone, many = subsampling(few), subsampling(few.expand(4, -1, -1))
    assert torch.allclose(alone.expand(4, -1, -1), many, atol=1e-6)


def test_rows_of_the_same_sound_learn_from_each_other():
    torch.manual_seed(0)
    layer, states = SharedRowsLinear(8, 4, num_shared=3), torch.randn(2, 5, 8)
    layer.share(torch.tensor([[0, 0, 0, 0, 0], [1, 2, 0, 0, 0], [1, 3, 0, 0, 0], [3, 0, 0, 0, 0]]))
    torch.nn.init.normal_(layer.shared)
    rows = [layer.weight[0], layer.weight[1] + layer.shared[1] + layer.shared[2]]
    torch.testing.assert_close(layer(states)[..., :2], states @ torch.stack(rows).T + layer.bias[:2])
    layer(states)[..., 1].sum().backward()
    assert layer.shared.grad.any(1).tolist() == [False, True, True, False]  # row 1 also changes row 2


def test_merged_rows_have_the_same_outputs():
    torch.manual_seed(0)
    layer, states = SharedRowsLinear(8, 4, num_shared=3), torch.randn(2, 5, 8)
    layer.share(torch.randint(4, (4, layer.SHARES)))
    torch.nn.init.normal_(layer.shared)
    merged = layer.merged()
    assert type(merged) is torch.nn.Linear and torch.equal(merged(states), layer(states))
    assert {name for name, _ in merged.named_parameters()} == {"weight", "bias"}


def test_an_adapter_of_the_subsampling_acts_on_any_number_of_frames():
    class Adapted(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) + 1

    torch.manual_seed(0)
    layer = ConformerSubsampling(ConformerConfig(hidden_size=16, subsampling_channels=4)).eval()
    features = torch.randn(4, 200, 80)
    expected = layer(features) + 1
    layer.out.__class__ = Adapted
    assert torch.allclose(layer(features), expected, atol=1e-5)
