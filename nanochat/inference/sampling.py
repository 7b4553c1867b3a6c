"""Samples a token from logits."""

import torch
from torch import Tensor


def sample(logits_BV: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """One id per row, (B,) int64: the most likely at temperature 0, else sampled among the `top_k` best (0: all)."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    if 0 < top_k < logits_BV.shape[-1]:
        smallest_B1 = torch.topk(logits_BV, top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_B1, -torch.inf)
    return torch.multinomial(torch.softmax(logits_BV / temperature, -1), 1, generator=generator)[:, 0]
