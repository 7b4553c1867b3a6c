"""The initial weights: one table from each parameter to its distribution, with sources.

U(a) is uniform in [-a, a], N(s) normal with standard deviation s. With a = sqrt(3 / C), U(a) has the standard deviation
1 / sqrt(C), which keeps the variance through a matrix (LeCun et al., Efficient BackProp, 1998, section 4.6).
Where no source is named, the number is nanochat's choice, found by sweeps.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nanochat.model.architecture import Architecture

Initialize = Callable[[Tensor, torch.Generator], Tensor | float]
"""(uninitialized fp32 tensor on the CPU, generator) → the values."""


def normal(deviation: float) -> Initialize:
    return lambda weight, generator: weight.normal_(0, deviation, generator=generator)


def uniform(low: float, high: float) -> Initialize:
    return lambda weight, generator: weight.uniform_(low, high, generator=generator)


def constant(value: float) -> Initialize:
    return lambda weight, generator: weight.fill_(value)


def linear(first: float, fall: float) -> Initialize:
    """From `first` at the first layer to `first - fall` at the last."""
    return lambda weight, generator: first - fall * torch.arange(len(weight)) / max(len(weight) - 1, 1)


def table(architecture: Architecture) -> dict[str, Initialize]:
    """Parameter name → distribution, in the order in which they are drawn, which the seed depends on."""
    layers = range(architecture.depth)
    bound = math.sqrt(3 / architecture.width)
    block: dict[str, Initialize] = {
        "attention.query": uniform(-bound, bound),
        "attention.key": uniform(-bound, bound),
        "attention.value": uniform(-bound, bound),
        "mlp.up": uniform(-0.4 * bound, 0.4 * bound),
        "attention.out": constant(0.0),  # a new block passes its input on (Fixup, arXiv:1901.09321, section 3)
        "mlp.down": constant(0.0),  # the same
        "attention.value_gate": uniform(0, 0.02),  # gates begin at 3 sigmoid(0) = 1.5
    }
    return {
        "embedding.weight": normal(0.8),
        "head.weight": normal(0.001),  # logits near 0: the first loss is ln V
        **{f"blocks.{layer}.{name}.weight": draw for layer in layers for name, draw in block.items()},
        **{f"value_embeddings.{layer}.weight": uniform(-bound, bound) for layer in layers},  # as the values
        "residual_L": linear(1.15, 0.10),
        "first_L": linear(0.20, 0.15),
        "smear_gate.weight": uniform(0, 0.02),
        "smear": constant(0.0),  # smear begins switched off
        "backout": constant(0.2),
    }


@torch.no_grad()
def initialize(parameters: Mapping[str, Tensor], architecture: Architecture, seed: int) -> None:
    """Sets the parameters, by name. They are drawn on the CPU, so the same seed gives the same weights anywhere."""
    generator = torch.Generator().manual_seed(seed)
    distributions = table(architecture)
    assert parameters.keys() <= distributions.keys(), parameters.keys() - distributions.keys()
    for name, draw in distributions.items():
        if name in parameters:
            parameters[name].copy_(torch.as_tensor(draw(torch.empty(parameters[name].shape), generator)))
