"""Accelerators other than CUDA: torch is patched to report one, and `torch.cuda` must not be used."""

import types

import pytest
import torch

from hf_asr.provenance import hardware
from hf_asr.training.arguments import ConformerTrainingArguments
from hf_asr.training.batch_search import find_batch_seconds
from hf_asr.training.building import describe
from hf_asr.training.devices import has_bf16, is_out_of_memory, keep_random_state


class RandomState:
    """The functions for random numbers of torch.mps, torch.xpu or torch.npu."""

    def __init__(self):
        self.state = 1

    def get_rng_state(self):
        return self.state

    def set_rng_state(self, state):
        self.state = state


@pytest.fixture(params=["mps", "xpu", "npu"])
def accelerator(request, monkeypatch):
    """An accelerator that torch reports; a call of torch.cuda fails, as on such a machine."""
    kind, module = request.param, RandomState()
    if kind != "mps":  # MPS has neither of these functions
        module.get_device_name = lambda device=None: f"a {kind} card"
        module.is_bf16_supported = lambda: kind == "xpu"
    monkeypatch.setattr(torch, kind, module, raising=False)
    device = types.SimpleNamespace(type=kind)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "device", lambda name, *_: name if hasattr(name, "type") else device)
    return device


def test_the_name_of_the_accelerator_is_logged(accelerator, caplog):
    caplog.set_level("INFO", logger="hf_asr")
    args = types.SimpleNamespace(use_cpu=False, device=accelerator, precision="fp32", world_size=1)
    describe(torch.nn.Linear(2, 2), args)
    expected = "(mps)" if accelerator.type == "mps" else f"a {accelerator.type} card"
    assert expected in caplog.text and expected in hardware(accelerator)


def test_precision_auto_depends_on_the_accelerator(accelerator):
    assert has_bf16(use_cpu=False) == (accelerator.type == "xpu")


def test_the_random_state_of_the_accelerator_is_restored(accelerator):
    module = getattr(torch, accelerator.type)
    with keep_random_state(accelerator):
        module.state = 2
    assert module.state == 1


def test_arguments_choose_the_accelerator(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: types.SimpleNamespace(type="mps"))
    args = ConformerTrainingArguments(output_dir=str(tmp_path), report_to="none")
    assert not args.use_cpu and args.precision == "fp32"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("NPU out of memory. Tried to allocate"),
    ],
    ids=["cuda", "mps", "npu"],
)
def test_the_largest_batch_is_found_for_each_out_of_memory_error(error):
    def try_batch(seconds: float) -> None:
        if seconds > 100:
            raise error

    assert is_out_of_memory(error) and 85 <= find_batch_seconds(try_batch, longest=30.0) <= 100


def test_other_errors_of_a_trial_step_are_raised():
    def try_batch(seconds: float) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        find_batch_seconds(try_batch, longest=30.0)
