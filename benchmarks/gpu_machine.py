"""Parts of `gpu.py` about the machine: versions and kernels at hand, and the ceilings that it reaches."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu_parts import Bench
from benchmarks.gpu_training import kernel_seconds, profile_shape
from nanochat.errors import BadConfig
from nanochat.model.architecture import Architecture
from nanochat.model.attention import BACKENDS, obstacle
from nanochat.training.metrics import peak_flops

PACKAGES = ("torch", "triton", "numpy", "flash-attn", "flash-attn-3", "flash-attn-4", "torchao", "liger-kernel")
CEILING_DEPTHS = (12, 20, 24)
Measure = Callable[[int, int, int, Bench], float]
"""(tokens, inputs, outputs, bench) → seconds of a product."""
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory"


def find_device(bench: Bench) -> None:
    """Raises `BadConfig` without a GPU."""
    if bench.device.type == "cuda" and not torch.cuda.is_available():
        raise BadConfig("There is no CUDA device here: rehearse on a CPU with `--rehearse`.")


def versions(bench: Bench) -> None:
    """Names and versions of all that the numbers depend on."""
    bench.numbers(
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        attention={name: obstacle(name, bench.device, torch.bfloat16, True) or "runs" for name in BACKENDS},
    )  # fmt: skip
    if bench.device.type != "cuda":
        bench.numbers(device=platform.processor() or "CPU", threads=torch.get_num_threads())
        return
    found = torch.cuda.get_device_properties(bench.device)
    bench.numbers(
        device=found.name, capability=list(torch.cuda.get_device_capability(bench.device)),
        memory_bytes=found.total_memory, multiprocessors=found.multi_processor_count,
        peak_bf16_flops=peak_flops(bench.device),
    )  # fmt: skip
    try:
        queried = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=10,
            check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        queried = f"nvidia-smi: {error}"
    bench.numbers(nvidia_smi=queried)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def ceilings(bench: Bench) -> None:
    """Bandwidth of a copy; rate of the matrix products of a forward pass, in bf16 and 8 bits."""
    size = 1 << (20 if bench.rehearsal else 32)  # bytes: more than any cache
    bench.numbers(copy_bytes_per_s=2 * size / _copy_seconds(size, bench))
    for depth in CEILING_DEPTHS:
        shape = profile_shape(depth, bench)
        tokens = 256 if bench.rehearsal else 32_768
        rates = {"bf16": _product_rate(shape.architecture, tokens, bench, _in_bf16)}
        bench.numbers(**{f"d{depth}_product_flops": rates})
        rates["fp8"] = _product_rate(shape.architecture, tokens, bench, _in_float8)
        bench.numbers(**{f"d{depth}_product_flops": rates})


def _copy_seconds(size: int, bench: Bench) -> float:
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return kernel_seconds(lambda: target.copy_(source), bench)


def product_shapes(architecture: Architecture) -> list[tuple[int, int, int]]:
    """(inputs, outputs, times) of the large products of a forward pass, without the head."""
    C, kv, L = architecture.width, architecture.kv_width, architecture.depth
    return [(C, C, 2 * L), (C, kv, 2 * L), (C, 4 * C, L), (4 * C, C, L)]


def _product_rate(architecture: Architecture, tokens: int, bench: Bench, measure: Measure) -> dict[str, float]:
    """FLOP/s of each product as "inputs x outputs", and of all of them in the share that a layer has (`layers`)."""
    found: dict[str, float] = {}
    flops = seconds = 0.0
    for inputs, outputs, times in product_shapes(architecture):
        each = measure(tokens, inputs, outputs, bench)
        found[f"{inputs}x{outputs}"] = 2 * tokens * inputs * outputs / each
        flops += 2 * tokens * inputs * outputs * times
        seconds += each * times
    return {**found, "layers": flops / seconds}


def _operands(tokens: int, inputs: int, outputs: int, bench: Bench) -> tuple[Tensor, Tensor]:
    """Random bf16: zeros would be faster than real numbers."""
    generator = torch.Generator(bench.device).manual_seed(1)
    x = torch.randn(tokens, inputs, generator=generator, device=bench.device)
    weight = torch.randn(outputs, inputs, generator=generator, device=bench.device)
    return x.bfloat16(), weight.bfloat16()


def _in_bf16(tokens: int, inputs: int, outputs: int, bench: Bench) -> float:
    x, weight = _operands(tokens, inputs, outputs, bench)
    return kernel_seconds(lambda: x @ weight.T, bench)


def _in_float8(tokens: int, inputs: int, outputs: int, bench: Bench) -> float:
    """The product alone, of operands that are in 8 bits already, with one scale each."""
    x, weight = (each.to(torch.float8_e4m3fn) for each in _operands(tokens, inputs, outputs, bench))
    one = torch.ones((), device=bench.device)

    def product() -> Tensor:
        return torch._scaled_mm(x, weight.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return kernel_seconds(product, bench)
