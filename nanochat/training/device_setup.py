"""Prepares the network for its device: dtype of the matrix products, attention kernel, compilation."""

import shutil
import sysconfig
from itertools import takewhile
from pathlib import Path

import torch

from nanochat.config.compute import Kernels
from nanochat.errors import BadConfig
from nanochat.model.attention import BACKENDS, best_backend, obstacle
from nanochat.model.compilation import compile_loss, compile_network
from nanochat.model.float8 import fits_float8
from nanochat.model.gpt import GPT, Linear

MIN_COMPILED_VOCABULARY = 8192
"""The smallest vocabulary for which a CPU compiles the loss: with fewer, compilation takes longer than it saves."""


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products for a `precision` on the device.

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
            hint="Use `bf16`, or a GPU of the Hopper generation or later.",
        )
    return torch.bfloat16 if capability >= (8, 0) or (device.type == "cpu" and _cpu_has_bf16()) else torch.float32


def prepare_for_device(
    model: GPT, precision: str, kernels: Kernels, device: torch.device, sequence_len: int = 0
) -> str:
    """Sets attention kernel, fp8 and compilation in the model; returns a description for the log.

    `sequence_len` is the length of the rows, 0 for that of the architecture: they differ where a model is trained
    further on other rows. The description has the reasons why faster attention kernels do not run on this GPU.

    Raises `BadConfig` when a requested kernel does not run on the device.
    """
    cuda = device.type == "cuda"
    compiled = kernels.compile == "on" or (kernels.compile == "auto" and (cuda or _compiles_on_cpu(model)))
    dtype = model.compute_dtype
    backend = best_backend(kernels.attention, device, dtype, compiled and cuda)
    model.attend_with(backend, sequence_len)
    if precision == "fp8":
        for layer in model.modules():
            if isinstance(layer, Linear) and layer is not model.head:
                layer.float8 = fits_float8(*layer.weight.shape)
    if compiled:
        compile_loss(model)
        if cuda:  # on a CPU, compilation takes a minute and gains a tenth
            compile_network(model, sequence_len)
    products = "fp8" if precision == "fp8" else str(dtype).removeprefix("torch.")
    what = ("network and loss" if cuda else "loss") if compiled else "nothing"
    slow_bf16 = "; no fast bf16 here" if precision == "bf16" and dtype == torch.float32 else ""
    faster = takewhile(lambda name: name != backend, BACKENDS) if cuda and kernels.attention == "auto" else ()
    reasons = "".join(f"; not {name}: {obstacle(name, device, dtype, compiled)}" for name in faster)
    return f"{device}: {products} products, {backend} attention, {what} compiled{slow_bf16}{reasons}"


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _cpu_has_bf16() -> bool:
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _compiles_on_cpu(model: GPT) -> bool:
    """Whether compiling the loss is worth it and possible: it needs a C++ compiler and the headers of Python."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    possible = shutil.which("g++") is not None and headers.is_file()
    return possible and model.architecture.vocab_size >= MIN_COMPILED_VOCABULARY
