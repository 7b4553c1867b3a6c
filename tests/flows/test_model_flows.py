"""Flows that begin at what is there, the gate of `refresh`, and stages that run in a pool of their own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nanochat.store.store import Store
from tests.flows.site import Site, ended, tiny, until

pytestmark = [pytest.mark.prefect, pytest.mark.site]


@pytest.fixture(scope="module")
def made(both_pools: Site) -> Site:
    """A site on which the pipeline has run, with its training in the pool for GPUs."""
    state = both_pools.done("demo", profile="demo", config=tiny(), gpu_pool="gpu")
    assert state == ("Completed", "14 computed, 0 cached")
    return both_pools


def store(site: Site) -> Store:
    return Store((site.home / "store").as_uri(), site.home / "cache")


def alias(site: Site, name: str) -> str:
    return store(site).aliases()[name].key


def test_what_trains_runs_in_the_pool_for_gpus_and_nothing_else(made: Site) -> None:
    (gpu,) = [found["id"] for found in made.post("deployments/filter") if found["name"] == "gpu"]
    runs = made.post("flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [gpu]}}})
    assert {run["name"] for run in runs} == {"pretrain", "evaluate_base", "sft", "evaluate_chat"}
    assert {(run["work_pool_name"], run["state_name"]) for run in runs} == {("gpu", "Completed")}
    assert all(run["parent_task_run_id"] for run in runs), "the UI does not show them below the run"
    assert made.done("demo", profile="demo", config=tiny(), gpu_pool="gpu") == ("Cached", "0 computed, 14 cached")
    state, message = made.done("demo", profile="demo", config=tiny("sft.epochs=2"), gpu_pool="nowhere")
    assert state == "Failed"
    assert "There is no deployment `stage/nowhere`, which would run `sft`." in message


def test_a_stored_model_is_evaluated(made: Site) -> None:
    assert made.done("evaluate", model="chat/latest", config=tiny())[0] == "Cached"
    state, message = made.done("evaluate", model="chat/latest", config=tiny("chat_evaluation.limit=5"))
    assert (state, re.sub(r"[0-9a-f]{8}", "KEY", message, count=1)[:17]) == ("Completed", "chat/latest KEY: ")
    assert made.done("evaluate", model="base/latest", config=tiny("base_evaluation.seed=7"))[0] == "Completed"
    state, message = made.done("evaluate", model="report/latest", config=tiny())
    assert (state, "is not a model, but a Report" in message) == ("Failed", True)
    state, message = made.done("evaluate", model="chat/missing", config=tiny())
    assert (state, "There is no artifact `chat/missing`" in message) == ("Failed", True)


def test_a_base_model_is_fine_tuned_again(made: Site) -> None:
    before = alias(made, "chat/latest")
    state, message = made.done("fine-tune", config=tiny("sft.epochs=2"), alias="chat/try")
    assert (state, "(2 computed, 1 cached)" in message) == ("Completed", True), message
    assert alias(made, "chat/try") != before == alias(made, "chat/latest")
    assert made.done("sft-only", config=tiny("sft.epochs=2"), alias="chat/try")[0] == "Cached", "the former name works"


def test_a_model_is_published_for_transformers(made: Site) -> None:
    target = made.home / "published"
    state, message = made.done("publish", model="chat/latest", to=target.as_uri(), alias="chat/published")
    assert (state, "for transformers (1 computed, 0 cached)" in message) == ("Completed", True), message
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in target.iterdir()}
    assert store(made).aliases()["chat/published"].stage == "export"
    assert made.done("publish", model="chat/latest", to=target.as_uri())[0] == "Cached"
    state, message = made.done("publish", model="chat/latest", to="here")
    assert (state, "depends on the folder of the worker" in message) == ("Failed", True)


def test_a_ladder_shares_its_text(made: Site) -> None:
    state, message = made.done("ladder", config=tiny(), depths=[1, 2])
    assert (state, message) == (
        "Completed",
        "There is no law: a law over FLOPs takes 5 runs or more, and there are 2. (3 computed, 9 cached)",
    )
    opened = store(made)
    comparison = opened.artifact(opened.resolve("ladder/latest"), reused=True)
    page = (comparison.path / "report.md").read_text()
    assert re.findall(r"^\| (d\d) ", page, re.MULTILINE) == ["d1", "d2"]
    state, message = made.done("ladder", config=tiny(), depths=[2])
    assert (state, "takes two or more different depths" in message) == ("Failed", True)


def test_an_experiment_has_a_verdict_and_a_run_that_fails_ends_alone(made: Site) -> None:
    experiment = {
        "title": "Rates",
        "recipes": [{"name": "plain"}, {"name": "one row", "changes": ["pretrain.batch_tokens=64"]}],
        "seeds": [42, 43],
    }
    state, message = made.done("experiment", experiment=experiment, config=tiny())
    assert state == "Completed", message
    assert "no run of one row has a result" in message
    assert "2 of 4 runs have no result." in message
    opened = store(made)
    summary = opened.artifact(opened.resolve("experiment/latest"), reused=True)
    assert "cannot be divided among 2 ranks" in (summary.path / "report.md").read_text()
    pages = made.post(
        "artifacts/filter", {"artifacts": {"key": {"any_": [f"summarize-experiment-{summary.key[:16]}"]}}}
    )
    assert "no run of one row has a result" in pages[0]["data"]


def test_a_refresh_moves_the_alias_only_when_the_gate_is_passed(made: Site) -> None:
    def refresh(*changes: str, **parameters: Any) -> tuple[str, str]:
        return made.done("refresh", config=tiny(*changes), **parameters)

    assert "no model in use" in refresh(mode="continue")[1]
    assert refresh(least_score=2.0)[0] == "Held back"
    assert "chat/production" not in store(made).aliases()
    assert refresh(least_score=-1.0)[0] == "Promoted"
    first = alias(made, "chat/production")
    assert refresh()[0] == "Cached"
    assert refresh(mode="continue") == ("Cached", "There is no new shard: the model has read them all.")

    new = ("data.world.shards=3", "pretrain.horizon.amount=4")
    assert refresh(*new, mode="continue", least_gain=2.0)[0] == "Held back"
    assert alias(made, "chat/production") == first
    state, message = refresh(*new, mode="continue", least_gain=-2.0, least_score=-1.0)
    assert (state, "(1 computed" in message) == ("Promoted", True), "only the gate has other conditions"
    assert "with 95% confidence at least" in message
    assert (alias(made, "chat/previous"), alias(made, "chat/production") != first) == (first, True)
    opened = store(made)
    base = opened.resolve("base/latest")
    assert base.stage == "continue_pretrain"
    assert base.inputs["base"][0].stage == "pretrain"
    assert base.metrics["steps"] == 4
    state, message = refresh(*new, "pretrain.model.depth=1", "data.world.shards=4", mode="continue")
    assert (state, "`pretrain.model.depth` is 1, but the base model has 2" in message) == ("Failed", True)


def test_models_are_compared_and_the_table_is_in_the_ui(made: Site) -> None:
    assert made.done("fine-tune", config=tiny("sft.epochs=2"), alias="chat/try")[0] != "Failed"
    state, message = made.done("compare", models=["chat/latest", "chat/try"])
    assert state in ("Completed", "Cached"), message
    assert "mean centered accuracy" in message
    (kept,) = store(made).manifests("compare_evaluations")
    pages = made.post("artifacts/filter", {"artifacts": {"key": {"any_": [f"compare-evaluations-{kept.key[:16]}"]}}})
    assert "chat/try against chat/latest" in pages[0]["data"]
    state, message = made.done("compare", models=["chat/latest"])
    assert (state, "two or more different models" in message) == ("Failed", True)


def test_cancelling_a_run_cancels_what_it_sent_elsewhere(made: Site) -> None:
    config = tiny("pretrain.horizon.amount=100000")
    run_id = made.start("demo", profile="demo", config=config, gpu_pool="gpu")
    until(lambda: made.processes("nanochat.training"), "training", 600)
    made.post(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert made.wait(run_id, ended)["state_name"] == "Cancelled"
    until(lambda: not made.processes("nanochat.training"), "training to end", 60)
    (gpu,) = [found["id"] for found in made.post("deployments/filter") if found["name"] == "gpu"]
    (sent, *_) = made.post(
        "flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [gpu]}}, "sort": "START_TIME_DESC"}
    )
    assert made.wait(sent["id"], ended)["state_name"] == "Cancelled"
