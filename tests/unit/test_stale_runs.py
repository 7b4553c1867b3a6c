"""The rules for stale runs, without a server."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("prefect") is None:
    pytest.skip("prefect is not installed", allow_module_level=True)

from flows.site.stale_run_rules import Limits, RunFacts, Transition, crashes_in_a_row, next_transition
from flows.site.stale_runs import FLOWS

LONG = 10 * 86_400.0
NOTHING = ""
CASES: list[tuple[str, RunFacts, str]] = [
    ("lives", RunFacts("RUNNING", LONG, since_heartbeat_s=140, has_heartbeat=True), NOTHING),
    ("has stopped sending heartbeats", RunFacts("RUNNING", LONG, since_heartbeat_s=151, has_heartbeat=True), "Crashed"),
    ("starts", RunFacts("PENDING", 170), NOTHING),
    ("its worker was killed", RunFacts("PENDING", 181), "Crashed"),
    ("its machine is made ready", RunFacts("PENDING", 1000, on_infrastructure=True), NOTHING),
    ("its machine never came", RunFacts("PENDING", 1801, on_infrastructure=True), "Crashed"),
    ("has just crashed", RunFacts("CRASHED", 1, crashes=1), NOTHING),
    ("crashed", RunFacts("CRASHED", 4, crashes=1), "AwaitingRetry"),
    ("crashed five times", RunFacts("CRASHED", 4, crashes=5), "AwaitingRetry"),
    ("crashed six times", RunFacts("CRASHED", 4, crashes=6), "Failed"),
    ("crashed, of a terminal", RunFacts("CRASHED", LONG, crashes=1, missing="deployment"), NOTHING),
    (
        "is being cancelled",
        RunFacts("CANCELLING", 10, since_heartbeat_s=10, has_heartbeat=True, cancelling_s=10),
        NOTHING,
    ),
    (
        "did not react",
        RunFacts("CANCELLING", 16, since_heartbeat_s=16, has_heartbeat=True, cancelling_s=16),
        "Cancelling",
    ),
    (
        "was cancelled twice",
        RunFacts("CANCELLING", 16, since_heartbeat_s=16, has_heartbeat=True, cancelling_s=40, cancel_repeats=1),
        NOTHING,
    ),
    ("was cancelled before it began", RunFacts("CANCELLING", 5, since_heartbeat_s=46, cancelling_s=46), "Cancelled"),
    (
        "is cancelled while its machine comes",
        RunFacts("CANCELLING", 5, 60, cancelling_s=60, on_infrastructure=True),
        NOTHING,
    ),
    (
        "was killed while it was cancelled",
        RunFacts("CANCELLING", 5, since_heartbeat_s=151, has_heartbeat=True, cancelling_s=151),
        "Cancelled",
    ),
    (
        "never reacts",
        RunFacts("CANCELLING", 5, since_heartbeat_s=20, has_heartbeat=True, cancelling_s=901),
        "Cancelled",
    ),
    ("waits for its turn", RunFacts("SCHEDULED", LONG, state_age_s=LONG), NOTHING),
    ("waits for a worker", RunFacts("SCHEDULED", 100, state_age_s=3600, missing="worker"), NOTHING),
    ("waits in vain", RunFacts("SCHEDULED", 100, state_age_s=LONG, missing="worker"), "Failed"),
    ("has no deployment", RunFacts("SCHEDULED", 61, missing="deployment"), "Failed"),
    ("has no queue", RunFacts("SCHEDULED", 61, missing="work queue"), "Failed"),
    ("is paused", RunFacts("PAUSED", 100, state_age_s=3600), NOTHING),
    ("is paused for days", RunFacts("PAUSED", 100, state_age_s=LONG), "Cancelled"),
    ("has ended", RunFacts("COMPLETED", LONG, state_age_s=LONG), NOTHING),
]


@pytest.mark.parametrize(("run", "name"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_next_state_of_a_run_that(run: RunFacts, name: str) -> None:
    transition = next_transition(run, Limits())
    assert (transition.name if transition else NOTHING) == name
    assert transition is None or transition.message.endswith(".")


def test_no_state_lasts_forever_without_a_live_process() -> None:
    """Every state that no process changes is changed, until the run has ended."""
    for kind in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED", "CRASHED"):
        for has_heartbeat in (True, False):
            state, crashes, transitions = kind, 1 if kind == "CRASHED" else 0, 0
            while state not in ("FAILED", "CANCELLED", "COMPLETED"):
                missing = "worker" if state == "SCHEDULED" else ""
                dead = RunFacts(state, LONG, LONG, has_heartbeat, LONG, 9, LONG, missing, crashes=crashes)
                transition = next_transition(dead, Limits())
                assert transition is not None, (kind, state)
                crashes += transition.type == "CRASHED"
                state, transitions = transition.type, transitions + 1
                assert transitions < 4


def test_a_run_that_crashes_again_and_again_waits_longer_each_time() -> None:
    transitions = [next_transition(RunFacts("CRASHED", 4, crashes=n, message="Boom."), Limits()) for n in range(1, 7)]
    delays = [transition.delay_s for transition in transitions[:5] if transition]
    assert delays == [0, 10, 20, 40, 80]
    assert transitions[5] == Transition("FAILED", "Failed", "Crashed 6 times; the last time: Boom. Retry restarts it.")


def test_crashes_are_counted_since_the_run_last_ended_otherwise() -> None:
    def history(*types: str) -> list[dict[str, Any]]:
        return [{"type": each, "timestamp": f"{place:03}"} for place, each in enumerate(types)]

    often = ("SCHEDULED", "PENDING", "CRASHED") * 3
    assert crashes_in_a_row(history(*often)) == 3
    assert crashes_in_a_row(history(*often, "CRASHED")) == 3, "reported twice"
    assert crashes_in_a_row(history(*often, "FAILED", "SCHEDULED", "CRASHED")) == 1, "a person has started it again"
    assert crashes_in_a_row(list(reversed(history(*often)))) == 3
    assert crashes_in_a_row([]) == 0


def test_all_our_flows_are_checked() -> None:
    from flows import experiment, model_flows, model_refresh, pipeline, publish, stage, store_maintenance

    known = [
        model_flows.evaluate_flow,
        model_flows.compare_flow,
        model_flows.fine_tune_flow,
        model_flows.sft_only_flow,
        experiment.experiment_flow,
        experiment.ladder_flow,
        store_maintenance.verify_flow,
        store_maintenance.gc_flow,
    ]
    known += [pipeline.nanochat_flow, model_refresh.refresh_flow, publish.publish_flow, stage.stage_flow]
    assert {flow.name for flow in known} == set(FLOWS)
