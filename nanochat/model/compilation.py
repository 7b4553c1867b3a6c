"""Compilation of a network: which parts of it become compiled programs.

Each shape of the rows, and each way to call a part, is a program of its own: training has one of the network, and an
evaluation without gradients a second, shorter one. Both stay; none is compiled twice.
"""

import torch

from nanochat.model.gpt import GPT
from nanochat.model.loss import between_products


def compile_loss(model: GPT) -> None:
    """Compiles the operations on the logits."""
    model.between = torch.compile(between_products)


def compile_network(model: GPT, sequence_len: int) -> None:
    """Compiles the network up to the head, as one graph for rows of up to so many tokens."""
    model.prepare_positions(sequence_len)
    model.trunk = torch.compile(model.trunk, dynamic=False)
