"""Head and loss in chunks equal the plain way."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from nanochat.model import loss as loss_module
from nanochat.model.loss import Reduction, head_loss


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 16, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(70, 16, generator=generator) * 3).requires_grad_()
    targets = torch.randint(0, 70, (50,), generator=generator)
    targets[::7] = -1
    return x, weight, targets


def plain(x: Tensor, weight: Tensor, targets: Tensor, softcap: float, reduction: Reduction) -> Tensor:
    logits = x.float() @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


@pytest.mark.parametrize("rows", [1, 16, 50, 64])
@pytest.mark.parametrize("softcap", [0.0, 15.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("fills", [False, True])
def test_loss_and_gradients_equal_the_plain_way(
    rows: int, softcap: float, reduction: Reduction, fills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "fills_last_chunk", lambda device: fills)  # as on a GPU
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: rows)
    results = []
    for way in (plain, lambda x, w, t, c, r: head_loss(x, w, t, softcap=c, reduction=r)):
        x, weight, targets = inputs()
        loss = way(x, weight, targets, softcap, reduction)
        weights = torch.linspace(-1, 2, 50) if reduction == "none" else torch.tensor(0.7)
        (loss * weights).sum().backward()
        results.append((loss.detach(), x.grad, weight.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_no_gradient_is_computed_when_none_is_wanted() -> None:
    x, weight, targets = inputs()
    with torch.no_grad():
        loss = head_loss(x, weight, targets, softcap=15.0)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(x, weight, targets, 15.0, "mean"))


def test_bf16_products_stay_near() -> None:
    x, weight, targets = inputs(torch.bfloat16)
    loss = head_loss(x, weight, targets, softcap=15.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    torch.testing.assert_close(loss, plain(x, weight, targets, 15.0, "mean"), atol=0.02, rtol=0.01)


def test_nothing_to_learn_from_is_no_loss() -> None:
    x, weight, targets = inputs()
    loss = head_loss(x, weight, torch.full_like(targets, -1), softcap=15.0)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None and not x.grad.any()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_compiled_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: 32)  # the second chunk is smaller
    compiled = torch.compile(loss_module.between_products)
    results = []
    for between in (loss_module.between_products, compiled):
        x, weight, targets = inputs()
        loss = head_loss(x, weight, targets, softcap=15.0, between=between)
        loss.backward()
        results.append((loss.detach(), x.grad, weight.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
