"""Every attention kernel that runs here equals torch's own, windows included; the others are refused with a reason."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
import torch
from torch import Tensor

from nanochat.errors import BadConfig
from nanochat.model import attention
from nanochat.model.attention import BACKENDS, best_backend, by_sdpa, prepare_backend
from tests.unit.test_gpt import built

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


def test_rows_of_another_length_than_prepared_use_sdpa() -> None:
    prepare_backend("flex", 256, (128,), CPU)
    q, k, v = (tensor.detach() for tensor in heads(200, 4, 4))
    assert torch.equal(BACKENDS["flex"](q, k, v, 128, 0.3), by_sdpa(q, k, v, 128, 0.3))


def test_a_model_attends_with_masks_for_the_rows_it_is_trained_on() -> None:
    model = built(sequence_len=1024)
    model.attend_with("flex", 512)
    assert set(attention._block_masks) == {(512, 256)}
    model.attend_with("flex", 2048)
    assert set(attention._block_masks) == {(2048, 256), (2048, 1024)}


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool, window_size: tuple[int, int]
) -> tuple[Tensor, None]:
    """FlashAttention 3 as documented: a window of -1 has no limit, and `causal` hides later keys."""
    left, right = (T if side < 0 else side for side, T in zip(window_size, (q.shape[1], k.shape[1]), strict=True))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(q.shape[2] // k.shape[2], 2)) * softmax_scale
    distance = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
    scores = scores.masked_fill((distance > left) | (distance < -right) | (causal & (distance < 0)), -torch.inf)
    windows.append(window_size)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.repeat_interleave(q.shape[2] // v.shape[2], 2)), None


windows: list[tuple[int, int]] = []
"""The windows that `flash_attn_func` received."""


@torch.library.custom_op("nanochat_tests::flash_attention", mutates_args=())
def operator(q: Tensor) -> Tensor:
    return q.clone()


def install(monkeypatch: pytest.MonkeyPatch, module: str, **contents: object) -> None:
    """A package of that name, with these contents and nothing else."""
    for name in (module.partition(".")[0], module):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, value in contents.items():
        setattr(sys.modules[module], name, value)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, generation: int = 9) -> torch.device:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    return torch.device("cuda", 0)


def test_flash_attention_3_gets_the_same_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package needs a GPU; the call is checked against its documented meaning."""
    install(monkeypatch, attention.FLASH3, flash_attn_func=flash_attn_func)
    prepare_backend("flash3", 40, (40, 7), CPU)
    q, k, v = heads(40, 4, 2)
    windows.clear()
    for window in (40, 39, 7):
        expected = by_sdpa(q, k, v, window, 0.3)
        torch.testing.assert_close(BACKENDS["flash3"](q, k, v, window, 0.3), expected, atol=1e-5, rtol=1e-5)
    assert windows == [(-1, 0), (-1, 0), (7, 0)]


def test_flash_attention_4_is_a_backend_of_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []

    def flex_attention(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        calls.append(options)
        return q

    prepare_backend("flash4", 256, (256, 128), CPU)
    monkeypatch.setitem(attention._kernels, "flex", flex_attention)
    q, k, v = heads(256, 4, 2)
    for window in (256, 128):
        BACKENDS["flash4"](q, k, v, window, 0.3)
    assert [call["kernel_options"] for call in calls] == [{"BACKEND": "FLASH"}] * 2
    full, local = (call["block_mask"].to_dense()[0, 0].tolist() for call in calls)  # type: ignore[attr-defined]
    assert full == local == [[1, 0], [1, 1]]
    prepare_backend("flash4", 512, (512, 128), CPU)
    assert attention._block_masks[512, 128].to_dense()[0, 0].tolist() == [  # type: ignore[attr-defined]
        [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]
    ]  # fmt: skip


def test_the_best_that_runs_is_taken_and_what_does_not_run_is_refused() -> None:
    assert best_backend("auto", CPU, torch.bfloat16, compiled=True) == "sdpa"
    assert best_backend("sdpa", CPU, torch.float32, compiled=False) == "sdpa"
    for name in ("flash4", "flash3", "flex"):
        with pytest.raises(BadConfig, match=rf"`{name}`, but it trains on GPUs"):
            best_backend(name, CPU, torch.bfloat16, compiled=True)


def test_on_a_gpu_the_order_is_flash_flex_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = on_a_gpu(monkeypatch)
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flex"
    assert best_backend("auto", gpu, torch.bfloat16, compiled=False) == "sdpa"
    with pytest.raises(BadConfig, match="bf16 or fp16 only"):
        best_backend("flash3", gpu, torch.float32, compiled=True)
    install(monkeypatch, attention.FLASH4, flash_attn_func=flash_attn_func)
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flash4"
    assert best_backend("auto", gpu, torch.bfloat16, compiled=False) == "sdpa"
    install(monkeypatch, attention.FLASH3, flash_attn_func=flash_attn_func, _flash_attn_forward=operator)
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flash3"
    assert best_backend("auto", gpu, torch.bfloat16, compiled=False) == "flash3"
    assert best_backend("auto", on_a_gpu(monkeypatch, 10), torch.bfloat16, compiled=True) == "flash4"
    assert best_backend("auto", on_a_gpu(monkeypatch, 8), torch.bfloat16, compiled=True) == "flex"


@pytest.mark.parametrize("name", ["flash3", "flash4"])
@pytest.mark.parametrize(
    "error",
    [ImportError("undefined symbol: x\nin y"), OSError("libcudart.so.12: missing"), RuntimeError("registered twice")],
)
def test_a_package_that_cannot_be_imported_is_left_out(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, import_module = on_a_gpu(monkeypatch), importlib.import_module

    def failing(module: str) -> types.ModuleType:
        if module in (attention.FLASH3, attention.FLASH4):
            raise error
        return import_module(module)

    monkeypatch.setattr(attention.importlib, "import_module", failing)
    assert best_backend("auto", gpu, torch.bfloat16, compiled=True) == "flex"
    with pytest.raises(BadConfig, match=rf"cannot be imported: {str(error).splitlines()[0]}"):
        best_backend(name, gpu, torch.bfloat16, compiled=True)


def test_packages_of_unusable_versions_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = on_a_gpu(monkeypatch)
    install(monkeypatch, attention.FLASH3)
    with pytest.raises(BadConfig, match="has no attribute 'flash_attn_func'"):
        best_backend("flash3", gpu, torch.bfloat16, compiled=True)
    install(monkeypatch, attention.FLASH3, flash_attn_func=flash_attn_func, _flash_attn_forward=flash_attn_func)
    with pytest.raises(BadConfig, match="no custom operator, so a compiled network would break"):
        best_backend("flash3", gpu, torch.bfloat16, compiled=True)
    assert best_backend("flash3", gpu, torch.bfloat16, compiled=False) == "flash3"
    install(monkeypatch, attention.FLASH4, flash_attn_func=flash_attn_func)
    monkeypatch.delattr("torch.nn.attention.flex_attention.FlexKernelOptions")
    with pytest.raises(BadConfig, match="has no `BACKEND` option"):
        best_backend("flash4", gpu, torch.bfloat16, compiled=True)
