"""Where the device's time goes: kernels by class, from torch's profiler."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_training import wait

CLASSES = {
    "compiled passes": r"^triton_(poi|red|per|for)|cpp_fused",
    "attention": r"flash|fmha|attention|sdpa|flex",
    "products": r"gemm|nvjet|cutlass|cublas|xmma|wgmma|triton_tem|_mm\b|::b?mm\b|::(addm|baddb)m\b|mkldnn|linear",
    "optimizer": r"multi_tensor|adam",
    "communication": r"nccl",
    "copies": r"memcpy|memset|copy|::contiguous|::cat\b|catarray",
    "reductions": r"reduce|softmax|::(sum|mean|norm|linalg)",
    "element-wise": r"elementwise|::(mul|add|div|sub|pow|exp|tanh|relu|sigmoid|lerp|where|neg|fill|zero)",
}
"""The first that the name of a kernel matches. On a CPU the names are those of operations."""


def kernel_class(name: str) -> str:
    """The class of a kernel, by its name."""
    return next((each for each, pattern in CLASSES.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def seconds_by_class(work: Callable[[], object], device: torch.device) -> tuple[dict[str, float], list[str]]:
    """Seconds on the device of each class of kernels in a call, the largest first; and the ten longest kernels."""
    cuda = device.type == "cuda"
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as recorded:
        work()
        wait(device)
    seconds: dict[str, float] = defaultdict(float)
    longest: list[tuple[float, str]] = []
    for event in recorded.key_averages():
        spent_s = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        if spent_s > 0:
            seconds[kernel_class(event.key)] += spent_s
            longest.append((spent_s, f"{spent_s * 1e3:.2f} ms in {event.count}: {event.key[:90]}"))
    ordered = sorted(seconds, key=lambda each: -seconds[each])
    return {each: seconds[each] for each in ordered}, [text for _, text in sorted(longest, reverse=True)[:10]]
