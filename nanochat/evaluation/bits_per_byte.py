"""Bits per byte: how well held-out text is compressed, in a unit that does not depend on the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from nanochat.data.loader import IGNORED, Batch
from nanochat.errors import BadSource
from nanochat.workers.ranks import sum_over_ranks


@torch.no_grad()
def bits_per_byte(model: nn.Module, batches: Iterable[Batch], token_bytes_V: Tensor) -> float:
    """Sum of nats over the targets that stand for bytes / (ln 2 x sum of their bytes), over all ranks.

    `token_bytes_V` (V,) int32 has each token's length in bytes, 0 for special tokens: those and ignored targets do
    not count. Raises `BadSource` when no byte was seen.
    """
    nats = torch.zeros((), dtype=torch.float64, device=token_bytes_V.device)
    seen_bytes = torch.zeros((), dtype=torch.float64, device=token_bytes_V.device)
    for inputs_BT, targets_BT in batches:
        nats_BT = model(inputs_BT, targets_BT, reduction="none")
        bytes_BT = torch.where(targets_BT == IGNORED, 0, token_bytes_V[targets_BT.clamp_min(0)])
        nats += (nats_BT.double() * (bytes_BT > 0)).sum()
        seen_bytes += bytes_BT.sum()
    all_nats, all_bytes = sum_over_ranks(nats.item(), seen_bytes.item())
    if not all_bytes:
        raise BadSource("The validation rows hold no text.", hint="Hold out more (`data.validation_documents`).")
    return all_nats / (math.log(2) * all_bytes)


def of_equal_shape(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The batches, those of fewer rows filled up with rows of which nothing counts: nothing is compiled again."""
    for batch in batches:
        missing = rows - len(batch.inputs_BT)
        if missing <= 0:
            yield batch
            continue
        inputs_BT, targets_BT = (
            torch.cat([column, column.new_full((missing, column.shape[1]), value)])
            for column, value in zip(batch, (0, IGNORED), strict=True)
        )
        yield Batch(inputs_BT, targets_BT)
