"""What cannot train is refused before anything is downloaded, loaded or started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from nanochat.cli.app import out
from nanochat.cli.main import command
from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.config.compute import Compute, Kernels
from nanochat.config.overrides import override
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.preferences import PairsConfig
from nanochat.config.training import ModelConfig, PretrainConfig
from nanochat.errors import BadConfig, BadSource
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.stages import pretrain as stage
from nanochat.training import device_setup
from nanochat.training.device_setup import compute_dtype, prepare_for_device
from nanochat.training.trackers import open_tracker
from nanochat.workers.job import Job
from tests.compute import compute
from tests.unit.test_gpt import built

CPU = torch.device("cpu")


def test_the_pipeline_refuses_before_its_first_stage() -> None:
    config = PipelineConfig(pretrain=PretrainConfig(batch_tokens=1000))
    with pytest.raises(BadConfig, match="`batch_tokens` = 1,000"):
        pretrain_to_chat(config, [], config.conversations)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PretrainConfig(batch_tokens=100), "`batch_tokens` = 100"),
        (PretrainConfig(model=ModelConfig(depth=4, queries_per_kv_head=3)), "queries_per_kv_head"),
        (PretrainConfig(model=ModelConfig(depth=4), batch_tokens=128), "cannot be divided among 3 ranks"),
        (PretrainConfig(core_every_steps=100), "`pretrain.core_every_steps` is 100, but training got 0 bundles"),
    ],
)
def test_the_stage_refuses_before_torch_is_started(
    config: PretrainConfig, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "launch", lambda *_: pytest.fail("torchrun was started"))
    made = cast(Any, SimpleNamespace(metrics={"vocab_size": 300, "sequence_len": 64}, path=None))
    context = cast(Any, SimpleNamespace(compute=compute(device="cpu", ranks=3)))
    with pytest.raises(BadConfig, match=expected):
        stage.pretrain.function(config, made, [made], [], out=None, context=context)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("pairs.source", "pairs.source={}"),
        ("conversations.train.1.source", 'conversations.train=[{{}},{{"task":"conversations","source":"{}"}}]'),
        ("conversations.questions.0.source", 'conversations.questions=[{{"task":"gsm8k","source":"{}"}}]'),
        ("problems.tasks.0.source", 'problems.tasks=[{{"task":"problems","source":"{}"}}]'),
    ],
)
def test_a_file_that_does_not_exist_is_refused_before_anything_is_made(
    field: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    path = str(tmp_path / "nowhere.jsonl")
    monkeypatch.setattr(out, "_file", None)  # an earlier test may have closed the one that the console has
    for line in (["plan"], ["run", "--plain"]):
        with pytest.raises(BadSource) as caught:
            command([*line, "--set", change.format(path)])
        assert caught.value.message == f"`{field}` is `{path}`, and there is no such file or folder."
    assert not (tmp_path / "store/v1/artifacts").exists()


def test_a_source_that_may_be_elsewhere_is_not_refused(tmp_path: Path) -> None:
    sums = "0" * 64
    items = (
        MixtureItem(task="gsm8k", source="org/name"),
        MixtureItem(task="conversations", source="hf://org/name"),
        MixtureItem(task="conversations", source=str(tmp_path / "nowhere.jsonl"), sha256=sums),
    )
    config = ConversationsConfig(train=items)
    assert resolve.conversations(config) == config
    given = PairsConfig(source="nowhere.jsonl", sha256=sums)
    assert resolve.pairs(given) == given


def test_ranks_that_cannot_add_up_exactly_are_refused() -> None:
    for ranks, nodes in ((0, 3), (1, 1), (2, 4)):
        assert compute(exact=True, ranks=ranks, nodes=nodes).parallelism.exact
    with pytest.raises(BadConfig, match=r"`parallelism\.exact`: sums are exact on 1, 2, 4, 8, … ranks; these are 6"):
        override(Compute(), ["parallelism.exact=true", "parallelism.ranks=3", "parallelism.nodes=2"])


def test_the_dtype_is_what_the_machine_is_fast_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, dtype in (({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert compute_dtype("bf16", CPU) == dtype
    gpu = torch.device("cuda", 0)
    for capability, dtype in (((7, 5), torch.float32), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert compute_dtype("bf16", gpu) == dtype
    assert compute_dtype("fp8", gpu) == torch.bfloat16
    assert (compute_dtype("fp32", CPU), compute_dtype("fp16", CPU)) == (torch.float32, torch.float16)


def test_eight_bits_where_there_are_none_are_refused() -> None:
    with pytest.raises(BadConfig, match="has no 8-bit matrix products"):
        compute_dtype("fp8", CPU)


def test_the_device_setup_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_setup, "_cpu_has_bf16", lambda: False)
    assert prepare_for_device(built(), "bf16", Kernels(), CPU) == (
        "cpu: float32 products, sdpa attention, nothing compiled; no fast bf16 here"
    )


def test_a_tracker_that_is_not_installed_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(BadConfig, match="pip install trackio"):
        open_tracker("trackio", cast(Job, None))
