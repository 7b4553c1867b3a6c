"""A network fitted to the machine it trains on: dtype of the products, attention kernel, compilation."""

from __future__ import annotations

import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from nanochat.config.compute import Compute
from nanochat.errors import BadConfig
from nanochat.model.attention import best_backend
from nanochat.model.float8 import fits_float8
from nanochat.model.gpt import GPT, Linear
from nanochat.model.loss import between_products

WORTH_COMPILING_VOCABULARY = 8192
"""On a CPU. Below, the seconds it takes to compile are not won back in a run of minutes."""


@dataclass(frozen=True)
class Fitted:
    """What was chosen."""

    scales_loss: bool
    """Whether gradients are so small in its dtype that the loss is to be scaled."""
    said: str
    """The choice, for the log."""


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products that `precision` means on the device.

    bf16 where it is fast (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX), else fp32. Raises `BadConfig` for fp8 on
    a device without it.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "fp16":
        return torch.float16
    capability = _capability(device)
    if precision == "fp8" and capability < (8, 9):
        raise BadConfig(
            f"`precision` is `fp8`, and `{device}` has no 8-bit matrix products.",
            hint="Take `bf16`, or a GPU of the Hopper generation or later.",
        )
    return torch.bfloat16 if capability >= (8, 0) or (device.type == "cpu" and _cpu_has_bf16()) else torch.float32


def fit(model: GPT, precision: str, compute: Compute, device: torch.device) -> Fitted:
    """Sets in the model what suits the device. Raises `BadConfig` when something was asked for that does not run."""
    cuda = device.type == "cuda"
    chosen = compute.kernels
    compiled = chosen.compile == "on" or (chosen.compile == "auto" and (cuda or _pays_on_a_cpu(model)))
    dtype = model.compute_dtype
    backend = best_backend(chosen.attention, device, dtype, compiled and cuda)
    model.attend_with(backend)
    if precision == "fp8":
        for layer in model.modules():
            if isinstance(layer, Linear) and layer is not model.head:
                layer.float8 = fits_float8(*layer.weight.shape)
    if compiled:
        model.between = torch.compile(between_products)
        model.prepare_positions(model.architecture.sequence_len)
        if cuda:  # on a CPU it gains a tenth, and takes a minute
            model.trunk = torch.compile(model.trunk, dynamic=False)
    shown = "fp8" if precision == "fp8" else str(dtype).removeprefix("torch.")
    what = ("network and loss" if cuda else "loss") if compiled else "nothing"
    said = f"{device}: {shown} products, {backend} attention, {what} compiled"
    if precision == "bf16" and dtype == torch.float32:
        said += "; no fast bf16 here"
    return Fitted(dtype == torch.float16, said)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _cpu_has_bf16() -> bool:
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _pays_on_a_cpu(model: GPT) -> bool:
    """Whether compiling the loss is won back, and what it takes is there: a C++ compiler, and Python's headers."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    can = shutil.which("g++") is not None and headers.is_file()
    return can and model.architecture.vocab_size >= WORTH_COMPILING_VOCABULARY
