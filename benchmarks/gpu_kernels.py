"""Parts of `gpu.py` about values and speed of single kernels: attention, and products in 8 bits, against fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_parts import Bench
from benchmarks.gpu_training import kernel_seconds
from nanochat.model.attention import BACKENDS, Backend, best_backend, obstacle, prepare_backend
from nanochat.model.float8 import float8_linear

MAX_ATTENTION_ERROR = 0.01
"""bf16 operands are rounded by up to 2^-9 each, so a correct kernel is between 0.001 and 0.01."""
MAX_FLOAT8_ERROR, MAX_FLOAT8_GRADIENT_ERROR = 0.05, 0.10
"""e4m3 rounds by up to 2^-4, 0.026 on average, for two operands 0.037; e5m2, of gradients, by twice that."""


def attention(bench: Bench) -> None:
    """Every kernel that can be imported, in bf16, against fp64: output and gradients, a local and a full window."""
    T = 256 if bench.rehearsal else 2048
    windows = (T // 4, T)
    worst: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name in BACKENDS:
        if reason := obstacle(name, bench.device, torch.bfloat16, True):
            absent[name] = reason
            continue
        kernel = prepare_backend(name, T, windows, bench.device)
        called = torch.compile(kernel) if name in ("flex", "flash4") else kernel
        errors = {str(window): _attention_error(called, T, window, bench) for window in windows}
        worst[name] = max(errors.values())
        speed = {str(window): _attention_flops(called, T, window, bench) for window in windows}
        bench.numbers(**{name: {"errors": errors, "forward_backward_flops": speed}})
        torch.compiler.reset()
    bench.numbers(absent=absent)
    bad = [name for name, error in worst.items() if not error < MAX_ATTENTION_ERROR]
    seen = ", ".join(f"{name} {error:.2%}" for name, error in worst.items())
    bench.check("kernels", not bad, seen + (f"; not here: {', '.join(absent)}" if absent else ""))
    chosen = best_backend("auto", bench.device, torch.bfloat16, True)
    bench.check("auto", bench.on_a_card(chosen != "sdpa"), f"it takes `{chosen}`")


def _given(T: int, heads: int, batch: int, bench: Bench) -> list[Tensor]:
    """q, k and v, (B, T, H, 128) bf16, with gradients; two queries share a key/value head."""
    generator = torch.Generator(bench.device).manual_seed(T + heads)
    sizes = ((batch, T, count, 128) for count in (heads, heads // 2, heads // 2))
    return [
        torch.randn(size, generator=generator, device=bench.device).bfloat16().requires_grad_() for size in sizes
    ]  # fmt: skip


def _attention_error(kernel: Backend, T: int, window: int, bench: Bench) -> float:
    """The largest relative error of output and gradients (Frobenius norms)."""
    given = _given(T, 4, 2, bench)
    exact = [each.detach().double().requires_grad_() for each in given]
    out, expected = kernel(*given, window, 0.12), _exact_attention(*exact, window, 0.12)
    ahead = torch.randn(out.shape, generator=torch.Generator(bench.device).manual_seed(3), device=bench.device)
    out.backward(ahead.to(out.dtype))
    expected.backward(ahead.to(out.dtype).double())
    pairs = [(out, expected), *((mine.grad, theirs.grad) for mine, theirs in zip(given, exact, strict=True))]
    return max(relative_error(mine, theirs) for mine, theirs in pairs)


def _exact_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """By the formula, in the dtype of its inputs."""
    T, shared = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (each.repeat_interleave(shared, 2) for each in (k, v))
    distance_TT = torch.arange(T, device=q.device)[:, None] - torch.arange(T, device=q.device)
    scores_BHTT = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    visible_TT = (distance_TT >= 0) & (distance_TT <= window)
    weights_BHTT = scores_BHTT.masked_fill(~visible_TT, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights_BHTT, v)


def _attention_flops(kernel: Backend, T: int, window: int, bench: Bench) -> float:
    """FLOP/s of a forward and backward pass; counted are visible keys only, the backward pass as 2.5 forward ones."""
    heads, batch = (4, 1) if bench.rehearsal else (12, 16)
    given = _given(T, heads, batch, bench)
    ahead = torch.ones_like(given[0])

    def both() -> None:
        kernel(*given, window, 0.12).backward(ahead)

    visible = sum(min(query + 1, window + 1) for query in range(T))
    return 3.5 * 4 * batch * heads * 128 * visible / kernel_seconds(both, bench)


def float8(bench: Bench) -> None:
    """The linear layer in 8 bits: output and gradients against fp64."""
    tokens, inputs, outputs = (256, 128, 256) if bench.rehearsal else (16_384, 1536, 6144)
    generator = torch.Generator(bench.device).manual_seed(1)
    x, weight, ahead = (
        torch.randn(size, generator=generator, device=bench.device)
        for size in ((tokens, inputs), (outputs, inputs), (tokens, outputs))
    )
    x, weight = x.bfloat16().requires_grad_(), (weight / inputs**0.5).requires_grad_()
    exact_x, exact_weight = (each.detach().double().requires_grad_() for each in (x, weight))
    out, expected = float8_linear(x, weight), exact_x @ exact_weight.T
    out.backward(ahead.to(out.dtype))
    expected.backward(ahead.to(out.dtype).double())
    errors = [relative_error(out, expected), relative_error(x.grad, exact_x.grad)]
    errors.append(relative_error(weight.grad, exact_weight.grad))
    bench.numbers(error=errors[0], input_gradient_error=errors[1], weight_gradient_error=errors[2])
    holds = errors[0] < MAX_FLOAT8_ERROR and max(errors[1:]) < MAX_FLOAT8_GRADIENT_ERROR
    bench.check("float8", holds, f"{errors[0]:.1%}; gradients {errors[1]:.1%} and {errors[2]:.1%}")


def relative_error(got: Tensor | None, expected: Tensor | None) -> float:
    """‖got - expected‖ / ‖expected‖."""
    assert got is not None and expected is not None
    return float((got.detach().double() - expected.detach()).norm() / expected.detach().norm())
