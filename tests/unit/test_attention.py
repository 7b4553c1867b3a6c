"""Every attention kernel that runs here equals torch's own, windows included; the others are refused with a reason."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from nanochat.errors import BadConfig
from nanochat.model import attention
from nanochat.model.attention import BACKENDS, best_backend, by_sdpa, prepare_backend

CPU = torch.device("cpu")


def heads(T: int, H: int, K: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, T, n, 16, generator=generator, requires_grad=True) for n in (H, K, K))  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("window", [256, 128, 5])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flex_equals_sdpa(window: int, kv_heads: int) -> None:
    """Forward: FlexAttention has no backward on CPUs (`tests/training/test_on_a_gpu.py` has it)."""
    prepare_backend("flex", 256, (window,), CPU)
    q, k, v = (tensor.detach() for tensor in heads(256, 4, kv_heads))
    with torch.no_grad():
        expected, got = (BACKENDS[name](q, k, v, window, 0.3) for name in ("sdpa", "flex"))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["flash3", "flash4"])
def test_flash_attention_gets_the_same_window(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages need a GPU; the call is checked against their documented meaning."""

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool, window_size: tuple[int, int]
    ) -> tuple[Tensor, None]:
        left, right = window_size
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(q.shape[2] // k.shape[2], 2)) * softmax_scale
        distance = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
        scores = scores.masked_fill((distance > left) | (distance < -right) | (causal & (distance < 0)), -torch.inf)
        values = v.repeat_interleave(q.shape[2] // v.shape[2], 2)
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values), None

    module = attention._PACKAGES[name][0]
    fake = types.ModuleType(module)
    fake.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.partition(".")[0], types.ModuleType(module.partition(".")[0]))
    monkeypatch.setitem(sys.modules, module, fake)
    prepare_backend(name, 40, (40, 7), CPU)
    q, k, v = heads(40, 4, 2)
    for window in (40, 7):
        expected = by_sdpa(q, k, v, window, 0.3)
        torch.testing.assert_close(BACKENDS[name](q, k, v, window, 0.3), expected, atol=1e-5, rtol=1e-5)


def test_the_best_that_runs_is_taken_and_what_does_not_run_is_refused() -> None:
    assert best_backend("auto", CPU, torch.bfloat16, compiled=True) == "sdpa"
    assert best_backend("sdpa", CPU, torch.float32, compiled=False) == "sdpa"
    for name in ("flash4", "flash3", "flex"):
        with pytest.raises(BadConfig, match=rf"`{name}`, but it trains on GPUs"):
            best_backend(name, CPU, torch.bfloat16, compiled=True)


def test_on_a_gpu_the_order_is_flash_flex_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flex"
    assert best_backend("auto", gpu, torch.bfloat16, compiled=False) == "sdpa"
    with pytest.raises(BadConfig, match="pip install flash-attn-4"):
        best_backend("flash4", gpu, torch.bfloat16, compiled=True)
    with pytest.raises(BadConfig, match="bf16 or fp16 only"):
        best_backend("flash3", gpu, torch.float32, compiled=True)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flash4"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flex"
