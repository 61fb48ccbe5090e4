"""Handle the differences between accelerators: CUDA and ROCm, Apple's MPS, XPU, NPU."""

import contextlib
from collections.abc import Iterator

import torch
from accelerate.utils.memory import should_reduce_batch_size


def has_bf16(*, use_cpu: bool) -> bool:
    """Return whether the hardware multiplies matrices in bf16 without emulation.

    False for an accelerator that does not report it, such as MPS.
    """
    if use_cpu:
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return False
    if accelerator.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    is_supported = getattr(getattr(torch, accelerator.type, None), "is_bf16_supported", None)
    return is_supported is not None and bool(is_supported())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device is out of memory; MPS and NPU raise a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


@contextlib.contextmanager
def keep_random_state(device: torch.device) -> Iterator[None]:
    """Restore the state of torch's random numbers, on the CPU and on `device`, so that training is not changed."""
    generators = [torch.random] if device.type == "cpu" else [torch.random, getattr(torch, device.type)]
    states = [generator.get_rng_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_rng_state(state)
