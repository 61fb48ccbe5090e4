"""A measurement names its processor on every accelerator, and files of a run are identified by their content."""

import pytest
import torch

from hf_asr.provenance import artifacts_sha256, file_sha256, hardware


@pytest.fixture
def without_cuda(monkeypatch):
    """Make `torch.cuda` raise, as it does without CUDA."""

    def raises(*args):
        raise AssertionError("Torch not compiled with CUDA enabled")

    for name in ("get_device_name", "get_device_properties", "current_device"):
        monkeypatch.setattr(torch.cuda, name, raises)


def test_mps_is_named_after_the_cpu(without_cuda):
    name = hardware("mps:0")
    assert name.endswith(" (mps)") and len(name) > len(" (mps)")


def test_xpu_names_its_device(without_cuda, monkeypatch):
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: f"Arc {device.index}")
    assert hardware("xpu:1") == "Arc 1"


def test_cuda_names_its_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H100 {device.index}")
    assert hardware(torch.device("cuda", 2)) == "H100 2"


def test_a_cpu_is_named_with_its_threads(without_cuda):
    assert hardware("cpu").endswith(f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")


def test_curves_and_logs_are_identified_by_their_content(tmp_path):
    for name in ("curves.png", "runs/Nov25_host/events.out.tfevents.1.host.7.0", "runs/Nov25_host/notes", "other.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = artifacts_sha256(tmp_path)
    assert found == [file_sha256(tmp_path / "curves.png"), file_sha256(next(tmp_path.glob("runs/*/events*")))]
