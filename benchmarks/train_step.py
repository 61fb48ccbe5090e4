"""Compare a training step and an inference of our Conformer with transformers' Parakeet and PyPI's `conformer`.

    pip install conformer && python benchmarks/train_step.py --rounds 5

Layers, width, heads, feed-forward, kernel, subsampling, dropout and vocabulary are equal, and so is the ragged batch;
there is no dropout of attention weights, which would rule out fused kernels. Rounds are interleaved, and medians are
printed. The floor is the number of operations of our matrix products and convolutions divided by the rate at which this
machine multiplies matrices. Dropout is not the same work: PyPI's `conformer` ignores its arguments and applies none,
Parakeet applies it only inside the feed-forwards and to the input, ours also after each module; `--dropout 0` disables
it in all.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from conformer import Conformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ParakeetCTCConfig, ParakeetForCTC

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.model.layers_conformer import ConformerSubsampling

LAYERS, WIDTH, HEADS, FEED_FORWARD, KERNEL, VOCABULARY = 12, 256, 4, 2048, 15, 4233
SECONDS = (9.5, 8.3, 7.4, 6.6, 6.1, 5.4, 4.9, 3.8)  # 52 s


def ours(*, dropout: float, depthwise: bool) -> nn.Module:
    """Return our Conformer."""
    return ConformerForCTC(
        ConformerConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=FEED_FORWARD,
            conv_kernel_size=KERNEL,
            subsampling_depthwise=depthwise,
            hidden_dropout=dropout,
            activation_dropout=dropout,
            apply_spec_augment=False,
        )
    )


def parakeet(*, dropout: float) -> nn.Module:
    """Return transformers' Parakeet with the same sizes."""
    encoder = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FEED_FORWARD,
        "conv_kernel_size": KERNEL,
        "subsampling_factor": 4,
        "subsampling_conv_channels": WIDTH,
        "scale_input": False,
        "layerdrop": 0.0,
        "dropout": dropout,
        "activation_dropout": dropout,
        "attention_dropout": 0.0,
    }
    return ParakeetForCTC(ParakeetCTCConfig(vocab_size=VOCABULARY, pad_token_id=0, encoder_config=encoder))


class LucidrainsForCTC(nn.Module):
    """PyPI's `conformer`, which ignores padding, after our subsampling and with the same loss."""

    def __init__(self, *, dropout: float):
        super().__init__()
        config = ConformerConfig(hidden_size=WIDTH, subsampling_depthwise=True)
        self.subsampling = ConformerSubsampling(config)
        self.encoder = Conformer(
            dim=WIDTH,
            depth=LAYERS,
            dim_head=WIDTH // HEADS,
            heads=HEADS,
            ff_mult=FEED_FORWARD // WIDTH,
            conv_expansion_factor=1,
            conv_kernel_size=KERNEL,
            ff_dropout=dropout,
            conv_dropout=dropout,
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_features, attention_mask, labels=None):
        logits = self.head(self.encoder(self.subsampling(input_features)))
        if labels is None:
            return logits
        lengths = torch.div(
            torch.div(attention_mask.sum(-1) - 1, 2, rounding_mode="floor") - 1, 2, rounding_mode="floor"
        )
        is_label = labels >= 0
        log_probs = F.log_softmax(logits, -1, dtype=torch.float32).transpose(0, 1)
        loss = F.ctc_loss(log_probs, labels[is_label], lengths, is_label.sum(-1), reduction="sum", zero_infinity=True)
        return loss / is_label.sum(), logits


def make_batch(device: torch.device) -> dict[str, torch.Tensor]:
    """Return random features (batch, frames, 80) of `SECONDS` of audio with their mask and random labels."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor([int(100 * seconds) for seconds in SECONDS])
    features = torch.randn(len(frames), int(frames.max()), 80, generator=generator)
    mask = (torch.arange(int(frames.max())) < frames[:, None]).long()
    labels = torch.full((len(frames), int(3 * SECONDS[0])), -100)
    for row, seconds in zip(labels, SECONDS, strict=True):
        row[: int(3 * seconds)] = torch.randint(3, VOCABULARY, (int(3 * seconds),), generator=generator)
    batch = {"input_features": features, "attention_mask": mask, "labels": labels}
    return {key: value.to(device) for key, value in batch.items()}


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of a product of 2048 x 2048 matrices, the best of several."""
    left, right = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    best = min(timed(lambda: left @ right, device) for _ in range(8))
    return 2 * 2048**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    models = {
        "ours, depthwise subsampling": ours(dropout=args.dropout, depthwise=True),
        "ours, full subsampling": ours(dropout=args.dropout, depthwise=False),
        "transformers ParakeetForCTC": parakeet(dropout=args.dropout),
        "PyPI conformer": LucidrainsForCTC(dropout=args.dropout),
    }
    models = {name: model.to(device) for name, model in models.items()}
    optimizers = {name: torch.optim.AdamW(model.parameters(), fused=True) for name, model in models.items()}
    batch = make_batch(device)
    inputs = {key: value for key, value in batch.items() if key != "labels"}

    def step(name: str, dtype: torch.dtype) -> None:
        models[name].train()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = models[name](**batch)
        (output[0] if isinstance(output, tuple) else output.loss).backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    @torch.inference_mode()
    def infer(name: str, dtype: torch.dtype) -> None:
        models[name].eval()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            models[name](**inputs)

    with FlopCounterMode(display=False) as counter:
        infer("ours, depthwise subsampling", torch.float32)
    # A step is counted as three forwards, because the counter overestimates the gradient of a depthwise convolution.
    flops = {"step": 3 * counter.get_total_flops(), "inference": counter.get_total_flops()}

    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {sum(SECONDS):.0f} s of audio, "
          f"dropout {args.dropout}, medians of {args.rounds} interleaved rounds, seconds (times ours)")  # fmt: skip
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        for kind, function in (("step", step), ("inference", infer)):
            times: dict[str, list[float]] = {name: [] for name in models}
            for round_ in range(args.rounds + 1):
                for name in models:
                    seconds = timed(lambda name=name: function(name, dtype), device)  # noqa: B023
                    if round_:  # the first round is the warm-up
                        times[name].append(seconds)
            medians = {name: statistics.median(values) for name, values in times.items()}
            floor = flops[kind] / matmul_rate(dtype, device)
            label = f"{str(dtype).removeprefix('torch.')} {kind}"
            reference = medians["ours, depthwise subsampling"]
            print(f"\n{label}: floor {floor:.3f} ({flops[kind] / 1e9:.0f} GFLOP)")
            for name, seconds in medians.items():
                print(f"  {name:30} {seconds:7.3f}  ({seconds / reference:.2f})")
            results[label] = {"floor": floor, **medians}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
