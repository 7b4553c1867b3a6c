"""Parts of `gpu.py` about speed: a step of the profiles' models, its kernels, and nanochat's step beside it."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts import Bench
from benchmarks.gpu_profile import seconds_by_class
from benchmarks.gpu_training import MemoryRows, Shape, Training, profile_shape, random_rows, seconds_of
from benchmarks.training_peer import PeerNetwork, PeerOptimizer
from nanochat.config.training import OptimizerConfig
from nanochat.model.architecture import Architecture
from nanochat.model.attention import BACKENDS, best_backend
from nanochat.model.gpt import GPT
from nanochat.optim.schedule import StepRates
from nanochat.scaling import hyperparameters_from_steps
from nanochat.training.metrics import peak_flops

STEPS = 2
MFU = {"d12-bf16": 0.42, "d20-bf16": 0.50, "d24-bf16": 0.53, "d20-fp8": 0.55, "d24-fp8": 0.60}
"""Expected shares of the GPU's bf16 peak, by a model of the memory passes: no measurement."""
PEER_ROWS = 32
"""nanochat's rows of a micro-batch at d12."""


def speed(bench: Bench, depth: int, precision: str) -> None:
    """A step of the batch of the profile: first step, seconds, memory, MFU beside a bound; then its kernels."""
    name = f"d{depth}-{precision}"
    shape = profile_shape(depth, bench)
    training = Training(bench, shape, precision, random_rows(shape, bench.device))
    tokens, flops = shape.batch_tokens, shape.architecture.flops_per_token
    bench.numbers(setup=training.setup, micro_rows=training.micro_rows, batch_tokens=tokens)
    bench.numbers(first_step_s=seconds_of(lambda: _small_step(training), bench.device))  # the time of compilation
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [seconds_of(training.step, bench.device) for _ in range(1 if bench.rehearsal else STEPS)]
    peak = peak_flops(bench.device)
    step_s = median(seconds)
    numbers: dict[str, Any] = {"seconds": seconds, "tokens_per_s": tokens / step_s, "mfu": None}
    if bench.device.type == "cuda":
        numbers["peak_bytes"] = torch.cuda.max_memory_allocated()
        _, total = torch.cuda.mem_get_info()
        bench.check(
            "micro-batch", True, f"{training.micro_rows} rows, {numbers['peak_bytes'] / total:.0%} of the memory"
        )
    else:
        bench.check("micro-batch", None, f"{training.micro_rows} rows")
    seen = f"{tokens / step_s:,.0f} tokens/s"
    if peak:
        numbers["mfu"] = tokens * flops / step_s / peak
        seen = f"{numbers['mfu']:.1%} MFU, {seen}"
    bound = _bound_flops(shape.architecture, precision, bench)
    if bound and peak:
        numbers["bound_mfu"] = bound / peak
        seen += f"; products and attention alone would reach {bound / peak:.0%}"
    bench.numbers(**numbers)
    if name in MFU:
        goal = MFU[name]
        bench.check(name, bench.on_a_card(bool(peak) and numbers["mfu"] >= goal), seen)
    small_s = seconds_of(lambda: _small_step(training), bench.device)
    classes, longest = seconds_by_class(lambda: _small_step(training), bench.device)
    bench.numbers(
        profiled_tokens=training.micro_rows * shape.architecture.sequence_len, profiled_step_s=small_s,
        seconds_by_class=classes, longest_kernels=longest,
    )  # fmt: skip


def _small_step(training: Training) -> Tensor:
    """A step of one micro-batch, for the profiler."""
    whole = training.source
    training.source = MemoryRows(whole.rows, training.micro_rows, training.micro_rows)
    try:
        return training.step()
    finally:
        training.source = whole


def _bound_flops(architecture: Architecture, precision: str, bench: Bench) -> float:
    """FLOP/s if a step were its products and attention only, each at the rate that the earlier parts measured.

    0 if they did not run. The head's products count at the rate of the layers'.
    """
    products = bench.earlier("ceilings").get(f"d{architecture.depth}_product_flops", {})
    kernels = {name: found for name, found in bench.earlier("attention").items() if name in BACKENDS}
    rate = products.get("fp8" if precision == "fp8" else "bf16", {}).get("layers")
    if not rate or not kernels:
        return 0.0
    T = architecture.sequence_len
    seconds = 6 * architecture.scaling_parameters / rate
    for window in architecture.windows():
        fastest = max(found["forward_backward_flops"].get(str(window), 0.0) for found in kernels.values())
        if not fastest:
            return 0.0
        visible = sum(min(query + 1, window + 1) for query in range(T)) / T  # a token's
        seconds += 3.5 * 4 * architecture.width * visible / fastest
    return architecture.flops_per_token / seconds


def peer(bench: Bench, *, with_our_kernel: bool) -> None:
    """nanochat's step, rewritten, at d12 in bf16: with our attention kernel, or with dense masks."""
    shape = profile_shape(12, bench)
    kernel = best_backend("auto", bench.device, torch.bfloat16, not bench.rehearsal) if with_our_kernel else ""
    found = _peer_speed(kernel, shape, random_rows(shape, bench.device), bench)
    ours = bench.earlier("d12-bf16").get("tokens_per_s")
    ratio = ours / found["tokens_per_s"] if ours else None
    bench.numbers(attention=kernel or "dense masks", ours_to_peer=ratio, **found)
    name = "peer" if with_our_kernel else "peer-masks"
    if ratio:
        seen = f"{ratio:.2f} times its tokens/s, with " + (f"`{kernel}` on both sides" if kernel else "its dense masks")
        bench.check(name, bench.on_a_card(ratio > 1), seen)
    else:
        bench.check(name, None, f"it makes {found['tokens_per_s']:,.0f} tokens/s: `--only d12-bf16 {name}` compares")


def _peer_speed(kernel: str, shape: Shape, rows: Tensor, bench: Bench) -> dict[str, Any]:
    hyperparameters = hyperparameters_from_steps(
        shape.architecture, batch_tokens=shape.batch_tokens, steps=500, muon_weight_decay=0.1
    )
    model = GPT(shape.architecture)
    model.init_weights(1)
    network = PeerNetwork(model, torch.bfloat16).to(bench.device)
    if kernel:
        network.attend_with(kernel)
    optimizer = PeerOptimizer(network, model, OptimizerConfig(), hyperparameters)
    called = torch.compile(network, dynamic=False)
    if bench.rehearsal:  # its optimizer takes minutes to compile
        torch.compiler.set_stance("force_eager")
    source = MemoryRows(rows, hyperparameters.batch_rows, shape.micro_rows or PEER_ROWS)

    def step() -> None:
        batches = source.step()
        for inputs, targets in batches:
            (called(inputs, targets) / len(batches)).backward()
        optimizer.step(StepRates(1.0, 0.9, 0.1))

    first_s = seconds_of(step, bench.device)
    seconds = [seconds_of(step, bench.device) for _ in range(1 if bench.rehearsal else STEPS)]
    peak = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None
    torch.compiler.reset()
    return {
        "first_step_s": first_s, "seconds": seconds, "tokens_per_s": shape.batch_tokens / median(seconds),
        "peak_bytes": peak,
    }  # fmt: skip
