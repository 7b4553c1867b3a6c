"""What only a GPU can show: kernels against torch's own, a compiled run, 8 bits. Skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from nanochat.config.training import GuardConfig, ModelConfig
from nanochat.errors import BadConfig
from nanochat.model.attention import BACKENDS, best_backend, prepare_backend
from nanochat.training.pretrain import pretrain
from nanochat.workers.ranks import World
from tests.training.tiny import T, config, job, make_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    # torch's compiler warns: that fp32 products could be TF32, that it splits a reduction, …
    pytest.mark.filterwarnings("default"),
]
LONG = 2048
"""Tokens of a row with which half of the layers, or more, have a local window."""


@pytest.mark.parametrize("name", ["flash3", "flash4", "flex"])
@pytest.mark.parametrize("window", [LONG, LONG - 1, 512, 100])
def test_a_kernel_equals_sdpa(name: str, window: int) -> None:
    device = torch.device("cuda")
    try:
        best_backend(name, device, torch.bfloat16, compiled=True)
    except BadConfig as error:
        pytest.skip(error.message)

    def results(backend: str) -> list[Tensor]:
        generator = torch.Generator(device).manual_seed(1)
        given = [
            torch.randn(2, LONG, heads, 128, generator=generator, device=device, dtype=torch.bfloat16).requires_grad_()
            for heads in (4, 2, 2)
        ]
        prepare_backend(backend, LONG, (window,), device)
        kernel = torch.compile(BACKENDS[backend], fullgraph=True) if backend != "sdpa" else BACKENDS[backend]
        out = kernel(*given, window, 0.12)
        out.float().square().sum().backward()
        return [out.detach(), *(tensor.grad for tensor in given if tensor.grad is not None)]

    for expected, got in zip(results("sdpa"), results(name), strict=True):
        assert (got.float() - expected.float()).norm() < 0.01 * expected.float().norm()


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp16"])
@pytest.mark.parametrize("sequence_len", [T, LONG])
def test_it_trains_compiled(precision: str, sequence_len: int, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", sequence_len)
    of = config(60).model_copy(
        update={
            "precision": precision,
            "model": ModelConfig(depth=4, aspect_ratio=64, head_dim=128),
            "guard": GuardConfig(spike_nats=0),
            "batch_tokens": 8 * sequence_len,
            "evaluation_tokens": 4 * sequence_len,
        }
    )
    torch._dynamo.reset()
    counters.clear()
    try:
        pretrain(job(data, tmp_path / "run", of=of, device="cuda"), World(0, 1, torch.device("cuda", 0)))
    except BadConfig as error:
        pytest.skip(error.message)  # no fp8
    lines = [json.loads(line) for line in (tmp_path / "run" / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 4  # of network and loss, in training and evaluation
