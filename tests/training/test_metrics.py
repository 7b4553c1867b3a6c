"""Metrics: gradient norms, time per part, position in the data; and trackers that receive them."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch

from nanochat.settings import child_environment
from nanochat.training.metrics import peak_flops
from nanochat.training.pretrain import pretrain
from nanochat.workers.ranks import World
from tests.training.tiny import T, job, make_data

ALONE = World(0, 1, torch.device("cpu"))


class Tracker:
    """A stand-in with the face that wandb and trackio have: both need an account or a server."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.finished = False
        self.options: dict[str, object] = {}

    def init(self, **options: object) -> Tracker:
        self.options = options
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        assert {"loss", "tokens_per_s", "gradient_norm"} <= numbers.keys()
        self.steps.append(step)

    def finish(self) -> None:
        self.finished = True


def test_a_line_has_all_metrics_and_trackers_receive_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = {name: Tracker() for name in ("wandb", "trackio")}
    for name, tracker in reported.items():
        module = types.ModuleType(name)
        module.init = tracker.init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    metrics = pretrain(job(make_data(tmp_path / "data"), tmp_path / "run", trackers=("wandb", "trackio")), ALONE)
    lines = [json.loads(line) for line in (tmp_path / "run" / "out" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["gradient_norm"] ** 2 == pytest.approx(
            line["matrix_gradient_norm"] ** 2 + line["other_gradient_norm"] ** 2
        )
        assert line["rows_consumed"] == 8 * line["done"]
        assert line["tokens"] == 8 * T * line["done"]
        assert line["memory_bytes"] > 0
    split = {
        name: lines[-1][name] for name in ("data_s", "compute_s", "communication_s", "evaluation_s", "checkpoint_s")
    }
    assert split["compute_s"] > 0 and split["evaluation_s"] > 0 and min(split.values()) >= 0
    assert split.keys() <= metrics.keys()
    for name, tracker in reported.items():
        assert tracker.steps == list(range(1, 13))
        assert tracker.finished
        assert tracker.options["project"] == "nanochat"
        assert ("dir" in tracker.options) == (name == "wandb")


def test_tensorboard_writes_into_the_runs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="no TensorBoard here: `pip install tensorboard`")
    pretrain(job(make_data(tmp_path / "data"), tmp_path / "run", trackers=("tensorboard",)), ALONE)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_the_gradient_norm_is_that_of_the_averaged_gradient() -> None:
    from nanochat.config.training import OptimizerConfig
    from nanochat.optim.optimizer import build_optimizer
    from nanochat.optim.schedule import StepRates
    from nanochat.scaling import hyperparameters_from_steps
    from tests.unit.test_gpt import built, some_ids

    model, ids = built(), some_ids(2, 13)
    hyperparameters = hyperparameters_from_steps(model.architecture, batch_tokens=24, steps=10, muon_weight_decay=0.0)
    optimizer = build_optimizer(model, OptimizerConfig(), hyperparameters)
    (model(ids[:, :-1], ids[:, 1:]) * 4).backward()
    squares = {
        name: (parameter.grad.double() / 4).square().sum().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    matrices = sum(square for name, square in squares.items() if name.startswith("blocks."))
    found = optimizer.step(StepRates(1.0, 0.9, 0.0), gradient_scale=4.0)
    assert found.tolist() == pytest.approx([matrices, sum(squares.values()) - matrices], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835), ("NVIDIA GH200 480GB", 989), ("NVIDIA L40", 181), ("NVIDIA L4", 121),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)  # fmt: skip
def test_the_peak_is_that_of_the_card(name: str, teraflops: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == (teraflops and teraflops * 1e12)
    assert peak_flops(torch.device("cpu")) is None


def test_memory_of_a_gpu_does_not_fragment_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert child_environment(1)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")
    assert child_environment(1)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:128"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert "PYTORCH_ALLOC_CONF" not in child_environment(1)


def test_compiled_kernels_are_cached_in_the_home_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert child_environment(1)["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert child_environment(1)["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
