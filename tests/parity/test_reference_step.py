"""Three optimizer steps against the formulas written out for one matrix, and one table, at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.config.training import ModelConfig, OptimizerConfig
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.optim.muon import POLAR_EXPRESS
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.parameter_groups import parameter_groups
from nanochat.optim.schedule import StepRates
from nanochat.scaling import hyperparameters_from_steps


def slow_muon(w: Tensor, grads: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    rows, columns = w.shape
    average, second = torch.zeros_like(w), None
    for g in grads:
        average = momentum * average + (1 - momentum) * g
        u = (1 - momentum) * g + momentum * average
        lengths = [float(row.norm()) for row in u]
        mean = (sum(length**2 for length in lengths) / rows) ** 0.5
        u = torch.stack([row * (mean / length) for row, length in zip(u, lengths, strict=True)])
        u = u / (1.01 * u.norm())
        left, s, right = torch.linalg.svd(u, full_matrices=False)
        for a, b, c in POLAR_EXPRESS:  # odd polynomials act on the singular values alone
            s = a * s + b * s**3 + c * s**5
        u = left @ torch.diag(s) @ right
        u = u / u.norm() * min(rows, columns) ** 0.5
        length = u.norm()
        along = 1 if rows >= columns else 0
        now = (u * u).mean(along, keepdim=True)
        second = 0.1 * now if second is None else 0.9 * second + 0.1 * now
        u = u / second.sqrt()
        u = u * (length / u.norm())
        agree = (u.sign() * w.sign() >= 0).to(w.dtype)
        w = w - lr * max(1.0, rows / columns) ** 0.5 * (u + decay * w * agree)
    return w


def slow_adamw(w: Tensor, grads: list[Tensor], lr: float, betas: tuple[float, float], decay: float) -> Tensor:
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, 1):
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        w = w * (1 - lr * decay)
        w = w - lr * (first / (1 - betas[0] ** t)) / ((second / (1 - betas[1] ** t)).sqrt() + 1e-10)
    return w


def test_steps_equal_the_formulas() -> None:
    model = GPT(Architecture(model=ModelConfig(depth=2, aspect_ratio=16, head_dim=8), vocab_size=64, sequence_len=8))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    before = {name: parameter.detach().double().clone() for name, parameter in model.named_parameters()}
    grads = [
        {name: torch.randn(parameter.shape, generator=generator) for name, parameter in model.named_parameters()}
        for _ in range(3)
    ]
    hyperparameters = hyperparameters_from_steps(
        model.architecture, batch_tokens=1 << 19, steps=10, muon_weight_decay=0.3
    )
    optimizer = build_optimizer(model, OptimizerConfig(), hyperparameters)
    for step in grads:
        for name, parameter in model.named_parameters():
            parameter.grad = step[name].clone()
        optimizer.step(StepRates(0.5, 0.9, 0.3))
    after = dict(model.named_parameters())
    for group in parameter_groups(model, OptimizerConfig(), hyperparameters):
        for name in group.names:
            mine = [step[name].double() for step in grads]
            if group.kind == "muon":
                expected = slow_muon(before[name], mine, group.lr * 0.5, 0.9, 0.3)
            else:
                expected = slow_adamw(before[name], mine, group.lr * 0.5, group.betas, group.weight_decay)
            torch.testing.assert_close(after[name].detach().double(), expected, atol=2e-5, rtol=2e-4, msg=name)
