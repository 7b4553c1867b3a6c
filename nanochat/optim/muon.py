"""Muon for matrices: the update is the orthogonal matrix nearest to the momentum, with later improvements.

In order: Nesterov momentum (Muon, kellerjordan.github.io/posts/muon) → rows scaled to equal norms → polar factor by
five quintic iterations (Polar Express, arXiv:2505.16932) → Frobenius norm set to that of an exact polar factor →
division by the root of a second moment per row or column (NorMuon, arXiv:2510.05491), keeping the norm → weight decay
only where it has the sign of the update (cautious weight decay, arXiv:2510.12402).

Matrices of one shape are stacked and updated together. Shapes: N matrices · R rows · C columns
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.optim.exact_sum import reduce_scatter
from nanochat.optim.parameter_groups import Group
from nanochat.optim.schedule import StepRates

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""a, b, c of x → a x + b x^3 + c x^5 on the singular values; each triple is optimal for the interval that results from
the one before (lowest singular value 1e-3, cushion 2, safety 2%). Computed by the method of the paper."""
SECOND_MOMENT_BETA = 0.9
MIN_ROW_NORM = 1e-6
"""Rows with a smaller norm are not scaled up to the norm of the others."""
EPSILON = 1e-10


def polar_factor(x_NRC: Tensor) -> Tensor:
    """About U V^T of each matrix U S V^T, in its dtype; the singular values end between about 0.7 and 1.2."""
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]
    x = x_NRC.mT if tall else x_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def second_moment_shape(shape: torch.Size) -> tuple[int, ...]:
    """For (…, R, C): one number per row, (…, R, 1), if R ≥ C, else per column, (…, 1, C)."""
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
    """Updates a stack of matrices and their state in place; overwrites `grad_NRC`. All fp32.

    `second_N` has the shape `second_moment_shape`. `lr` is multiplied by sqrt(R/C) for tall matrices.
    """
    rows, columns = weight_NRC.shape[-2:]
    momentum_NRC.lerp_(grad_NRC, 1 - momentum)
    update = grad_NRC.lerp_(momentum_NRC, momentum)
    norm_NR1 = update.norm(dim=-1, keepdim=True)
    update.mul_(update.norm(dim=(-2, -1), keepdim=True) / rows**0.5 / norm_NR1.clamp_min_(MIN_ROW_NORM))
    # bf16 is precise enough for the iterations, and faster on tensor cores
    update = polar_factor(update.to(torch.bfloat16) if update.is_cuda else update).float()
    size = min(rows, columns) ** 0.5
    update = update * (size / update.norm(dim=(-2, -1), keepdim=True).clamp_min_(1e-6))
    square = update.square().mean(-1 if rows >= columns else -2, keepdim=True)
    second_N.lerp_(square, 1 - SECOND_MOMENT_BETA)
    scale = second_N.clamp_min(EPSILON).rsqrt_()
    before = square.sum((-2, -1), keepdim=True)
    after = (square * scale.square()).sum((-2, -1), keepdim=True).clamp_min_(EPSILON)
    update.mul_(scale.mul_((before / after).sqrt_()))
    if weight_decay:
        same_way = update * weight_NRC >= 0
        update.addcmul_(weight_NRC, same_way, value=weight_decay)
    weight_NRC.sub_(update, alpha=lr * max(1.0, rows / columns) ** 0.5)


class MuonShard:
    """This rank's shard of a stack of N matrices of one shape: a part of the matrices, each of them whole.

    The stack is padded with zeros to a multiple of the ranks.
    """

    def __init__(
        self, names: tuple[str, ...], weights: list[nn.Parameter], lr: float, rank: int, world_size: int, *, exact: bool
    ) -> None:
        self.names, self.weights, self.lr, self.world_size, self.exact = names, weights, lr, world_size, exact
        shape, device = weights[0].shape, weights[0].device
        size = -(-len(weights) // world_size)
        self.mine = slice(rank * size, (rank + 1) * size)
        self.padded = size * world_size
        self.momentum = torch.zeros((size, *shape), device=device)
        self.second = torch.zeros(second_moment_shape(self.momentum.shape), device=device)
        self._gradients = self._updated = self._gathered = torch.empty(0)
        self.gathering: dist.Work | None = None

    def reduce_scatter(self) -> dist.Work | None:
        """Starts to sum the gradients over the ranks; this rank receives the sum of its matrices."""
        gradients = _stacked([weight.grad for weight in self.weights if weight.grad is not None], self.padded)
        if self.world_size == 1:
            self._gradients = gradients
            return None
        self._gradients = torch.empty_like(self.momentum)
        return reduce_scatter(self._gradients, gradients, exact=self.exact)

    def divide_gradients(self, divisor: float) -> Tensor:
        """Divides the summed gradients; returns their squared norm, a scalar."""
        if divisor != 1:
            self._gradients.div_(divisor)
        return self._gradients.square().sum()

    def update(self, rates: StepRates) -> None:
        """Updates a copy of the matrices of this rank."""
        mine = [weight.detach() for weight in self.weights[self.mine]]
        self._updated = _stacked(mine, len(self.momentum)) if mine else torch.zeros_like(self.momentum)
        muon_step(
            self._updated, self._gradients, self.momentum, self.second, lr=self.lr * rates.lr_multiplier,
            momentum=rates.muon_momentum, weight_decay=rates.muon_weight_decay,
        )  # fmt: skip

    def all_gather(self) -> None:
        """Starts to send the updated matrices to all ranks."""
        self._gathered = self._updated
        if self.world_size > 1:
            self._gathered = self._updated.new_empty(self.padded, *self._updated.shape[1:])
            self.gathering = dist.all_gather_into_tensor(self._gathered, self._updated, async_op=True)

    def finish(self) -> None:
        """Copies the new matrices, which have arrived, into the model."""
        for index, weight in enumerate(self.weights):
            weight.copy_(self._gathered[index])
        self._gradients = self._updated = self._gathered = torch.empty(0)
        self.gathering = None

    def state(self) -> dict[str, Tensor]:
        """`<parameter>.momentum` and `.second` of the matrices of this rank."""
        return {
            f"{name}.{kind}": tensors[index]
            for index, name in enumerate(self.names[self.mine])
            for kind, tensors in (("momentum", self.momentum), ("second", self.second))
        }


def shards_by_shape(
    group: Group, parameters: Mapping[str, nn.Parameter], rank: int, world_size: int, *, exact: bool
) -> list[MuonShard]:
    """A stack for each shape among the matrices of a group."""
    shapes: dict[torch.Size, list[str]] = {}
    for name in group.names:
        shapes.setdefault(parameters[name].shape, []).append(name)
    return [
        MuonShard(tuple(names), [parameters[name] for name in names], group.lr, rank, world_size, exact=exact)
        for names in shapes.values()
    ]


def _stacked(tensors: list[Tensor], padded: int) -> Tensor:
    """The matrices, and zeros up to so many."""
    stack = torch.stack(tensors)
    missing = padded - len(tensors)
    return torch.cat([stack, stack.new_zeros(missing, *stack.shape[1:])]) if missing else stack
