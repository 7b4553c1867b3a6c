"""Real ranks over gloo: two and three of them step as one does, and each other's state loads."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from nanochat.config import ModelConfig, OptimizerConfig
from nanochat.model.gpt import GPT
from nanochat.optim.schedule import StepRates
from nanochat.optim.step import build_optimizer
from nanochat.scaling import Architecture, plan_steps

ROWS, T = 6, 8


def train(rank: int, world_size: int, port: int, folder: str, steps: range, start: str) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=world_size)
    model = GPT(Architecture(model=ModelConfig(depth=3, aspect_ratio=8, head_dim=8), vocab_size=64, sequence_len=T))
    model.init_weights(1)
    plan = plan_steps(model.architecture, batch_tokens=ROWS * T, steps=10, muon_weight_decay=0.3)
    optimizer = build_optimizer(model, OptimizerConfig(smear_lr=0.01), plan)
    if start:
        model.load_state_dict(load_file(f"{start}/model.safetensors"))
        optimizer.load_state_dict(load_file(f"{start}/optimizer.safetensors"))
    for step in steps:
        ids = torch.randint(0, 64, (ROWS, T + 1), generator=torch.Generator().manual_seed(step))[rank::world_size]
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(StepRates(1.0, 0.9, 0.3))
        optimizer.zero_grad()
    state = optimizer.state_dict()
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    out = Path(folder) / str(rank)
    out.mkdir(parents=True)
    save_file(weights, out / "model.safetensors")
    save_file({name: tensor.clone() for name, tensor in state.items()}, out / "optimizer.safetensors")
    if world_size > 1:
        dist.destroy_process_group()


def run(world_size: int, folder: Path, steps: range = range(4), start: Path | None = None) -> Path:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    arguments = (world_size, port, str(folder), steps, str(start or ""))
    if world_size == 1:
        train(0, *arguments)
    else:
        mp.spawn(train, arguments, nprocs=world_size)
    return folder / "0"


def assert_same(one: Path, other: Path) -> None:
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=5e-5, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(1, tmp_path_factory.mktemp("alone") / "run")


def test_two_ranks_step_as_one_and_agree(alone: Path, tmp_path: Path) -> None:
    run(2, tmp_path / "two")
    assert_same(alone, tmp_path / "two" / "0")
    for file in ("model.safetensors", "optimizer.safetensors"):
        first, second = load_file(tmp_path / "two" / "0" / file), load_file(tmp_path / "two" / "1" / file)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_goes_on_with_another_number_of_ranks(alone: Path, tmp_path: Path) -> None:
    half = run(3, tmp_path / "half", range(2))
    assert_same(alone, run(1, tmp_path / "rest", range(2, 4), half))
