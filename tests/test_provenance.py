"""A measurement names its processor on every accelerator, and what belongs to a run is known by its content."""

import pytest
import torch

from hf_asr.provenance import artifacts_sha256, file_sha256, hardware


@pytest.fixture
def without_cuda(monkeypatch):
    """`torch.cuda` raises where there is no CUDA, whoever asks."""

    def raises(*args):
        raise AssertionError("Torch not compiled with CUDA enabled")

    for name in ("get_device_name", "get_device_properties", "current_device"):
        monkeypatch.setattr(torch.cuda, name, raises)


def test_an_apple_has_a_name(without_cuda):
    name = hardware("mps:0")
    assert name.endswith(" (mps)") and len(name) > len(" (mps)")


def test_other_accelerators_say_theirs(without_cuda, monkeypatch):
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: f"Arc {device.index}")
    assert hardware("xpu:1") == "Arc 1"


def test_cuda_says_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H100 {device.index}")
    assert hardware(torch.device("cuda", 2)) == "H100 2"


def test_a_cpu_says_how_many_threads(without_cuda):
    assert hardware("cpu").endswith(f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")


def test_curves_and_logs_are_known_by_content_not_by_the_machines_name(tmp_path):
    for name in ("curves.png", "runs/Nov25_host/events.out.tfevents.1.host.7.0", "runs/Nov25_host/notes", "other.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = artifacts_sha256(tmp_path)
    assert found == [file_sha256(tmp_path / "curves.png"), file_sha256(next(tmp_path.glob("runs/*/events*")))]
