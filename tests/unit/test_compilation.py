"""What is compiled, and how often: counted with a compiler that runs the captured operations as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from nanochat.config.compute import Kernels
from nanochat.evaluation import base_model
from nanochat.model import loss
from nanochat.model.compilation import compile_loss, compile_network
from nanochat.model.gpt import GPT
from tests.unit.test_gpt import built, some_ids


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` captures programs, and calls no compiler."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def programs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


@pytest.mark.usefixtures("captured")
def test_training_and_evaluation_have_one_program_each() -> None:
    model, ids = built(sequence_len=32, depth=2), some_ids(4, 33)
    compile_network(model, 32)

    def train() -> None:
        model.train()
        model(ids[:, :-1], ids[:, 1:], reduction="sum").backward()

    @torch.no_grad()
    def evaluate() -> None:
        model.eval()
        model(ids[:, :-1], ids[:, 1:], reduction="none")

    train()
    assert programs() == 1
    evaluate()
    assert programs() == 2
    for again in (train, train, evaluate, train, evaluate):
        again()
    assert programs() == 2


@pytest.mark.usefixtures("captured")
@pytest.mark.parametrize("fills", [True, False])
def test_the_loss_of_any_number_of_rows_has_one_program(fills: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with gradients and one without, if the last chunk has the shape of the others."""
    monkeypatch.setattr(loss, "chunk_rows", lambda *_: 48)
    monkeypatch.setattr(loss, "fills_last_chunk", lambda device: fills)
    model, ids = built(sequence_len=32, depth=2), some_ids(4, 33)
    compile_loss(model)
    for rows in (4, 2, 3, 4):  # 2 1/3, 1 1/3 and 2 chunks
        model(ids[:rows, :-1], ids[:rows, 1:], reduction="sum").backward()
        with torch.no_grad():
            model(ids[:rows, :-1], ids[:rows, 1:], reduction="none")
    assert (programs() == 2) == fills


def test_a_gpu_evaluates_as_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, loaded = [], []

    def load(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> GPT:
        loaded.append(dtype)
        return built(sequence_len=1024)

    def best(name: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> str:
        kernels.append((name, dtype, compiled))
        return "flex"

    monkeypatch.setattr(base_model, "load_model", load)
    monkeypatch.setattr(base_model, "best_backend", best)
    gpu = torch.device("cuda", 0)
    model = base_model._load(Path(), 512, Kernels(), gpu)
    assert hasattr(model.trunk, "_torchdynamo_orig_callable")
    assert model.between is not loss.between_products
    plain = base_model._load(Path(), 512, Kernels(compile="off", attention="sdpa"), gpu)
    assert not hasattr(plain.trunk, "_torchdynamo_orig_callable")
    assert kernels == [("auto", torch.bfloat16, True), ("sdpa", torch.bfloat16, False)]
    on_cpu = base_model._load(Path(), 512, Kernels(), torch.device("cpu"))
    assert not hasattr(on_cpu.trunk, "_torchdynamo_orig_callable")
    assert loaded == [torch.bfloat16, torch.bfloat16, torch.float32]
