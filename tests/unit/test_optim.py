"""Groups, the polar factor, and state by name."""

from __future__ import annotations

import pytest
import torch

from nanochat.config.training import ModelConfig, OptimizerConfig
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.optim.muon import POLAR_EXPRESS, polar_factor
from nanochat.optim.optimizer import Optimizer, build_optimizer
from nanochat.optim.parameter_groups import parameter_groups
from nanochat.optim.schedule import StepRates
from nanochat.scaling import Hyperparameters, hyperparameters_from_steps


def built() -> tuple[GPT, Hyperparameters]:
    model = GPT(Architecture(model=ModelConfig(depth=3, aspect_ratio=8, head_dim=8), vocab_size=64, sequence_len=8))
    model.init_weights(1)
    return model, hyperparameters_from_steps(model.architecture, batch_tokens=64, steps=10, muon_weight_decay=0.3)


def train(model: GPT, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(0, 64, (4, 9), generator=torch.Generator().manual_seed(step))
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(StepRates(1.0, 0.9, 0.3))
        optimizer.zero_grad()


def test_every_parameter_is_in_one_group_with_the_rate_of_the_table() -> None:
    model, hyperparameters = built()
    groups = parameter_groups(model, OptimizerConfig(), hyperparameters)
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    wide, scale = (24 / 768) ** -0.5, (64 / 2**19) ** 0.5
    lr = {name: group.lr for group in groups for name in group.names}
    assert lr["head.weight"] == pytest.approx(0.008 * wide * scale)
    assert lr["embedding.weight"] == pytest.approx(0.3 * wide * scale)
    assert lr["value_embeddings.0.weight"] == pytest.approx(0.15 * wide * scale)
    assert lr["residual_L"] == pytest.approx(0.005 * scale)
    assert lr["first_L"] == pytest.approx(0.5 * scale)
    assert lr["smear"] == lr["smear_gate.weight"] == lr["backout"] == 0.2
    muon = {name for group in groups if group.kind == "muon" for name in group.names}
    assert muon == {name for name, parameter in model.named_parameters() if name.startswith("blocks.")}


def test_matrices_can_have_adamw() -> None:
    model, hyperparameters = built()
    config = OptimizerConfig(matrix_optimizer="adamw", matrix_lr=0.01)
    optimizer = build_optimizer(model, config, hyperparameters)
    weight = model.get_parameter("blocks.0.mlp.up.weight")
    copy = torch.nn.Parameter(weight.detach().clone())
    plain = torch.optim.AdamW([copy], 0.01 * hyperparameters.lr_scale, (0.9, 0.95), 1e-10, 0.1)
    for step in range(3):
        ids = torch.randint(0, 64, (4, 9), generator=torch.Generator().manual_seed(step))
        model(ids[:, :-1], ids[:, 1:]).backward()
        assert weight.grad is not None
        copy.grad = weight.grad.clone()
        optimizer.step(StepRates(1.0, 0.9, 0.3))
        plain.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weight, copy)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 8), (2, 8, 40)])
def test_the_polar_factor_is_nearly_orthogonal(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(polar_factor(x))
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(polar_factor(x), u @ v, atol=0.2, rtol=0)


def test_the_coefficients_bring_all_singular_values_near_one() -> None:
    value = torch.logspace(-3, 0, 10_000, dtype=torch.float64)
    for a, b, c in POLAR_EXPRESS:
        value = a * value + b * value**3 + c * value**5
    assert value.min() > 0.6 and value.max() < 1.3


def test_saved_state_continues_the_same_run() -> None:
    straight, hyperparameters = built()
    optimizer = build_optimizer(straight, OptimizerConfig(), hyperparameters)
    train(straight, optimizer, range(6))
    broken, _ = built()
    before = build_optimizer(broken, OptimizerConfig(), hyperparameters)
    train(broken, before, range(3))
    after = build_optimizer(broken, OptimizerConfig(), hyperparameters)
    for name, tensor in after.state().items():
        tensor.copy_(before.state()[name])
    train(broken, after, range(3, 6))
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
