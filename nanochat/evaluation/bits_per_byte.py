"""Bits per byte: the loss on held-out text in a unit that does not depend on the tokenizer."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from nanochat.data.loader import IGNORED, Batch
from nanochat.errors import BadSource
from nanochat.workers.ranks import sum_over_ranks


@torch.no_grad()
def bits_per_byte(model: nn.Module, batches: Iterable[Batch], token_bytes_V: Tensor) -> float:
    """Sum of the targets' loss in nats / (ln 2 x sum of their bytes), over all ranks.

    `token_bytes_V`, (V,) int32, has the length of each token in bytes, 0 for special tokens. Special tokens and ignored
    targets do not count. Raises `BadSource` when no target has a byte.
    """
    nats = torch.zeros((), dtype=torch.float64, device=token_bytes_V.device)
    total_bytes = torch.zeros((), dtype=torch.float64, device=token_bytes_V.device)
    for inputs_BT, targets_BT in batches:
        nats_BT = model(inputs_BT, targets_BT, reduction="none")
        bytes_BT = torch.where(targets_BT == IGNORED, 0, token_bytes_V[targets_BT.clamp_min(0)])
        nats += (nats_BT.double() * (bytes_BT > 0)).sum()
        total_bytes += bytes_BT.sum()
    all_nats, all_bytes = sum_over_ranks(nats.item(), total_bytes.item())
    if not all_bytes:
        raise BadSource("The validation rows contain no text.", hint="Hold out more (`data.validation_documents`).")
    return all_nats / (math.log(2) * all_bytes)


def of_equal_shape(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The batches; smaller ones are padded with rows that do not count, so that nothing is compiled again."""
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
