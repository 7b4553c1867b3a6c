"""Rotary position embeddings (RoFormer, arXiv:2104.09864, section 3.2): the tables of cos and sin.

Shapes: B batch · T time · D channels of a head
"""

import torch
from torch import Tensor


def rotary_tables(
    positions: int, head_dim: int, base: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles position / base^(2i / D), (positions, D/2) each, for the channel pairs i and i + D/2.

    The angles are computed in fp32.
    """
    channel = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    position = torch.arange(positions, device=device, dtype=torch.float32)
    angle = torch.outer(position, base ** (-channel / head_dim))
    return angle.cos().to(dtype), angle.sin().to(dtype)
