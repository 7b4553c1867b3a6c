"""CORE while training: the weights are the same bit for bit, and the value is that of `evaluate_core`."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.base import AbsentMeans
from nanochat.config.evaluation import CoreBundleConfig, CoreConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.training import PretrainConfig
from nanochat.errors import BadConfig
from nanochat.evaluation.core.worker import evaluate_core
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.training import core_while_training, loop
from nanochat.training.pretrain import pretrain
from nanochat.workers.launch import launch
from nanochat.workers.ranks import Preempted, World
from tests.evaluation.core_bundles import write_bundle
from tests.training.tiny import config, context, job, make_data

ALONE = World(0, 1, torch.device("cpu"))
STEPS, EVERY_STEPS, LIMIT = 7, 3, 5
AT = [3, 6, 7]
"""The steps with an evaluation: the last one is always there."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("data"))
    (folder / "bundle").mkdir()
    write_bundle(folder / "bundle", rows=7, shots=1)
    return folder


def with_core(core_every_steps: int = EVERY_STEPS) -> PretrainConfig:
    return config(STEPS).model_copy(update={"core_every_steps": core_every_steps, "core_limit": LIMIT})


def train(data: Path, folder: Path, core_every_steps: int = EVERY_STEPS, checkpoints: str = "") -> dict[str, Any]:
    """In this process."""
    plain = job(data, folder, checkpoints, of=with_core(core_every_steps))
    inputs = {**plain.inputs, "bundle": [str(data / "bundle")]}
    return pretrain(plain.model_copy(update={"inputs": inputs}), ALONE)


def cores(folder: Path) -> dict[int, dict[str, float]]:
    """What was measured of CORE at each step."""
    found: dict[int, dict[str, float]] = {}
    for line in (folder / "out" / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if "core_questions" in event:
            assert event["done"] not in found
            found[event["done"]] = {
                name: value for name, value in event.items() if name == "core" or name.endswith("_accuracy")
            }
    return found


def weights(folder: Path) -> bytes:
    return (folder / "out" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(data, folder)


def test_the_weights_are_the_same_bit_for_bit(data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    random = torch.get_rng_state()
    without = train(data, tmp_path, 0)
    assert torch.equal(torch.get_rng_state(), random)
    assert weights(trained[0]) == weights(tmp_path)
    assert trained[1]["final_loss"] == without["final_loss"]
    assert "core" not in without
    assert cores(tmp_path) == {}


def test_the_value_is_that_of_the_stage_for_the_same_weights(
    data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, metrics = trained
    inputs = {"model": [str(folder / "out")], "bundle": [str(data / "bundle")]}
    stage = job(data, tmp_path).model_copy(
        update={"inputs": inputs, "config": CoreConfig(limit=LIMIT).model_dump(mode="json")}
    )
    found = evaluate_core(stage, ALONE)
    assert found.pop("questions") == metrics["core_questions"] == 22 * LIMIT
    assert len(found) == 23
    assert {name: metrics[name] for name in found} == found
    measured = cores(folder)
    assert sorted(measured) == AT
    assert measured[STEPS] == found
    assert measured[3] != measured[STEPS], "these models differ"


@pytest.mark.slow
def test_on_two_ranks_too(data: Path, tmp_path: Path) -> None:
    inputs: dict[str, Path | list[Path]] = {
        "vocabulary": data / "vocabulary", "rows": data / "rows" / "rows.json", "bundle": data / "bundle"
    }  # fmt: skip
    for name, every_steps in (("with", EVERY_STEPS), ("without", 0)):
        around = context(tmp_path / name, ranks=2)
        launch("nanochat.training.pretrain", with_core(every_steps), inputs, tmp_path / name / "out", around)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    measured = cores(tmp_path / "with")
    assert sorted(measured) == AT
    stage = job(data, tmp_path / "stage").model_copy(
        update={
            "inputs": {"model": [str(tmp_path / "with" / "out")], "bundle": [str(data / "bundle")]},
            "config": CoreConfig(limit=LIMIT).model_dump(mode="json"),
        }
    )
    assert evaluate_core(stage, ALONE)["core"] == measured[STEPS]["core"]


@pytest.mark.parametrize("query", [2, 30, 50], ids=["in the first evaluation", "in the second", "at the end"])
def test_a_stop_meanwhile_saves_first_and_the_evaluation_is_made_up_for(
    data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: int
) -> None:
    """Each evaluation has 22 tasks, and a stop is noticed before each of them."""
    queries, stopped = count(1), False

    def stop_requested() -> bool:
        nonlocal stopped
        stopped = stopped or next(queries) == query
        return stopped

    address = (tmp_path / "checkpoints" / "key").as_uri()
    with monkeypatch.context() as patch:
        patch.setattr(core_while_training, "stop_requested", stop_requested)
        patch.setattr(loop, "stop_requested", lambda: stopped)
        with pytest.raises(Preempted):
            train(data, tmp_path / "stopped", checkpoints=address)
    again = train(data, tmp_path / "again", checkpoints=address)
    assert again["resumed_from_step"] == AT[query // 22]
    assert cores(tmp_path / "again") == cores(trained[0])
    assert weights(tmp_path / "again") == weights(trained[0])


def test_without_it_no_key_changes_and_with_it_a_bundle_is_needed() -> None:
    assert not {"core_every_steps", "core_limit"} & PretrainConfig().canonical().keys()
    assert all(
        any(isinstance(mark, AbsentMeans) for mark in PretrainConfig.model_fields[name].metadata)
        for name in ("core_every_steps", "core_limit")
    )
    plain = PipelineConfig()
    wanted = plain.model_copy(update={"pretrain": plain.pretrain.model_copy(update={"core_every_steps": 100})})
    with pytest.raises(BadConfig, match=r"`pretrain.core_every_steps` is 100, but there are no tasks of CORE"):
        pretrain_to_chat(wanted, [], plain.conversations)
    bundle = CoreBundleConfig(source="x.zip")
    assert pretrain_to_chat(plain, [], plain.conversations, bundle).base.inputs["bundle"] == ()
    graph = pretrain_to_chat(wanted, [], plain.conversations, bundle)
    assert graph.core
    assert graph.base.inputs["bundle"] == (graph.core.bundle,), "both read one bundle"
