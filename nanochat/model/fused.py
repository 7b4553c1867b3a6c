"""Element-wise operations of the network with explicit gradients, which make as few passes over memory as possible.

Without a compiler, autograd's versions read and write each activation two to three times as often; on a CPU, with a
small model, that takes as long as the matrix products. The gradients are exact (`torch.autograd.gradcheck`). Compiled
code uses the plain formulas instead: the compiler fuses them, but cannot see through a `Function`.

Shapes: B batch · T time · H heads · D channels of a head
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NORM_EPSILON = torch.finfo(torch.float32).eps
"""For all dtypes: the mean square is computed in fp32, as in `torch.nn.functional.rms_norm`."""


class _Norm(Function):
    """y = x / rms(x); dx = (dy - y mean(dy y)) / rms(x). Saves y and 1 / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        y = x * inverse.to(x.dtype)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        y, inverse = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1).mul_(inverse.to(y.dtype)), None


class _Rotate(Function):
    """The gradient of a rotation is the rotation by the opposite angle. Saves cos and sin only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    left, right = x.chunk(2, -1)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    y_left, y_right = y.chunk(2, -1)
    torch.mul(left, cos, out=y_left)
    torch.mul(right, cos, out=y_right)
    y_left.addcmul_(right, sin, value=sign)
    y_right.addcmul_(left, sin, value=-sign)
    return y


class _Blend(Function):
    """y = a x + b first; da = sum(dy x), db = sum(dy first)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, first, a, b)
        return (x * a).addcmul_(first, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        x, first, a, b = ctx.saved_tensors
        flat = grad.reshape(-1)
        return grad * a, grad * b, torch.dot(flat, x.reshape(-1)), torch.dot(flat, first.reshape(-1))


class _ReluSquared(Function):
    """y = max(x, 0)^2; dx = 2 max(x, 0) dy. Saves max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (positive,) = ctx.saved_tensors
        return (grads[0] * positive).mul_(2)


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without parameters (arXiv:1910.07467); keeps shape and dtype."""
    if torch.compiler.is_compiling():
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)
    return cast(Tensor, _Norm.apply(x, NORM_EPSILON))


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: rotates channels (i, i + D/2) by minus the angle of their position.

    (B, T, H, D) → (B, T, H, D); cos and sin broadcast to (B, T, 1, D/2).
    """
    if torch.compiler.is_compiling():
        left, right = x_BTHD.chunk(2, -1)
        return torch.cat([left * cos + right * sin, right * cos - left * sin], -1)
    return cast(Tensor, _Rotate.apply(x_BTHD, cos, sin))


def blend(x: Tensor, first: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a x + b first, of two tensors of one shape and two scalar tensors."""
    if torch.compiler.is_compiling():
        return x * a + first * b
    return cast(Tensor, _Blend.apply(x, first, a, b))


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (Primer, arXiv:2109.08668), element-wise."""
    if torch.compiler.is_compiling():
        return x.relu().square()
    return cast(Tensor, _ReluSquared.apply(x))
