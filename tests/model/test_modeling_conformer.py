import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.model.modeling_conformer import spec_augment

BASE = {
    "vocab_size": 12,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "subsampling_channels": 8,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "apply_spec_augment": False,
}
VARIANTS = {
    "4x": {},
    "6x": {"subsampling_factor": 6},
    "8x": {"subsampling_factor": 8},
    "depthwise": {"subsampling_factor": 8, "subsampling_depthwise": True},
    "causal": {"causal_conv": True, "conv_kernel_size": 8},
    "expanded": {"conv_expansion_factor": 2, "head_dim": 24},
    "absolute": {"position_embeddings": "absolute", "scale_input": True},
}
LENGTHS = [200, 37, 113, 150]


def build(**options) -> ConformerForCTC:
    torch.manual_seed(0)
    return ConformerForCTC(ConformerConfig(**(BASE | options))).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Ragged features whose padding is not zero, and ragged labels."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(LENGTHS), max(LENGTHS), 80, generator=generator) * 3
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    labels = torch.randint(3, 12, (len(LENGTHS), 6), generator=generator)
    labels[1, 2:] = -100
    labels[3, 4:] = -100
    return {"input_features": features, "attention_mask": mask, "labels": labels}


def gradients(model: ConformerForCTC) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_padded_is_alone(batch, options):
    model = build(**options)
    with torch.inference_mode():
        logits = model(batch["input_features"], batch["attention_mask"]).logits
        for i, length in enumerate(LENGTHS):
            alone = model(batch["input_features"][i : i + 1, :length]).logits[0]
            assert len(alone) == int(model.get_output_lengths(torch.tensor(length)))
            torch.testing.assert_close(logits[i, : len(alone)], alone, atol=1e-5, rtol=0)
            assert (logits[i, len(alone) :].argmax(-1) == 0).all()  # padding is blank


def test_micro_batches_are_one_batch(batch):
    """Ragged micro-batches of three and one utterances, divided by the tokens of both."""
    model = build()
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    tokens = (batch["labels"] >= 0).sum()
    for part in (slice(0, 3), slice(3, 4)):
        model(**{key: value[part] for key, value in batch.items()}, num_items_in_batch=tokens).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_loss_is_the_likelihood_by_token(batch):
    model = build()
    output = model(**batch)
    log_probs = output.logits.log_softmax(-1)
    total = 0.0
    for i, length in enumerate(LENGTHS):
        frames = int(model.get_output_lengths(torch.tensor(length)))
        labels = batch["labels"][i][batch["labels"][i] >= 0]
        total += torch.nn.functional.ctc_loss(
            log_probs[i, :frames], labels, torch.tensor(frames), torch.tensor(len(labels)), reduction="sum"
        )
    torch.testing.assert_close(output.loss, total / (batch["labels"] >= 0).sum())


def test_an_utterance_shorter_than_a_frame_does_no_harm(batch):
    model = build().train()
    batch["attention_mask"][1, 3:] = 0
    output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss) and torch.isfinite(output.logits).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())
    assert build()(batch["input_features"][:, :3]).logits.shape == (4, 1, 12)


def test_an_empty_transcript_costs_the_likelihood_of_silence(batch):
    model = build()
    batch |= {"labels": torch.zeros(len(LENGTHS), 0, dtype=torch.long)}
    output = model(**batch)
    silence = output.logits.log_softmax(-1)[..., 0]
    torch.testing.assert_close(output.loss, -silence.sum())  # frames of padding are blank for certain


@pytest.mark.parametrize("factor", [4, 6, 8])
def test_output_lengths_are_those_of_the_convolutions(factor):
    model = build(subsampling_factor=factor)
    for length in range(model.encoder.min_frames, 60):
        frames = model.encoder.subsampling(torch.zeros(1, length, 80)).shape[1]
        assert int(model.get_output_lengths(torch.tensor(length))) == frames
    assert model.get_output_lengths(torch.arange(model.encoder.min_frames)).tolist() == [0] * model.encoder.min_frames


def test_gradient_checkpointing_changes_no_gradient(batch):
    model = build().train()
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_position_matters():
    model = build(num_hidden_layers=1)
    features = torch.randn(1, 160, 80, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        swapped = torch.cat([features[:, 80:], features[:, :80]], 1)
        assert not torch.allclose(model(features).logits[0, 5], model(swapped).logits[0, 25], atol=1e-3)


def test_spec_augment_in_training_only_and_inside_the_utterance(batch):
    model = build(apply_spec_augment=True)
    with torch.inference_mode():
        torch.testing.assert_close(model(**batch).logits, model(**batch).logits, atol=0, rtol=0)
        model.train()
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
    config = ConformerConfig(num_freq_masks=0, num_time_masks=3, time_mask_ratio=0.2)
    lengths = torch.tensor(LENGTHS)
    shares = []
    for _ in range(50):
        masked = spec_augment(torch.ones(4, 200, 80), lengths, config)
        assert all((masked[i, length:] == 1).all() for i, length in enumerate(LENGTHS))
        shares.append(torch.stack([1 - masked[i, :length].mean() for i, length in enumerate(LENGTHS)]))
    assert 0.1 < torch.stack(shares).mean() < 0.4
    assert (torch.stack(shares).amax(0) <= 3 * 0.2 + 1e-6).all()


def test_normalisation_is_float32_in_a_bf16_model(tmp_path):
    build().save_pretrained(tmp_path)
    model = ConformerForCTC.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.encoder.feature_mean.dtype == torch.float32
    assert model(torch.randn(1, 50, 80)).logits.dtype == torch.bfloat16


def test_what_is_wrong_is_said(batch):
    batch["labels"][0, 0] = 12
    with pytest.raises(ValueError, match="labels hold 12, but the model's vocab_size is 12"):
        build()(**batch)
    for options, message in (
        ({"subsampling_factor": 5}, "4, 6 or 8, not 5"),
        ({"conv_kernel_size": 8}, "must be odd unless causal_conv"),
        ({"hidden_size": 33}, "no multiple of num_attention_heads"),
        ({"conv_norm": "rms"}, "'layer_norm' or 'batch_norm'"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**options)
