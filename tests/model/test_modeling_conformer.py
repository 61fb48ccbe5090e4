import pytest
import torch
import torch.nn.functional as F

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.checkpoint import load_checkpoint
from hf_asr.model.decoder_conformer import reverse_labels
from hf_asr.model.layers_conformer import set_regularization
from hf_asr.model.losses_conformer import ctc_loss
from hf_asr.model.spec_augment_conformer import spec_augment

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
    "e_branchformer": {"block_type": "e_branchformer"},
    "causal e_branchformer": {"block_type": "e_branchformer", "causal_conv": True},
}
LENGTHS = [200, 37, 113, 150]


def build(**options) -> ConformerForCTC:
    """Return a small model with random weights from a fixed seed."""
    torch.manual_seed(0)
    return ConformerForCTC(ConformerConfig(**(BASE | options))).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Return features of different lengths, whose padding is not zero, with labels of different lengths."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(LENGTHS), max(LENGTHS), 80, generator=generator) * 3
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    labels = torch.randint(3, 12, (len(LENGTHS), 6), generator=generator)
    labels[1, 2:] = -100
    labels[3, 4:] = -100
    return {"input_features": features, "attention_mask": mask, "labels": labels}


def gradients(model: ConformerForCTC) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter by its name."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_padding_does_not_change_logits(batch, options):
    model = build(**options)
    with torch.inference_mode():
        logits = model(batch["input_features"], batch["attention_mask"]).logits
        for i, length in enumerate(LENGTHS):
            alone = model(batch["input_features"][i : i + 1, :length]).logits[0]
            assert len(alone) == int(model.get_output_lengths(torch.tensor(length)))
            torch.testing.assert_close(logits[i, : len(alone)], alone, atol=1e-5, rtol=0)
            assert (logits[i, len(alone) :].argmax(-1) == 0).all()  # padded frames predict the blank


TRAINING_OPTIONS = {
    "none": {},
    "decoder": {"decoder_layers": 2, "ctc_weight": 0.4},
    "both decoders": {"decoder_layers": 1, "reverse_decoder_layers": 2, "reverse_weight": 0.4},
    "smoothing": {"label_smoothing": 0.1, "decoder_layers": 1},
    "consistency": {"consistency_weight": 0.2},
    "delay": {"delay_penalty": 0.1},
    "intermediate": {"intermediate_ctc_layers": [1]},
    "e_branchformer": {"block_type": "e_branchformer", "intermediate_ctc_layers": [1], "label_smoothing": 0.1},
}


@pytest.mark.parametrize("options", TRAINING_OPTIONS.values(), ids=TRAINING_OPTIONS)
def test_micro_batches_give_the_gradient_of_one_batch(batch, options):
    """Compare a batch with micro-batches of three utterances and one; the loss is divided by the tokens of all four."""
    model = build(**options).train()
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    tokens = (batch["labels"] >= 0).sum()
    for part in (slice(0, 3), slice(3, 4)):
        model(**{key: value[part] for key, value in batch.items()}, num_items_in_batch=tokens).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_ctc_weight_shares_the_loss_with_the_decoder(batch):
    losses = {weight: build(decoder_layers=1, ctc_weight=weight).train()(**batch).loss for weight in (1.0, 0.5, 0.0)}
    torch.testing.assert_close(losses[0.5], (losses[1.0] + losses[0.0]) / 2)
    plain = build()
    plain.load_state_dict(build(decoder_layers=1).state_dict(), strict=False)
    torch.testing.assert_close(losses[1.0], plain.train()(**batch).loss)


def test_the_second_decoder_learns_the_reversed_transcript_with_its_share_of_the_loss(batch):
    options = {"decoder_layers": 1, "reverse_decoder_layers": 1, "ctc_weight": 0.0}
    losses = {weight: build(**options, reverse_weight=weight)(**batch).loss for weight in (0.0, 0.3, 1.0)}
    torch.testing.assert_close(losses[0.3], 0.7 * losses[0.0] + 0.3 * losses[1.0])
    model = build(**options)
    plain = build(decoder_layers=1, ctc_weight=0.0)
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(losses[0.0], plain(**batch).loss)
    plain.decoder.load_state_dict(model.reverse_decoder.state_dict())
    reverse = torch.tensor([[*row[row >= 0].flip(0), *row[row < 0]] for row in batch["labels"]])
    torch.testing.assert_close(losses[1.0], plain(**batch | {"labels": reverse}).loss)


def test_labels_are_reversed_before_their_padding():
    labels = torch.tensor([[5, 7, 9], [4, 6, -100], [-100, -100, -100]])
    assert reverse_labels(labels).tolist() == [[9, 7, 5], [6, 4, -100], [-100, -100, -100]]


def test_the_decoders_options_are_the_encoders_by_default():
    model = build(decoder_layers=1, head_dim=24, hidden_act="gelu")
    (layer,) = model.decoder.layers
    attention, feed_forward = layer.cross_attention, layer.feed_forward
    assert (attention.num_heads, attention.q_proj.out_features, attention.scale) == (2, 48, 24**-0.5)
    assert feed_forward.up_proj.out_features == 64
    assert type(feed_forward.activation) is type(model.encoder.layers[0].feed_forward1.activation)
    options = {"decoder_attention_heads": 4, "decoder_intermediate_size": 40, "decoder_hidden_act": "relu"}
    model = build(decoder_layers=1, head_dim=24, **options)
    (layer,) = model.decoder.layers
    attention, feed_forward = layer.self_attention, layer.feed_forward
    assert (attention.num_heads, attention.q_proj.out_features, attention.scale) == (4, 32, 8**-0.5)
    assert (feed_forward.up_proj.out_features, float(feed_forward.activation(torch.tensor(-1.0)))) == (40, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reverse_decoder_layers": 1}, "reverse_decoder_layers 1 needs decoder_layers of 1 or more"),
        ({"reverse_weight": 1.5}, "reverse_weight must be between 0 and 1, not 1.5"),
        ({"decoder_attention_heads": 3}, "hidden_size 32 is not a multiple of decoder_attention_heads 3"),
    ],
)
def test_impossible_decoders_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_decoder_ignores_padding_and_future_tokens(batch):
    model = build(decoder_layers=2)
    memory = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(9) < torch.tensor([9, 5])[:, None]
    inputs = torch.tensor([[2, 5, 6, 7], [2, 8, 9, 5]])
    with torch.inference_mode():
        logits = model.decoder(inputs, memory, mask)
        torch.testing.assert_close(logits[1], model.decoder(inputs[1:], memory[1:, :5])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(logits[:, :2], model.decoder(inputs[:, :2], memory, mask), atol=1e-5, rtol=0)


def test_consistency_loss_is_zero_for_equal_copies_and_linear_in_its_weight(batch):
    """Check that equal copies (no dropout, no masks) give the CTC loss, and that masked copies give a higher loss."""
    torch.testing.assert_close(build(consistency_weight=0.2).train()(**batch).loss, build().train()(**batch).loss)

    def loss(weight: float) -> torch.Tensor:
        model = build(consistency_weight=weight, apply_spec_augment=True, time_mask_ratio=0.2).train()
        torch.manual_seed(5)
        return model(**batch).loss

    tiny, twice, full = loss(1e-9), loss(0.1), loss(0.2)
    assert full > tiny
    torch.testing.assert_close(full - tiny, 2 * (twice - tiny), atol=1e-4, rtol=1e-3)  # linear in its weight
    assert build(consistency_weight=0.2).train()(**batch).logits.shape[0] == len(LENGTHS)


def test_intermediate_layers_share_the_ctc_loss(batch):
    deep = {"num_hidden_layers": 3}
    whole = build(**deep, intermediate_ctc_layers=[1, 2], intermediate_ctc_weight=0.25).train()(**batch).loss
    losses = []
    for layers in (1, 2, 3):
        model = build(**deep)
        model.encoder.layers = model.encoder.layers[:layers]
        losses.append(model.train()(**batch).loss)
    torch.testing.assert_close(whole, 0.75 * losses[2] + 0.25 * (losses[0] + losses[1]) / 2)


def test_phonemes_replace_the_tokens_of_the_intermediate_losses(batch):
    options = {"intermediate_ctc_layers": [1], "intermediate_ctc_weight": 0.25, "consistency_weight": 0.2}
    model = build(**options, phoneme_language="en", phonemes=["a", "b", "c"]).train()
    with pytest.raises(ValueError, match="phoneme_ids: .* need them"):
        model(**batch)
    phoneme_ids = torch.where(batch["labels"] < 0, -100, 1 + batch["labels"] % 3)
    whole = model(**batch, phoneme_ids=phoneme_ids).loss
    plain = build(**options).train()
    plain.load_state_dict(model.state_dict(), strict=False)
    tokens_only = plain(**batch).loss
    states = model.encoder(batch["input_features"], batch["attention_mask"])
    sums = []
    for head, labels in ((model.phoneme_head, phoneme_ids), (model.ctc_head, batch["labels"])):
        log_probs = head(states.intermediate_hidden_states[0]).log_softmax(-1)
        sums.append(ctc_loss(log_probs, states.attention_mask.sum(-1), labels, blank=0))
    tokens = (batch["labels"] >= 0).sum()
    torch.testing.assert_close(whole - tokens_only, 0.25 * (sums[0] - sums[1]) / tokens)
    more = F.pad(phoneme_ids.clamp(min=1), (0, 60), value=1)  # than frames
    assert (
        build(**options | {"ctc_zero_infinity": False}, phonemes=["a", "b", "c"])
        .train()(**batch, phoneme_ids=more)
        .loss.isfinite()
    )
    with torch.inference_mode():  # which needs no phonemes
        torch.testing.assert_close(model.eval()(**batch).loss, plain.eval()(**batch).loss)


def test_a_checkpoint_whose_tokens_share_rows_is_merged_where_it_is_used(batch, processor, tmp_path):
    model = build(num_sounds=6)
    model.ctc_head.share(torch.randint(7, model.ctc_head.shares.shape))
    logits = model(**batch).logits
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    loaded = ConformerForCTC.from_pretrained(tmp_path).eval()  # as a training resumes
    assert torch.equal(loaded.ctc_head.shares, model.ctc_head.shares) and torch.equal(loaded(**batch).logits, logits)
    used, _ = load_checkpoint(str(tmp_path), device="cpu")
    assert type(used.ctc_head) is torch.nn.Linear and not used.config.num_sounds
    assert torch.equal(used(**batch).logits, logits)
    size = model.config.vocab_size
    assert torch.equal(model.resize_token_embeddings(size + 3).weight[:size], used.ctc_head.weight)


@pytest.mark.parametrize("options", TRAINING_OPTIONS.values(), ids=TRAINING_OPTIONS)
def test_training_options_do_not_change_the_evaluation_loss(batch, options):
    """Check that evaluation losses are comparable: always the CTC loss, with the decoders' loss if there are any."""
    with torch.inference_mode():
        kept = ("decoder_layers", "reverse_decoder_layers", "reverse_weight", "ctc_weight", "block_type")
        plain = {key: value for key, value in options.items() if key in kept}
        torch.testing.assert_close(build(**options)(**batch).loss, build(**plain)(**batch).loss)


def test_layerdrop_skips_layers_for_single_utterances(batch):
    model = build(layerdrop=1.0).train()  # skips the last layer always, the first layer with probability 0.5
    outputs = {}
    with torch.inference_mode():
        for seed in range(8):
            torch.manual_seed(seed)
            states = model.encoder(batch["input_features"], batch["attention_mask"]).last_hidden_state
            outputs[seed] = [round(state.abs().sum().item(), 1) for state in states]
        model.encoder.layers = model.encoder.layers[:0]
        none = model.encoder(batch["input_features"], batch["attention_mask"]).last_hidden_state.abs().sum((1, 2))
    for i in range(len(LENGTHS)):
        values = {output[i] for output in outputs.values()}
        assert len(values) == 2 and round(none[i].item(), 1) in values


def test_loss_is_negative_log_likelihood_per_token(batch):
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


@pytest.mark.parametrize("options", [{}, {"block_type": "e_branchformer"}, {"subsampling_factor": 8}], ids=str)
@pytest.mark.parametrize("layers", [1, 18])
def test_a_new_deep_encoder_passes_its_input_through(batch, options, layers):
    """Otherwise the gradient of the CTC loss cannot find the audio, and training stays on CTC's plateau."""
    model = build(**options, num_hidden_layers=layers)
    states = model.encoder(batch["input_features"], output_hidden_states=True).hidden_states
    first, last = F.layer_norm(states[0], states[0].shape[-1:]), states[-1]
    assert states[0].std() > 0.5  # the features have a standard deviation of 3
    assert F.cosine_similarity(first, last, dim=-1).mean() > 0.9
    assert not torch.equal(first, last)


def test_weights_that_a_checkpoint_has_are_not_initialised_again(tmp_path):
    model = build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    loaded = ConformerForCTC.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_utterance_shorter_than_an_encoder_frame_gives_finite_loss(batch):
    model = build().train()
    batch["attention_mask"][1, 3:] = 0
    output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss) and torch.isfinite(output.logits).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())
    assert build()(batch["input_features"][:, :3]).logits.shape == (4, 1, 12)


def test_empty_transcript_is_trained_to_blanks(batch):
    model = build()
    batch |= {"labels": torch.zeros(len(LENGTHS), 0, dtype=torch.long)}
    output = model(**batch)
    silence = output.logits.log_softmax(-1)[..., 0]
    torch.testing.assert_close(
        output.loss, -silence.sum()
    )  # padded frames predict the blank with certainty, so they add nothing


@pytest.mark.parametrize("factor", [4, 6, 8])
def test_output_lengths_equal_those_of_the_convolutions(factor):
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


def test_logits_depend_on_the_position():
    model = build(num_hidden_layers=1)
    features = torch.randn(1, 160, 80, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        swapped = torch.cat([features[:, 80:], features[:, :80]], 1)
        assert not torch.allclose(model(features).logits[0, 5], model(swapped).logits[0, 25], atol=1e-3)


def test_spec_augment_masks_only_in_training_and_inside_the_utterance(batch):
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


FULL = {
    "hidden_dropout": 0.2,
    "activation_dropout": 0.2,
    "attention_dropout": 0.2,
    "layerdrop": 0.4,
    "apply_spec_augment": True,
    "freq_mask_width": 26,
    "time_mask_ratio": 0.1,
    "label_smoothing": 0.2,
    "consistency_weight": 0.2,
    "delay_penalty": 0.1,
    "decoder_layers": 1,
}
HALF = {name: value / 2 for name, value in FULL.items() if isinstance(value, float)} | {"freq_mask_width": 13}
NONE = {name: 0 for name in HALF} | {"apply_spec_augment": False}


def trained(batch: dict, *strengths: float, **options) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return loss and gradients of a training step from a fixed seed, after setting the strengths one after another."""
    model = build(**(FULL | options)).train()
    for strength in strengths:
        set_regularization(model, strength)
    torch.manual_seed(7)
    loss = model(**batch).loss
    loss.backward()
    return loss, gradients(model)


@pytest.mark.parametrize("block_type", ["conformer", "e_branchformer"])
@pytest.mark.parametrize(
    ("strengths", "equal_options"),
    [((0,), NONE), ((0.5,), HALF), ((0, 1), {}), ((1,), {})],
    ids=["0 is nothing", "a half is half of each", "1 is the configuration again", "1 is the default"],
)
def test_strength_of_the_regularisation_scales_its_options(batch, strengths, equal_options, block_type):
    """The loss and all gradients are equal bit for bit."""
    loss, found = trained(batch, *strengths, block_type=block_type)
    expected_loss, expected = trained(batch, block_type=block_type, **equal_options)
    assert torch.equal(loss, expected_loss)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    if equal_options:
        assert not torch.equal(loss, trained(batch, block_type=block_type)[0])


def test_strength_of_the_regularisation_changes_no_inference_and_is_not_saved(batch, tmp_path):
    model = build(**FULL)
    with torch.inference_mode():
        expected = model(**batch)
        set_regularization(model, 0.0)
        found = model(**batch)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.loss, expected.loss)
    model.save_pretrained(tmp_path)
    loaded = ConformerForCTC.from_pretrained(tmp_path)
    assert loaded.config.layerdrop == 0.4
    assert all(getattr(module, "regularization", 1) == 1 for module in loaded.modules())
    with pytest.raises(ValueError, match="strength must be between 0 and 1, not 1.5"):
        set_regularization(model, 1.5)


def test_feature_statistics_stay_float32_in_a_bf16_model(tmp_path):
    build().save_pretrained(tmp_path)
    model = ConformerForCTC.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.encoder.feature_mean.dtype == torch.float32
    assert model(torch.randn(1, 50, 80)).logits.dtype == torch.bfloat16


def test_wrong_labels_or_options_are_an_error(batch):
    batch["labels"][0, 0] = 12
    with pytest.raises(ValueError, match="labels contain 12, but the model's vocab_size is 12"):
        build()(**batch)
    for options, message in (
        ({"subsampling_factor": 5}, "4, 6 or 8, not 5"),
        ({"conv_kernel_size": 8}, "must be odd unless causal_conv"),
        ({"hidden_size": 33}, "not a multiple of num_attention_heads"),
        ({"conv_norm": "rms"}, "'layer_norm' or 'batch_norm'"),
        ({"block_type": "former"}, "'conformer' or 'e_branchformer'"),
        ({"intermediate_ctc_layers": [2]}, "between 1 and 1, not"),
        ({"hidden_act": "foo"}, "hidden_act must be an activation of transformers, .* not 'foo'"),
        ({"decoder_hidden_act": "foo"}, "decoder_hidden_act must be an activation of transformers, .* not 'foo'"),
        ({"block_type": "e_branchformer", "cgmlp_size": 33}, "cgmlp_size must be even, .* not 33"),
        ({"num_attention_heads": 0}, "num_attention_heads must be 1 or more, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**options)
