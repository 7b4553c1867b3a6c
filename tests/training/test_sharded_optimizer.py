"""Real ranks over gloo: several step as one does, and one goes on from the state of several."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from nanochat.config.training import ModelConfig, OptimizerConfig
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.optim.adamw import FlatShard
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import StepRates
from nanochat.scaling import hyperparameters_from_steps

ROWS, T = 6, 8


def train(
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    steps: range,
    start: str,
    matrix_optimizer: Literal["muon", "adamw"],
) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=world_size)
    model = GPT(Architecture(model=ModelConfig(depth=3, aspect_ratio=8, head_dim=8), vocab_size=64, sequence_len=T))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # at the very start some gradients are 0 but for rounding, which AdamW would blow up
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    hyperparameters = hyperparameters_from_steps(
        model.architecture, batch_tokens=ROWS * T, steps=10, muon_weight_decay=0.3
    )
    optimizer = build_optimizer(
        model, OptimizerConfig(smear_lr=0.01, matrix_optimizer=matrix_optimizer), hyperparameters
    )
    if start:
        model.load_state_dict(load_file(f"{start}/model.safetensors"))
        before = load_file(f"{start}/optimizer.safetensors")
        for name, given in optimizer.state().items():
            assert isinstance(given, torch.Tensor), "one rank has all of everything"
            given.copy_(before[name])
    for step in steps:
        ids = torch.randint(0, 64, (ROWS, T + 1), generator=torch.Generator().manual_seed(step))[rank::world_size]
        if step % 2:  # with and without averaging during the backward pass
            optimizer.expect_last_pass()
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(StepRates(1.0, 0.9, 0.3))
        optimizer.zero_grad()
        out = Path(folder) / f"rank-{rank}-step-{step}"
        out.mkdir(parents=True)
        states = whole(optimizer.state())
        for name, state in (("model", model.state_dict()), ("optimizer", states)):
            save_file({name: tensor.clone() for name, tensor in state.items()}, out / f"{name}.safetensors")
    if world_size > 1:
        dist.destroy_process_group()


def whole(state: Mapping[str, torch.Tensor | FlatShard]) -> dict[str, torch.Tensor]:
    """What all ranks have, put together."""
    if not dist.is_initialized():
        return {name: given for name, given in state.items() if isinstance(given, torch.Tensor)}
    parts: list[dict[str, torch.Tensor | FlatShard]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, dict(state))
    found: dict[str, torch.Tensor] = {}
    for name in {name for part in parts for name in part}:
        given = [part[name] for part in parts if name in part]
        runs = [each.tensor for each in given if isinstance(each, FlatShard)]
        tensors = [each for each in given if isinstance(each, torch.Tensor)]
        assert not runs or len(runs) == len(parts)
        assert all(torch.equal(tensor, tensors[0]) for tensor in tensors), f"{name}: ranks differ"
        found[name] = torch.cat(runs) if runs else tensors[0]
    return found


@pytest.mark.parametrize(("ranks", "matrix_optimizer"), [(2, "muon"), (3, "muon"), (2, "adamw")])
def test_ranks_step_as_one_and_one_goes_on_from_them(
    ranks: int, matrix_optimizer: Literal["muon", "adamw"], tmp_path: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    train(0, 1, port, str(tmp_path / "one"), range(4), "", matrix_optimizer)
    mp.spawn(train, (ranks, port, str(tmp_path / "two"), range(4), "", matrix_optimizer), nprocs=ranks)
    train(0, 1, port, str(tmp_path / "on"), range(2, 4), str(tmp_path / "two" / "rank-0-step-1"), matrix_optimizer)
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, two, other, on = (
            load_file(tmp_path / folder / file)
            for folder in ("one/rank-0-step-3", "two/rank-0-step-3", "two/rank-1-step-3", "on/rank-0-step-3")
        )
        assert one.keys() == two.keys() == other.keys() == on.keys()
        for name in one:
            assert torch.equal(two[name], other[name]), name
            torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-3, msg=name)
            torch.testing.assert_close(on[name], one[name], atol=1e-4, rtol=1e-3, msg=name)
