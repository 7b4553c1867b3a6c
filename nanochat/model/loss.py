"""Head, soft cap and cross-entropy in one operation, in chunks of rows: memory never holds all logits of a batch.

The forward pass also computes the gradients while it has the logits of a chunk; only `reduction="none"` computes the
logits a second time. Matrix products run in the dtype of `x`, the rest in fp32. The operations between the products are
one function, `between_products`: compiled, it makes two passes over the logits, without a compiler eleven, which on a
CPU cost as much as the products.

Shapes: N rows (batch x time) · C channels · V vocabulary
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Reduction = Literal["mean", "sum", "none"]
Between = Callable[[Tensor, Tensor | None, float], Tensor]
"""The signature of `between_products`."""


def between_products(logits_NV: Tensor, weights_N1: Tensor | None, softcap: float) -> Tensor:
    """Raw logits (N, V) → lse = log(sum(exp(capped logits))) per row, (N, 1) fp32.

    With fp32 weights, overwrites the logits with the gradient of sum(weights x lse), without the term of the target.
    """
    z = logits_NV.float()
    if softcap:  # capped logits are bounded: exp() needs no subtraction of the maximum
        tanh = _tanh(z * (1 / softcap))
        exponentials = (tanh * softcap).exp_()
        mass = exponentials.sum(1, keepdim=True)
        lse = mass.log()
    else:
        top = z.amax(1, keepdim=True)
        tanh, exponentials = None, (z - top).exp_()
        mass = exponentials.sum(1, keepdim=True)
        lse = mass.log() + top
    if weights_N1 is not None:
        share = exponentials.mul_(weights_N1 / mass)
        if tanh is not None:
            share = share.addcmul_(share, tanh.square_(), value=-1)  # d(c tanh(z/c))/dz = 1 - tanh²
        logits_NV.copy_(share)
    return lse


def _tanh(z: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return 1 - 2 / (1 + (2 * z).exp())  # one fused pass, twice as fast as torch's; differs by at most 1e-6
    return z.tanh_()


def head_loss(
    x_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    *,
    softcap: float,
    reduction: Reduction = "mean",
    between: Between = between_products,
) -> Tensor:
    """Cross-entropy in nats, fp32, of softcap * tanh(x W^T / softcap) against int64 targets; -1 does not count.

    A scalar for "sum" and "mean" (over counted targets; 0 if there are none), (N,) for "none". `between` is
    `between_products`, compiled or not.
    """
    count = (targets_N >= 0).sum().clamp_min(1)
    scale = 1 / count if reduction == "mean" else torch.ones((), device=x_NC.device)
    loss_N, total = cast(
        tuple[Tensor, Tensor], _HeadLoss.apply(x_NC, weight_VC, targets_N, softcap, scale, reduction == "none", between)
    )
    return loss_N if reduction == "none" else total


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Rows per chunk: as many as have 32 Mi logits on a CPU, 256 Mi on a GPU, within limits.

    Each chunk is added to the gradient of the head, so fewer chunks are faster.
    """
    budget = 1 << 28 if device.type == "cuda" else 1 << 25
    return min(max(budget // vocab_size, 128), 16_384 if device.type == "cuda" else 4096)


def fills_last_chunk(device: torch.device) -> bool:
    """Whether a smaller last chunk gets the shape of the others, so that `between_products` is compiled once.

    On a GPU. On a CPU, batches have whole chunks, and the result of a smaller one stays what it was, bit by bit.
    """
    return device.type == "cuda"


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        weight_VC: Tensor,
        targets_N: Tensor,
        softcap: float,
        scale: Tensor,
        by_row: bool,
        between: Between,
    ) -> tuple[Tensor, Tensor]:
        training = any(ctx.needs_input_grad[:2])
        ctx.softcap, ctx.by_row, ctx.between = softcap, by_row, between
        weight = weight_VC.to(x_NC.dtype)
        weights_N = None if by_row or not training else scale.expand(len(x_NC)) * (targets_N >= 0)
        loss_N, dx_NC, dw_VC = _over_chunks(x_NC, weight, targets_N, softcap, weights_N, between)
        if by_row:
            ctx.save_for_backward(x_NC, weight_VC, targets_N)
            total = loss_N.new_zeros(())
            ctx.mark_non_differentiable(total)
        else:
            if training:
                ctx.save_for_backward(dx_NC, dw_VC)
            total = loss_N.sum() * scale
            ctx.mark_non_differentiable(loss_N)
        ctx.weight_dtype = weight_VC.dtype
        return loss_N, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_N, grad = grads
        if ctx.by_row:
            x_NC, weight_VC, targets_N = ctx.saved_tensors
            weights_N = grad_N * (targets_N >= 0)
            _, dx_NC, dw_VC = _over_chunks(
                x_NC, weight_VC.to(x_NC.dtype), targets_N, ctx.softcap, weights_N, ctx.between
            )
            return dx_NC, None if dw_VC is None else dw_VC.to(ctx.weight_dtype), None, None, None, None, None
        dx_NC, dw_VC = ctx.saved_tensors
        return dx_NC * grad.to(dx_NC.dtype), (dw_VC * grad).to(ctx.weight_dtype), None, None, None, None, None


def _over_chunks(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, softcap: float, weights_N: Tensor | None, between: Between
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss per row, (N,); with `weights_N`, also the gradients of sum(weights x loss): (N, C) and (V, C) fp32."""
    N, V = len(x_NC), len(weight_VC)
    rows = chunk_rows(V, x_NC.device)
    loss_N = torch.empty(N, dtype=torch.float32, device=x_NC.device)
    buffer = x_NC.new_empty(min(rows, N), V)  # reused by all chunks: fresh memory is slow
    dx_NC = None if weights_N is None else torch.empty_like(x_NC)
    dw_VC = None
    for start in range(0, N, rows):
        chunk = slice(start, start + rows)
        x, targets = x_NC[chunk], targets_N[chunk]
        column = targets.clamp_min(0)[:, None]
        logits = torch.mm(x, weight_VC.T, out=buffer[: len(x)])
        w = None if weights_N is None else weights_N[chunk, None].float()
        chosen = logits.gather(1, column).float()
        if softcap:
            chosen = softcap * torch.tanh(chosen / softcap)
        if 0 < len(x) < len(buffer) and fills_last_chunk(x.device):  # rows of the chunk before, without weight
            weights = None if w is None else torch.cat([w, w.new_zeros(len(buffer) - len(x), 1)])
            lse = between(buffer, weights, softcap)[: len(x)]
        else:
            lse = between(logits, w, softcap)
        loss_N[chunk] = (lse - chosen).squeeze(1) * (targets >= 0)
        if w is None or dx_NC is None:
            continue
        dz, slope = logits, 1 - (chosen / softcap) ** 2 if softcap else 1.0
        dz.scatter_(1, column, (w * ((chosen - lse).exp() - 1) * slope).to(dz.dtype))
        torch.mm(dz, weight_VC, out=dx_NC[chunk])
        dw = (dz.T @ x).float()
        dw_VC = dw if dw_VC is None else dw_VC.add_(dw)
    return loss_N, dx_NC, dw_VC
