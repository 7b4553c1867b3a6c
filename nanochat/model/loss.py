"""Head, soft cap and cross-entropy in one, some rows at a time: the logits of a whole batch never exist.

The gradients are computed in the forward pass, while the logits of the chunk are in the processor's cache; only
`reduction="none"` computes the logits a second time. Matrix products run in the dtype of `x`, the rest in fp32.

Shapes: N rows (batch x time) · C channels · V vocabulary
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Reduction = Literal["mean", "sum", "none"]


def head_loss(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, *, softcap: float, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy in nats, fp32, of softcap(x W^T) against int64 targets; -1 is ignored, and 0 in "none".

    "mean" is over the targets that count (0 if there are none). Scalar, or (N,) for "none".
    """
    count = (targets_N >= 0).sum().clamp_min(1)
    scale = 1 / count if reduction == "mean" else torch.ones((), device=x_NC.device)
    loss_N, total = cast(
        tuple[Tensor, Tensor], _HeadLoss.apply(x_NC, weight_VC, targets_N, softcap, scale, reduction == "none")
    )
    return loss_N if reduction == "none" else total


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Rows whose logits are alive at once: 8 MB of them on a CPU, 1 GB on a GPU, within reason."""
    budget = 1 << 28 if device.type == "cuda" else 1 << 20
    return min(max(budget // vocab_size, 128), 16_384)


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, softcap: float, scale: Tensor, by_row: bool
    ) -> tuple[Tensor, Tensor]:
        learn = any(ctx.needs_input_grad[:2])
        ctx.softcap, ctx.by_row = softcap, by_row
        weight = weight_VC.to(x_NC.dtype)
        weights_N = None if by_row or not learn else scale.expand(len(x_NC)) * (targets_N >= 0)
        loss_N, dx_NC, dw_VC = _over_chunks(x_NC, weight, targets_N, softcap, weights_N)
        if by_row:
            ctx.save_for_backward(x_NC, weight_VC, targets_N)
            total = loss_N.new_zeros(())
            ctx.mark_non_differentiable(total)
        else:
            if learn:
                ctx.save_for_backward(dx_NC, dw_VC)
            total = loss_N.sum() * scale
            ctx.mark_non_differentiable(loss_N)
        ctx.weight_dtype = weight_VC.dtype
        return loss_N, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_N, grad = grads
        if ctx.by_row:
            x_NC, weight_VC, targets_N = ctx.saved_tensors
            weights_N = grad_N * (targets_N >= 0)
            _, dx_NC, dw_VC = _over_chunks(x_NC, weight_VC.to(x_NC.dtype), targets_N, ctx.softcap, weights_N)
            return dx_NC, None if dw_VC is None else dw_VC.to(ctx.weight_dtype), None, None, None, None
        dx_NC, dw_VC = ctx.saved_tensors
        return dx_NC * grad.to(dx_NC.dtype), (dw_VC * grad).to(ctx.weight_dtype), None, None, None, None


def _over_chunks(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, softcap: float, weights_N: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss of each row; with `weights_N` also the gradients of sum(weights x loss) by x and by the head (fp32)."""
    N, V = len(x_NC), len(weight_VC)
    rows = chunk_rows(V, x_NC.device)
    low_precision = x_NC.dtype in (torch.bfloat16, torch.float16)
    loss_N = torch.empty(N, dtype=torch.float32, device=x_NC.device)
    dx_NC = dw_VC = None
    if weights_N is not None:
        dx_NC = torch.empty_like(x_NC)
        dw_VC = torch.zeros(weight_VC.shape, dtype=torch.float32, device=x_NC.device)
    for start in range(0, N, rows):
        chunk = slice(start, start + rows)
        x, targets = x_NC[chunk], targets_N[chunk]
        column = targets.clamp_min(0)[:, None]
        # With a cap, z holds tanh(logits / cap): bounded, so that exp() needs no maximum taken off first.
        z = (x @ weight_VC.T).float()
        if softcap:
            z.mul_(1 / softcap).tanh_()
            chosen = z.gather(1, column) * softcap
            e = (z * softcap).exp_()
            mass = e.sum(1, keepdim=True)
            lse = mass.log()
        else:
            chosen = z.gather(1, column)
            top = z.amax(1, keepdim=True)
            e = z.sub_(top).exp_()
            mass = e.sum(1, keepdim=True)
            lse = mass.log() + top
        loss_N[chunk] = (lse - chosen).squeeze(1) * (targets >= 0)
        if weights_N is None or dx_NC is None or dw_VC is None:
            continue
        w = weights_N[chunk, None].float()
        e.mul_(w / mass).scatter_add_(1, column, -w)
        if softcap:
            e.addcmul_(e, z.square_(), value=-1)  # d(c tanh(z/c))/dz = 1 - tanh^2
        dz = e.to(x.dtype)
        torch.mm(dz, weight_VC, out=dx_NC[chunk])
        if low_precision:
            dw_VC += (dz.T @ x).float()
        else:
            dw_VC.addmm_(dz.T, x)
    return loss_N, dx_NC, dw_VC
