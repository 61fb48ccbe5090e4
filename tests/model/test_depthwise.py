"""Test that depthwise convolutions in bf16 on a CPU end, for every width, and equal float32.

oneDNN's AVX-512 kernel loops for ever over some shapes; which ones depends on the number of threads. A process cannot
stop its own hang, so each test runs in another process with a time limit.
"""

import os
import subprocess
import sys

import pytest
import torch

from hf_asr.model import layers_conformer

SECONDS = 300  # time limit of a process, which needs about 15 seconds on an idle machine

START = """
import torch
from hf_asr import ConformerConfig
from hf_asr.model.branchformer_conformer import EBranchformerBlock
from hf_asr.model.layers_conformer import ConformerConvolution, ConformerSubsampling, rotary_embedding

torch.manual_seed(0)

def check(name, module, *inputs):
    '''Compare with float32: training and inference in autocast, and inference with bf16 weights.'''
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
        if threads == 2 and width % 16 == 0:  # the merging convolution of E-Branchformer is twice as wide
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
# (threads, [(width, kernel)], [(batch, frames)]). Without the workaround each line hung for at least one of its shapes.
CASES = [
    (1, [(8, 15), (16, 3), (16, 31)], [(1, 61), (3, 100)]),
    (2, [(width, 15) for width in WIDTHS], [(1, 62), (3, 101), (5, 150)]),
    (2, [(144, 31)], [(11, 806)]),
    (4, [(64, 15), (96, 31)], [(1, 100), (5, 204)]),
    (8, [(128, 15), (256, 15)], [(1, 800), (9, 800)]),
]


def run(script: str) -> None:
    """Run a script in another process; fail with its last line of output if it does not end in time."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # with more threads than cores, active waiting is slow
    command = [sys.executable, "-c", START + script]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        last = (expired.stdout or b"").decode().splitlines()[-1:]
        pytest.fail(f"not finished after {SECONDS} seconds, hangs at {last}")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_bf16_convolutions_end_and_equal_float32():
    run(f"CASES = {CASES}\n{CONVOLUTION}")


@pytest.mark.slow
def test_bf16_subsampling_ends_and_equals_float32():
    run(SUBSAMPLING)


def test_safe_widths_keep_the_fast_kernel():
    """Check that multiples of 64 are safe with two threads, and fewer widths with more (128 hangs with eight)."""
    safe = [width for width in range(16, 513, 16) if not layers_conformer.hangs_as_a_row(width, num_threads=2)]
    assert safe == [*range(64, 513, 64)]
    assert layers_conformer.hangs_as_a_row(128, num_threads=8) and not layers_conformer.hangs_as_a_row(
        256, num_threads=8
    )
    assert layers_conformer.hangs_as_a_row(16, num_threads=1) and not layers_conformer.hangs_as_a_row(32, num_threads=1)


@pytest.mark.parametrize("width", [48, 64])
def test_convolution_along_a_column_equals_convolution_along_a_row(width, monkeypatch):
    """Compare outputs and gradients in float64, in which both are safe."""
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
