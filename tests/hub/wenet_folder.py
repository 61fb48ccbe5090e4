"""Small WeNet model directories with random weights, and WeNet's decoder in a few lines.

Names, shapes and formulas are those of ../shared/wenet_reference/README.md, not those of `hf_asr.hub`.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from transformers.convert_slow_tokenizer import import_protobuf

WIDTH, HEADS, UNITS, KERNEL = 16, 2, 24, 8
CHARACTERS = ["<blank>", "<unk>", "<sos/eos>", "'", *"adehilnorstw", "打", "开", "▁"]
PIECES = ["<blank>", "<unk>", "'", "THE", "▁", "▁CAT", "▁THE", "S", "打", "开", "<sos/eos>"]


def recipe(*, vocab_size: int, is_both_ways: bool, positions: str, special_tokens: dict[str, int]) -> dict:
    decoder_conf = {"attention_heads": 4, "linear_units": 40, "num_blocks": 2, "dropout_rate": 0.1}
    model_conf = {"ctc_weight": 0.3, "lsm_weight": 0.1, "length_normalized_loss": False}
    if is_both_ways:
        decoder_conf["r_num_blocks"], model_conf["reverse_weight"] = 1, 0.3
    return {
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": WIDTH,
            "attention_heads": HEADS,
            "linear_units": UNITS,
            "num_blocks": 1,
            "cnn_module_kernel": KERNEL,
            "cnn_module_norm": "layer_norm",
            "causal": True,
            "use_dynamic_chunk": True,
            "pos_enc_layer_type": positions,
            "selfattention_layer_type": "rel_selfattn" if positions == "rel_pos" else "rope_abs_selfattn",
        },
        "decoder": "bitransformer" if is_both_ways else "transformer",
        "decoder_conf": decoder_conf,
        "tokenizer_conf": {"special_tokens": special_tokens},
        "cmvn": "global_cmvn",
        "cmvn_conf": {"cmvn_file": "/their/disk/global_cmvn", "is_json_cmvn": True},
        "model": "asr_model",
        "model_conf": model_conf,
        "dataset_conf": {"fbank_conf": {"num_mel_bins": 80, "frame_shift": 10, "frame_length": 25, "dither": 1.0}},
        "input_dim": 80,
        "output_dim": vocab_size,
    }


def encoder_shapes(vocab_size: int, *, positions: str) -> dict[str, tuple[int, ...]]:
    block = "encoder.encoders.0"
    shapes = {
        "encoder.embed.conv.0.weight": (WIDTH, 1, 3, 3),
        "encoder.embed.conv.0.bias": (WIDTH,),
        "encoder.embed.conv.2.weight": (WIDTH, WIDTH, 3, 3),
        "encoder.embed.conv.2.bias": (WIDTH,),
        f"{block}.conv_module.pointwise_conv1.weight": (2 * WIDTH, WIDTH, 1),
        f"{block}.conv_module.pointwise_conv1.bias": (2 * WIDTH,),
        f"{block}.conv_module.depthwise_conv.weight": (WIDTH, 1, KERNEL),
        f"{block}.conv_module.depthwise_conv.bias": (WIDTH,),
        f"{block}.conv_module.pointwise_conv2.weight": (WIDTH, WIDTH, 1),
        f"{block}.conv_module.pointwise_conv2.bias": (WIDTH,),
    }
    shapes |= linear("encoder.embed.out.0", WIDTH * 19, WIDTH) | linear("ctc.ctc_lo", WIDTH, vocab_size)
    for name in ("norm_ff_macaron", "norm_mha", "norm_conv", "norm_ff", "norm_final", "conv_module.norm"):
        shapes |= norm(f"{block}.{name}")
    for name in ("feed_forward_macaron", "feed_forward"):
        shapes |= linear(f"{block}.{name}.w_1", WIDTH, UNITS) | linear(f"{block}.{name}.w_2", UNITS, WIDTH)
    for name in ("q", "k", "v", "out"):
        shapes |= linear(f"{block}.self_attn.linear_{name}", WIDTH, WIDTH)
    if positions == "rel_pos":
        shapes[f"{block}.self_attn.linear_pos.weight"] = (WIDTH, WIDTH)
        shapes |= {f"{block}.self_attn.pos_bias_{letter}": (HEADS, WIDTH // HEADS) for letter in "uv"}
    return shapes | norm("encoder.after_norm")


def decoder_shapes(prefix: str, vocab_size: int, *, blocks: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{prefix}.embed.0.weight": (vocab_size, WIDTH), f"{prefix}.embed.1.pe": (1, 5000, WIDTH)}
    for number in range(blocks):
        block = f"{prefix}.decoders.{number}"
        for attention in ("self_attn", "src_attn"):
            for name in ("q", "k", "v", "out"):
                shapes |= linear(f"{block}.{attention}.linear_{name}", WIDTH, WIDTH)
        shapes |= linear(f"{block}.feed_forward.w_1", WIDTH, 40) | linear(f"{block}.feed_forward.w_2", 40, WIDTH)
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2") | norm(f"{block}.norm3")
    return shapes | norm(f"{prefix}.after_norm") | linear(f"{prefix}.output_layer", WIDTH, vocab_size)


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def random_state(vocab_size: int, *, is_both_ways: bool, positions: str = "rel_pos") -> dict[str, torch.Tensor]:
    shapes = encoder_shapes(vocab_size, positions=positions)
    if is_both_ways:
        shapes |= decoder_shapes("decoder.left_decoder", vocab_size, blocks=2)
        shapes |= decoder_shapes("decoder.right_decoder", vocab_size, blocks=1)
    else:
        shapes |= decoder_shapes("decoder", vocab_size, blocks=2)
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 16
        state[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
        if "norm" in name and name.endswith("weight"):
            state[name] += 1.0
    return state | {
        "encoder.global_cmvn.mean": torch.full((80,), 10.0),
        "encoder.global_cmvn.istd": torch.full((80,), 0.3),
    }


def write_folder(
    folder: Path,
    *,
    units: list[str] = CHARACTERS,
    is_both_ways: bool = True,
    positions: str = "rel_pos",
    model_type: str | None = None,
) -> dict[str, torch.Tensor]:
    """Write a model directory and return its weights.

    Args:
        model_type: Of a sentencepiece model for the units `PIECES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sos_eos = units.index("<sos/eos>")
    special_tokens = {"<blank>": 0, "<unk>": 1, "<sos>": sos_eos, "<eos>": sos_eos}
    options = {"is_both_ways": is_both_ways, "positions": positions}
    values = recipe(vocab_size=len(units), special_tokens=special_tokens, **options)
    if model_type:
        values["tokenizer"] = "bpe"
        sentencepiece_model(folder / "train_960.model", model_type)
    state = random_state(len(units), **options)
    (folder / "train.yaml").write_text(yaml.safe_dump(values))
    (folder / "units.txt").write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(units)), encoding="utf-8")
    statistics = {"mean_stat": [10.0] * 80, "var_stat": [100 + 0.3**-2] * 80, "frame_num": 1}
    (folder / "global_cmvn").write_text(json.dumps(statistics))
    torch.save(state, folder / "final.pt")
    return state


def sentencepiece_model(path: Path, model_type: str) -> Path:
    """Write a model that merges ▁T and HE, which are not in PIECES, to ▁THE; it has the other PIECES, but no blank."""
    pieces = ["▁T", "HE", "▁THE", "▁C", "AT", "▁CAT", "THE", *"▁TCHEAS'"]
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = {"unigram": 1, "bpe": 2}[model_type]
    for i, piece in enumerate(["<unk>", "<s>", "</s>", *pieces]):
        kind = {"<unk>": 2, "<s>": 3, "</s>": 3}.get(piece, 1)
        proto.pieces.add(piece=piece, score=0.0 if kind > 1 else -float(i), type=kind)
    path.write_bytes(proto.SerializeToString())
    return path


def wenet_decoder(
    state: dict[str, torch.Tensor], prefix: str, *, blocks: int, tokens: torch.Tensor, memory: torch.Tensor
) -> torch.Tensor:
    """Return the logits (U, V) that WeNet's TransformerDecoder gives for tokens (U,) and encoder states (S, D)."""

    def project(name: str, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name: str, hidden: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(hidden, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    def attended(name: str, hidden: torch.Tensor, source: torch.Tensor, *, is_causal: bool) -> torch.Tensor:
        query, key, value = (
            project(f"{name}.linear_{letter}", states).unflatten(-1, (4, -1)).transpose(0, 1)
            for letter, states in zip("qkv", (hidden, source, source), strict=True)
        )
        scores = query @ key.mT / math.sqrt(WIDTH // 4)
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        return project(f"{name}.linear_out", (scores.softmax(-1) @ value).transpose(0, 1).flatten(1))

    angles = torch.arange(len(tokens))[:, None] * 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    hidden = state[f"{prefix}.embed.0.weight"][tokens] * math.sqrt(WIDTH)
    hidden[:, 0::2] += angles.sin()
    hidden[:, 1::2] += angles.cos()
    for number in range(blocks):
        block = f"{prefix}.decoders.{number}"
        own = normed(f"{block}.norm1", hidden)
        hidden = hidden + attended(f"{block}.self_attn", own, own, is_causal=True)
        hidden = hidden + attended(f"{block}.src_attn", normed(f"{block}.norm2", hidden), memory, is_causal=False)
        inner = project(f"{block}.feed_forward.w_1", normed(f"{block}.norm3", hidden)).relu()
        hidden = hidden + project(f"{block}.feed_forward.w_2", inner)
    return project(f"{prefix}.output_layer", normed(f"{prefix}.after_norm", hidden))
