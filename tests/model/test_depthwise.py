"""Depthwise convolutions in bf16 on CPUs, of every width: they come back, and compute what float32 computes.

oneDNN's kernel for AVX-512 loops for ever over some shapes, and which ones depends on the number of threads. A hang
cannot be caught in the process that hangs, so each test works in one of its own, with a time limit.
"""

import os
import subprocess
import sys

import pytest
import torch

from hf_asr.model import layers_conformer

SECONDS = 300  # a process takes fifteen on an idle machine

START = """
import torch
from hf_asr import ConformerConfig
from hf_asr.model.branchformer_conformer import EBranchformerBlock
from hf_asr.model.layers_conformer import ConformerConvolution, ConformerSubsampling, rotary_embedding

torch.manual_seed(0)

def check(name, module, *inputs):
    '''Forward and backward in autocast, forward in inference and with weights of bf16, beside float32.'''
    print(name, *inputs[0].shape, f"{torch.get_num_threads()} threads", flush=True)
    def run(dtype, autocast):
        hidden = inputs[0].to(dtype).requires_grad_(autocast)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = module(hidden, *inputs[1:])
        output = output[0] if isinstance(output, tuple) else output
        if autocast:
            output.float().square().sum().backward()
        return output.detach().float(), hidden.grad
    with torch.no_grad():
        expected = run(torch.float32, False)[0]
    trained, gradient = run(torch.float32, True)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inferred = module(*inputs)
    module.to(torch.bfloat16)
    with torch.no_grad():
        halved = run(torch.bfloat16, False)[0]
    for output in (trained, inferred[0] if isinstance(inferred, tuple) else inferred, halved):
        assert (output.float() - expected).norm() <= 0.03 * expected.norm(), name
    assert gradient is None or torch.isfinite(gradient).all()
"""

CONVOLUTION = """
small = {"num_attention_heads": 1, "intermediate_size": 16, "hidden_dropout": 0.0, "activation_dropout": 0.0}
for threads, widths, shapes in CASES:
    torch.set_num_threads(threads)
    for width, kernel in widths:
        for batch, frames in shapes:
            for causal in (False, True):
                config = ConformerConfig(hidden_size=width, conv_kernel_size=kernel, causal_conv=causal, **small)
                check(f"convolution {kernel}", ConformerConvolution(config), torch.randn(batch, frames, width), None)
        if threads == 2 and width % 16 == 0:  # its merging convolution is twice as wide
            config = ConformerConfig(hidden_size=width, block_type="e_branchformer", cgmlp_size=2 * width, **small)
            positions = rotary_embedding(config, num_frames=100, device="cpu")
            block = EBranchformerBlock(config).eval()
            check("e_branchformer", block, torch.randn(1, 100, width), positions, None, None)
"""

SUBSAMPLING = """
torch.set_num_threads(2)
for width in (8, 16, 32, 80, 128, 144):
    for factor in (4, 6, 8):
        config = ConformerConfig(
            hidden_size=16, num_attention_heads=1, subsampling_channels=width, subsampling_factor=factor,
            subsampling_depthwise=True,
        )
        for batch, frames in ((1, 90), (3, 251)):
            check(f"subsampling {width} {factor}", ConformerSubsampling(config), torch.randn(batch, frames, 80))
"""

WIDTHS = (8, 16, 24, 32, 48, 64, 80, 96, 128, 144, 192, 208, 256, 272)
# Numbers of threads; widths and kernels; batches and frames. Each of them hung for at least one of its shapes.
CASES = [
    (1, [(8, 15), (16, 3), (16, 31)], [(1, 61), (3, 100)]),
    (2, [(width, 15) for width in WIDTHS], [(1, 62), (3, 101), (5, 150)]),
    (2, [(144, 31)], [(11, 806)]),
    (4, [(64, 15), (96, 31)], [(1, 100), (5, 204)]),
    (8, [(128, 15), (256, 15)], [(1, 800), (9, 800)]),
]


def run(script: str) -> None:
    """Run `script` in a process; fails with what it was at when its time was over."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # more threads than cores do not wait for one another
    command = [sys.executable, "-c", START + script]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        last = (expired.stdout or b"").decode().splitlines()[-1:]
        pytest.fail(f"no end after {SECONDS} seconds: it hangs at {last}")
    assert done.returncode == 0, done.stderr[-2000:]


def test_convolutions_come_back_and_compute_what_float32_does():
    run(f"CASES = {CASES}\n{CONVOLUTION}")


def test_subsampling_comes_back_and_computes_what_float32_does():
    run(SUBSAMPLING)


def test_widths_that_the_fast_kernel_takes_keep_it():
    """On two threads: multiples of 64. On more, fewer: 128 hangs on eight."""
    safe = [width for width in range(16, 513, 16) if not layers_conformer.hangs_as_a_row(width, num_threads=2)]
    assert safe == [*range(64, 513, 64)]
    assert layers_conformer.hangs_as_a_row(128, num_threads=8) and not layers_conformer.hangs_as_a_row(
        256, num_threads=8
    )
    assert layers_conformer.hangs_as_a_row(16, num_threads=1) and not layers_conformer.hangs_as_a_row(32, num_threads=1)


@pytest.mark.parametrize("width", [48, 64])
def test_a_column_and_a_row_are_one_convolution(width, monkeypatch):
    """In float64, where both are safe: neither the output nor a gradient tells which it was."""
    results = []
    for column in (False, True):
        torch.manual_seed(0)
        conv = torch.nn.Conv1d(width, width, 15, groups=width, padding=7).double()
        hidden = torch.randn(2, width, 40, dtype=torch.float64, requires_grad=True)
        monkeypatch.setattr(layers_conformer, "hangs_as_a_row", lambda *_, column=column, **__: column)
        output = layers_conformer._depthwise(conv, hidden)
        output.square().sum().backward()
        results.append((output, hidden.grad, conv.weight.grad, conv.bias.grad))
    for row, column in zip(*results, strict=True):
        torch.testing.assert_close(row, column)
