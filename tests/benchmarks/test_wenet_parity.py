"""The comparison with WeNet's outputs holds for the reference models, and shows a difference."""

import importlib
import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("HF_ASR_WENET_REFERENCE", ROOT.parent / "shared" / "wenet_reference"))

pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"WeNet's outputs are not at {REFERENCE} (HF_ASR_WENET_REFERENCE)"
)


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("wenet_parity")


@pytest.mark.parametrize(("name", "decoders", "chunks"), [("conformer_offline", 1, 0), ("u2pp_streaming", 2, 6)])
def test_every_quantity_of_the_reference_holds(parity, name, decoders, chunks):
    rows = parity.compare(REFERENCE / name)
    assert len(rows) == 3 + decoders + chunks + 2 * 4 + 3
    assert not [row for row in rows if not row.holds]


def test_a_difference_of_one_weight_is_shown(parity, monkeypatch):
    original = parity.import_wenet

    def changed(folder):
        model, processor = original(folder)
        with torch.no_grad():
            model.reverse_decoder.lm_head.bias[5] += 0.01
        return model, processor

    monkeypatch.setattr(parity, "import_wenet", changed)
    rows = parity.compare(REFERENCE / "u2pp_streaming")
    failed = {row.name for row in rows if not row.holds}
    assert {"reverse_decoder_log_probs", "loss_att"} <= failed and "decoder_log_probs" not in failed
