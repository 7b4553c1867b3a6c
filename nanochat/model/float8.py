"""Matrix products in 8 bits with one dynamic scale per tensor (FP8 formats, arXiv:2209.05433).

Inputs and weights are e4m3; gradients are e5m2, which has less precision and more range. Only the forward product uses
fast accumulation. Unlike with torchao, `model.eval()` switches it off, weights stay fp32, and `torch.compile` can fuse
the casts, which are plain operations.

Shapes: N rows · I inputs · O outputs
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

SMALLEST_DIMENSION, MULTIPLE = 128, 16


def fits_float8(inputs: int, outputs: int) -> bool:
    """Whether the hardware supports a matrix of this shape, and it is large enough to be faster."""
    return inputs % MULTIPLE == 0 == outputs % MULTIPLE and min(inputs, outputs) >= SMALLEST_DIMENSION


def float8_linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T of (..., I) by (O, I), in the dtype of x (bf16); the gradient of the weight is in the weight's dtype."""
    product_NO = cast(Tensor, _Float8Linear.apply(x.flatten(0, -2), weight_OI))
    return product_NO.unflatten(0, x.shape[:-1])


class _Float8Linear(Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        x, x_scale = _quantised(x_NI, torch.float8_e4m3fn)
        weight, weight_scale = _quantised(weight_OI, torch.float8_e4m3fn)
        ctx.save_for_backward(x, x_scale, weight, weight_scale)
        ctx.weight_dtype = weight_OI.dtype
        return _product(x, x_scale, weight.T, weight_scale, x_NI.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_NO,) = grads
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        grad, grad_scale = _quantised(grad_NO, torch.float8_e5m2)
        dx_NI = _product(grad, grad_scale, _by_columns(weight), weight_scale, grad_NO.dtype, fast=False)
        dw_OI = _product(grad.T.contiguous(), grad_scale, _by_columns(x), x_scale, grad_NO.dtype, fast=False)
        return dx_NI, dw_OI.to(ctx.weight_dtype)


def _quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in 8 bits, and the fp32 factor that restores it."""
    largest = torch.finfo(dtype).max
    scale = largest / x.abs().amax().float().clamp_min(1e-12)
    return (x.float() * scale).clamp(-largest, largest).to(dtype), scale.reciprocal()


def _by_columns(x: Tensor) -> Tensor:
    """The same matrix with contiguous columns, as `_scaled_mm` requires for its right side."""
    return x.T.contiguous().T


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype, *, fast: bool) -> Tensor:
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast
    )
