"""Causal attention over a window of earlier tokens, and its kernels.

Training uses the fastest kernel that runs (`best_backend`) and logs its name. All `BACKENDS` support windows:

    flash4, flash3   FlashAttention 4 and 3 (arXiv:2407.08608), on GPUs, in bf16 or fp16, where they can be imported
    flex             FlexAttention, compiled; the window is a block mask, and blocks outside are not computed
    sdpa             torch's scaled_dot_product_attention; a window is a dense mask

Shapes: B batch · T time · H query heads · K key/value heads · D channels of a head
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from nanochat.errors import BadConfig

Backend = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
"""(q (B, T, H, D), k and v (B, T, K, D), window, scale) → (B, T, H, D); see `by_sdpa`."""


def by_sdpa(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float) -> Tensor:
    """torch's scaled_dot_product_attention. Each query attends to itself and the `window` positions before it."""
    T = q_BTHD.shape[1]
    mask = _band(T, window, q_BTHD.device) if window < T - 1 else None
    out_BHTD = F.scaled_dot_product_attention(
        q_BTHD.transpose(1, 2),
        k_BTKD.transpose(1, 2),
        v_BTKD.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q_BTHD.shape[2] != k_BTKD.shape[2],
    )
    return out_BHTD.transpose(1, 2)


@lru_cache(maxsize=16)
def _band(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool: the key is at the position of the query, or at most `window` before it."""
    distance_TT = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    return (distance_TT >= 0) & (distance_TT <= window)


def by_flex(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float) -> Tensor:
    """FlexAttention, for compiled code: otherwise it computes all scores. A full context uses SDPA."""
    if window >= q_BTHD.shape[1] - 1:
        return by_sdpa(q_BTHD, k_BTKD, v_BTKD, window, scale)
    out_BHTD = _kernels["flex"](
        q_BTHD.transpose(1, 2),
        k_BTKD.transpose(1, 2),
        v_BTKD.transpose(1, 2),
        block_mask=_block_masks[q_BTHD.shape[1], window],
        scale=scale,
        enable_gqa=q_BTHD.shape[2] != k_BTKD.shape[2],
    )
    return out_BHTD.transpose(1, 2)


def by_flash3(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float) -> Tensor:
    """FlashAttention 3, package `flash_attn_interface`."""
    return _by_flash("flash3", q_BTHD, k_BTKD, v_BTKD, window, scale)


def by_flash4(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float) -> Tensor:
    """FlashAttention 4, package `flash-attn-4`."""
    return _by_flash("flash4", q_BTHD, k_BTKD, v_BTKD, window, scale)


BACKENDS: dict[str, Backend] = {"flash4": by_flash4, "flash3": by_flash3, "flex": by_flex, "sdpa": by_sdpa}
"""Kernels by name, the fastest first."""
_PACKAGES = {"flash4": ("flash_attn.cute", "flash-attn-4"), "flash3": ("flash_attn_interface", "flash-attn-3")}


def best_backend(requested: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> str:
    """The requested backend, or for "auto" the fastest that runs here.

    Raises `BadConfig` when the requested one does not run here.
    """
    reasons = {name: _obstacle(name, device, dtype, compiled) for name in BACKENDS}
    if requested == "auto":
        return next(name for name, reason in reasons.items() if not reason)
    if reasons[requested]:
        raise BadConfig(f"`compute.kernels.attention` is `{requested}`, but {reasons[requested]}.", hint="Take `auto`.")
    return requested


def _obstacle(name: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> str:
    """The reason why a backend does not run here; empty if it does."""
    if name == "sdpa":
        return ""
    if device.type != "cuda":
        return f"it trains on GPUs, not on `{device.type}`"
    if name == "flex":
        return "" if compiled else "it needs `compute.kernels.compile`"
    module, package = _PACKAGES[name]
    if dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bf16 or fp16 only"
    if torch.cuda.get_device_capability(device) < (9, 0):
        return "it needs a GPU of the Hopper generation or later"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    return "" if found else f"`{module}` cannot be imported (`pip install {package}`)"


def prepare_backend(name: str, T: int, windows: tuple[int, ...], device: torch.device) -> Backend:
    """The kernel of this backend. Imports its package and makes its block masks, which a compiler cannot do."""
    if name in _PACKAGES:
        _kernels[name] = importlib.import_module(_PACKAGES[name][0]).flash_attn_func
    if name == "flex":
        library = importlib.import_module("torch.nn.attention.flex_attention")  # takes half a second
        _kernels[name] = library.flex_attention
        for window in set(windows):
            visible = _window_mask(window)
            _block_masks[T, window] = library.create_block_mask(visible, None, None, T, T, device=device)
    return BACKENDS[name]


_kernels: dict[str, Callable[..., Any]] = {}
"""Imported kernel of each backend."""
_block_masks: dict[tuple[int, int], Any] = {}
"""Block masks of FlexAttention by (T, window), on the device of the training process."""


def _window_mask(window: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= window)

    return visible


def _by_flash(name: str, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    out = _kernels[name](q, k, v, softmax_scale=scale, causal=True, window_size=(window, 0))
    return out[0] if isinstance(out, tuple) else out  # some versions also return the log-sum-exp
