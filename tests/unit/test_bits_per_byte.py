"""Bits per byte: nats of the targets that stand for bytes, over their bytes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from nanochat.config.training import ModelConfig
from nanochat.data.loader import IGNORED, Batch
from nanochat.errors import BadSource
from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT

BYTES = torch.tensor([1, 2, 3, 0], dtype=torch.int32)
"""Lengths of four ids; the last is a special token."""


def built() -> GPT:
    options = ModelConfig(depth=1, aspect_ratio=16, head_dim=16)
    model = GPT(Architecture(model=options, vocab_size=len(BYTES), sequence_len=8))
    model.init_weights(1)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    return model


def batch(rows: int, seed: int) -> Batch:
    ids = torch.randint(0, len(BYTES), (rows, 9), generator=torch.Generator().manual_seed(seed))
    return Batch(ids[:, :-1], ids[:, 1:])


def slowly(model: GPT, batches: list[Batch]) -> float:
    """The definition, a token at a time."""
    nats, seen_bytes = 0.0, 0
    for inputs_BT, targets_BT in batches:
        with torch.no_grad():
            surprise = -model(inputs_BT).log_softmax(-1)
        for row, column in torch.cartesian_prod(*map(torch.arange, targets_BT.shape)).tolist():
            target = int(targets_BT[row, column])
            if target != IGNORED and BYTES[target]:
                nats += float(surprise[row, column, target])
                seen_bytes += int(BYTES[target])
    return nats / (math.log(2) * seen_bytes)


def test_it_is_the_definition_over_unequal_batches() -> None:
    model, batches = built(), [batch(3, 1), batch(1, 2)]
    assert (torch.cat([b.targets_BT for b in batches]) == 3).any()  # special tokens are among the targets
    assert bits_per_byte(model, batches, BYTES) == pytest.approx(slowly(model, batches), rel=1e-5)


def test_ignored_targets_do_not_count() -> None:
    model, (inputs_BT, targets_BT) = built(), batch(4, 3)
    targets_BT = targets_BT.clone()
    targets_BT[:, ::2] = IGNORED
    batches = [Batch(inputs_BT, targets_BT)]
    assert bits_per_byte(model, batches, BYTES) == pytest.approx(slowly(model, batches), rel=1e-5)


def test_a_model_that_knows_nothing_needs_the_bits_of_a_choice() -> None:
    model = built()
    with torch.no_grad():
        model.head.weight.zero_()
    targets_BT = torch.zeros(2, 8, dtype=torch.int64)  # one byte each, among four ids
    assert bits_per_byte(model, [Batch(targets_BT, targets_BT)], BYTES) == pytest.approx(2.0)


@pytest.mark.parametrize("target", [IGNORED, 3])
def test_nothing_to_measure_is_reported(target: int) -> None:
    targets_BT = torch.full((2, 8), target)
    with pytest.raises(BadSource, match="no text"):
        bits_per_byte(built(), [Batch(torch.zeros_like(targets_BT), targets_BT)], BYTES)


def _rank(rank: int, address: str, measured: Tensor) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    mine = [batch(3, 1), batch(1, 2)] if rank == 0 else []  # a rank may have no batch at all
    measured[rank] = bits_per_byte(built(), mine, BYTES)
    dist.destroy_process_group()


def test_every_rank_gets_the_number_of_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    measured = torch.zeros(2, dtype=torch.float64).share_memory_()
    address = (tmp_path_factory.mktemp("ranks") / "meet").as_uri()
    mp.start_processes(_rank, (address, measured), nprocs=2, start_method="spawn")
    expected = bits_per_byte(built(), [batch(3, 1), batch(1, 2)], BYTES)
    assert measured.tolist() == pytest.approx([expected, expected])
