"""Causal attention over a window of earlier tokens, and its kernels.

Training uses the fastest kernel that runs (`best_backend`) and logs its name. All `BACKENDS` support windows:

    flash3   FlashAttention 3 (arXiv:2407.08608): Hopper GPUs, bf16 or fp16
    flash4   FlashAttention 4 as a backend of FlexAttention, compiled: GPUs from Hopper on, bf16 or fp16
    flex     FlexAttention, compiled; the window is a block mask, and blocks outside are not computed
    sdpa     torch's scaled_dot_product_attention; a window is a dense mask

Shapes: B batch · T time · H query heads · K key/value heads · D channels of a head
"""

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

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
    return _by_flex(q_BTHD, k_BTKD, v_BTKD, window, scale, None)


def by_flash4(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float) -> Tensor:
    """FlashAttention 4, package `flash-attn-4`, called by FlexAttention: its own functions break a compiled graph."""
    return _by_flex(q_BTHD, k_BTKD, v_BTKD, window, scale, {"BACKEND": "FLASH"})


def by_flash3(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float) -> Tensor:
    """FlashAttention 3, package `flash_attn_interface`, where a window of -1 is the full context."""
    left = window if window < q_BTHD.shape[1] - 1 else -1
    out = _kernels["flash3"](q_BTHD, k_BTKD, v_BTKD, softmax_scale=scale, causal=True, window_size=(left, 0))
    return out[0] if isinstance(out, tuple) else out  # some versions also return the log-sum-exp


BACKENDS: dict[str, Backend] = {"flash3": by_flash3, "flash4": by_flash4, "flex": by_flex, "sdpa": by_sdpa}
"""Kernels by name, the fastest first."""
FLASH3, FLASH4, FLEX = "flash_attn_interface", "flash_attn.cute", "torch.nn.attention.flex_attention"


def best_backend(requested: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> str:
    """The requested backend, or for "auto" the fastest that runs here.

    Raises `BadConfig` when the requested one does not run here.
    """
    if requested == "auto":
        return next(name for name in BACKENDS if not obstacle(name, device, dtype, compiled))
    if reason := obstacle(requested, device, dtype, compiled):
        raise BadConfig(f"`compute.kernels.attention` is `{requested}`, but {reason}.", hint="Take `auto`.")
    return requested


def obstacle(name: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> str:
    """The reason why a backend does not run here; empty if it does."""
    if name == "sdpa":
        return ""
    if device.type != "cuda":
        return f"it trains on GPUs, not on `{device.type}`"
    if name != "flash3" and not compiled:
        return "it needs `compute.kernels.compile`"
    if name == "flex":
        return ""
    if dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bf16 or fp16 only"
    generation, _ = torch.cuda.get_device_capability(device)
    if name == "flash3":
        return _obstacle_to_flash3(compiled) if generation == 9 else "it needs a GPU of the Hopper generation"
    if generation not in (9, 10):
        return "it needs a GPU of the Hopper or Blackwell generation"
    return _obstacle_to_flash4()


def _obstacle_to_flash3(compiled: bool) -> str:
    library, reason = _imported(FLASH3, "flash_attn_func")
    if not reason and compiled and not isinstance(getattr(library, "_flash_attn_forward", None), CustomOpDef):
        return f"this version of `{FLASH3}` is no custom operator, so a compiled network would break at each layer"
    return reason


def _obstacle_to_flash4() -> str:
    options = getattr(importlib.import_module(FLEX), "FlexKernelOptions", None)
    if "BACKEND" not in getattr(options, "__annotations__", {}):
        return f"FlexAttention of torch {torch.__version__} has no `BACKEND` option to call it with"
    return _imported(FLASH4, "flash_attn_func")[1]


def _imported(module: str, function: str) -> tuple[Any, str]:
    """The module, and the reason why it cannot be used: a package for another torch or CUDA fails in many ways."""
    try:
        library = importlib.import_module(module)
        getattr(library, function)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return (
            None,
            f"`{module}` cannot be imported: {(str(error).splitlines() or [type(error).__name__])[0].rstrip('.')}",
        )
    return library, ""


def prepare_backend(name: str, T: int, windows: tuple[int, ...], device: torch.device) -> Backend:
    """The kernel of this backend, for rows of T tokens.

    Imports its package and makes its block masks, which a compiler cannot do. Rows of another length use SDPA where a
    block mask is needed.
    """
    if name == "flash3":
        _kernels[name] = importlib.import_module(FLASH3).flash_attn_func
    if name in ("flex", "flash4"):
        library = importlib.import_module(FLEX)  # takes half a second
        _kernels["flex"] = library.flex_attention
        _block_masks.clear()
        for window in set(windows):
            if name == "flash4" or window < T - 1:
                visible, size = _window_mask(window), _block_size(name, device)
                _block_masks[T, window] = library.create_block_mask(
                    visible, None, None, T, T, device=device, BLOCK_SIZE=size
                )
    return BACKENDS[name]


_kernels: dict[str, Callable[..., Any]] = {}
"""Imported kernel of each package."""
_block_masks: dict[tuple[int, int], Any] = {}
"""Block masks of FlexAttention by (T, window), on the device of the training process."""


def _block_size(name: str, device: torch.device) -> int | tuple[int, int]:
    """Queries and keys of a block of a mask: the tiles of the kernel must divide it."""
    on_blackwell = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (10, 0)
    return (256, 128) if name == "flash4" and on_blackwell else 128


def _window_mask(window: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= window)

    return visible


def _by_flex(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, scale: float, options: dict[str, str] | None
) -> Tensor:
    """FlexAttention with the block mask of these rows; SDPA where there is none."""
    mask = _block_masks.get((q_BTHD.shape[1], window))
    if mask is None:
        return by_sdpa(q_BTHD, k_BTKD, v_BTKD, window, scale)
    out_BHTD = _kernels["flex"](
        q_BTHD.transpose(1, 2),
        k_BTKD.transpose(1, 2),
        v_BTKD.transpose(1, 2),
        block_mask=mask,
        scale=scale,
        enable_gqa=q_BTHD.shape[2] != k_BTKD.shape[2],
        kernel_options=options,
    )
    return out_BHTD.transpose(1, 2)
