"""What must be equal: accumulated = one batch, two processes = one, on ragged batches of different counts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("gradients.py")


def step(checkpoint, corpus, output, *, max_batch_seconds: float, accumulation: int, processes: int = 1) -> dict:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, SCRIPT, checkpoint, corpus, output, max_batch_seconds, accumulation]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


@pytest.fixture(scope="module")
def one_batch(checkpoint, corpus, tmp_path_factory) -> dict:
    result = step(checkpoint, corpus, tmp_path_factory.mktemp("one") / "g.pt", max_batch_seconds=1000, accumulation=1)
    assert result["batches"] == 1 and result["world_size"] == 1
    return result


@pytest.mark.parametrize(
    ("processes", "max_batch_seconds", "accumulation", "batches"), [(1, 13, 4, None), (2, 1000, 1, 1), (2, 13, 2, 2)]
)
def test_gradients_of_one_big_batch(
    one_batch, checkpoint, corpus, tmp_path, processes, max_batch_seconds, accumulation, batches
):
    result = step(
        checkpoint,
        corpus,
        tmp_path / "g.pt",
        max_batch_seconds=max_batch_seconds,
        accumulation=accumulation,
        processes=processes,
    )
    assert result["world_size"] == processes
    assert result["batches"] <= accumulation  # the step is the whole epoch
    assert batches is None or result["batches"] == batches
    largest = max(value.abs().max() for value in one_batch["gradients"].values())
    for name, expected in one_batch["gradients"].items():
        torch.testing.assert_close(
            result["gradients"][name],
            expected,
            atol=1e-4 * largest.item(),
            rtol=1e-4,
            msg=lambda message, name=name: f"{name}: {message}",
        )
    assert result["loss"] == pytest.approx(one_batch["loss"], rel=1e-4)
