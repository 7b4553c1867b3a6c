"""Muon for matrices: the momentum's nearest orthogonal matrix, with what was found to help since.

In order: Nesterov momentum (Muon, kellerjordan.github.io/posts/muon) → rows equalised → polar factor by five
quintic iterations (Polar Express, arXiv:2505.16932) → Frobenius norm set to that of an exact polar factor → second
moment per row or column (NorMuon, arXiv:2510.05491), norm kept → weight decay only where it goes the way of the update
(cautious weight decay, arXiv:2510.12402).

Matrices of one shape are stacked and stepped in one go. Shapes: N matrices · R rows · C columns
"""

from __future__ import annotations

import torch
from torch import Tensor

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""a, b, c of x → a x + b x^3 + c x^5 on the singular values, each best for the interval the one before leaves
(lowest singular value 1e-3, cushion 2, safety 2%); computed by the method of the paper."""
SECOND_MOMENT_BETA = 0.9
SMALLEST_ROW = 1e-6
"""Norm of a row; those below it are not blown up to the others' size."""
TINY = 1e-10


def polar_factor(x_NRC: Tensor) -> Tensor:
    """Roughly U V^T of U S V^T, for each matrix; singular values end between about 0.7 and 1.2, in the dtype given."""
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]
    x = x_NRC.mT if tall else x_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def second_moment_shape(shape: torch.Size) -> tuple[int, ...]:
    """Of a (…, R, C) matrix: a number a row for a tall or square one, a column for a wide one."""
    *stack, rows, columns = shape
    return (*stack, rows, 1) if rows >= columns else (*stack, 1, columns)


def muon_step(
    weight_NRC: Tensor,
    grad_NRC: Tensor,
    momentum_NRC: Tensor,
    second_N: Tensor,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Step a stack of matrices in place, with their state; `grad_NRC` is used up. All fp32.

    `second_N` has the shape of `second_moment_shape`. The rate is multiplied by sqrt(R/C) for tall matrices.
    """
    rows, columns = weight_NRC.shape[-2:]
    momentum_NRC.lerp_(grad_NRC, 1 - momentum)
    update = grad_NRC.lerp_(momentum_NRC, momentum)
    norm_NR1 = update.norm(dim=-1, keepdim=True)
    update.mul_(update.norm(dim=(-2, -1), keepdim=True) / rows**0.5 / norm_NR1.clamp_min_(SMALLEST_ROW))
    # bf16 is precise enough for the iterations, and pays where there are tensor cores.
    update = polar_factor(update.to(torch.bfloat16) if update.is_cuda else update).float()
    size = min(rows, columns) ** 0.5
    update = update * (size / update.norm(dim=(-2, -1), keepdim=True).clamp_min_(1e-6))
    square = update.square().mean(-1 if rows >= columns else -2, keepdim=True)
    second_N.lerp_(square, 1 - SECOND_MOMENT_BETA)
    scale = second_N.clamp_min(TINY).rsqrt_()
    before = square.sum((-2, -1), keepdim=True)
    after = (square * scale.square()).sum((-2, -1), keepdim=True).clamp_min_(TINY)
    update.mul_(scale.mul_((before / after).sqrt_()))
    if weight_decay:
        same_way = update * weight_NRC >= 0
        update.addcmul_(weight_NRC, same_way, value=weight_decay)
    weight_NRC.sub_(update, alpha=lr * max(1.0, rows / columns) ** 0.5)
