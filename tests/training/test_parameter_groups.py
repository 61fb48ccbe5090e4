"""Learning rates of layers."""

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.training.parameter_groups import parameter_groups


def model(**options) -> ConformerForCTC:
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return ConformerForCTC(ConformerConfig(**(small | {"subsampling_channels": 4} | options)))


def test_lower_layers_learn_more_slowly():
    network = model(decoder_layers=1)
    names = {id(value): name for name, value in network.named_parameters()}
    rates = {}
    groups = parameter_groups(
        network, decayed={"ctc_head.weight"}, learning_rate=1.0, weight_decay=0.1, layer_lr_decay=0.5
    )
    for group in groups:
        for value in group["params"]:
            rates[names[id(value)]] = (group["lr"], group["weight_decay"])
    assert len(rates) == len(names)
    assert rates["ctc_head.weight"] == (1.0, 0.1) and rates["ctc_head.bias"] == (1.0, 0.0)
    assert rates["encoder.final_norm.weight"][0] == rates["decoder.layers.0.self_attention.q_proj.weight"][0] == 1.0
    assert [rates[f"encoder.layers.{i}.final_norm.weight"][0] for i in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert rates["encoder.subsampling.out.weight"][0] == 0.0625
