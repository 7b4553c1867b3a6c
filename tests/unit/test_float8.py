"""Products in 8 bits stay near; evaluation does without them."""

from __future__ import annotations

import pytest
import torch

from nanochat.model.float8 import fits_float8, float8_linear
from nanochat.model.gpt import Linear


@pytest.mark.parametrize("shape", [(32,), (2, 16)])
def test_product_and_gradients_stay_near(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, 64, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(48, 64, generator=generator).requires_grad_()
    ahead = torch.randn(*shape, 48, generator=generator).bfloat16()
    exact_x, exact_weight = x.detach().float().requires_grad_(), weight.detach().clone().requires_grad_()
    expected = exact_x @ exact_weight.T
    expected.backward(ahead.float())
    got = float8_linear(x, weight)
    got.backward(ahead)
    assert got.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    for mine, theirs in ((got, expected), (x.grad, exact_x.grad), (weight.grad, exact_weight.grad)):
        assert mine is not None and theirs is not None
        assert (mine.float() - theirs).norm() < 0.08 * theirs.norm()


def test_evaluation_is_in_the_compute_dtype() -> None:
    layer = Linear(64, 48, torch.bfloat16)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    plain = layer(x)
    layer.float8 = True
    assert not torch.equal(layer(x), plain)
    assert torch.equal(layer.eval()(x), plain)


def test_small_and_odd_matrices_stay_as_they_are() -> None:
    assert fits_float8(768, 3072)
    assert not fits_float8(12, 6)
    assert not fits_float8(768, 100)
