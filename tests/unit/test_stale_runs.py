"""What is done with a run that nobody is left to move: the rules, without a server."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("prefect") is None:
    pytest.skip("prefect is not installed", allow_module_level=True)

from flows.site.stale_run_rules import Known, Limits, Step, crashes_in_a_row, decide
from flows.site.stale_runs import FLOWS

LONG = 10 * 86_400.0
NOTHING = ""
CASES: list[tuple[str, Known, str]] = [
    ("lives", Known("RUNNING", LONG, silent_s=140, beaten=True), NOTHING),
    ("silent", Known("RUNNING", LONG, silent_s=151, beaten=True), "Crashed"),
    ("starts", Known("PENDING", 170), NOTHING),
    ("its worker was killed", Known("PENDING", 181), "Crashed"),
    ("its machine is made ready", Known("PENDING", 1000, elsewhere=True), NOTHING),
    ("its machine never came", Known("PENDING", 1801, elsewhere=True), "Crashed"),
    ("has just crashed", Known("CRASHED", 1, crashes=1), NOTHING),
    ("crashed", Known("CRASHED", 4, crashes=1), "AwaitingRetry"),
    ("crashed five times", Known("CRASHED", 4, crashes=5), "AwaitingRetry"),
    ("crashed six times", Known("CRASHED", 4, crashes=6), "Failed"),
    ("crashed, of a terminal", Known("CRASHED", LONG, crashes=1, missing="deployment"), NOTHING),
    ("is being cancelled", Known("CANCELLING", 10, silent_s=10, beaten=True, cancelling_s=10), NOTHING),
    ("did not hear it", Known("CANCELLING", 16, silent_s=16, beaten=True, cancelling_s=16), "Cancelling"),
    ("was told again", Known("CANCELLING", 16, silent_s=16, beaten=True, cancelling_s=40, repeated=1), NOTHING),
    ("was cancelled before it began", Known("CANCELLING", 5, silent_s=46, cancelling_s=46), "Cancelled"),
    ("is cancelled while its machine comes", Known("CANCELLING", 5, 60, cancelling_s=60, elsewhere=True), NOTHING),
    (
        "was killed while it was cancelled",
        Known("CANCELLING", 5, silent_s=151, beaten=True, cancelling_s=151),
        "Cancelled",
    ),
    ("never hears it", Known("CANCELLING", 5, silent_s=20, beaten=True, cancelling_s=901), "Cancelled"),
    ("waits for its turn", Known("SCHEDULED", LONG, aged_s=LONG), NOTHING),
    ("waits for a worker", Known("SCHEDULED", 100, aged_s=3600, missing="worker"), NOTHING),
    ("waits in vain", Known("SCHEDULED", 100, aged_s=LONG, missing="worker"), "Failed"),
    ("has no deployment", Known("SCHEDULED", 61, missing="deployment"), "Failed"),
    ("has no queue", Known("SCHEDULED", 61, missing="work queue"), "Failed"),
    ("is paused", Known("PAUSED", 100, aged_s=3600), NOTHING),
    ("is paused for days", Known("PAUSED", 100, aged_s=LONG), "Cancelled"),
    ("has ended", Known("COMPLETED", LONG, aged_s=LONG), NOTHING),
]


@pytest.mark.parametrize(("run", "name"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_overdue_for_a_run_that(run: Known, name: str) -> None:
    step = decide(run, Limits())
    assert (step.name if step else NOTHING) == name
    assert step is None or step.message.endswith(".")


def test_no_state_lasts_for_ever_without_anything_alive() -> None:
    """Whatever it is in, a run that nothing moves is moved, and the steps lead to an end."""
    for kind in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED", "CRASHED"):
        for beaten in (True, False):
            state, crashes, steps = kind, 1 if kind == "CRASHED" else 0, 0
            while state not in ("FAILED", "CANCELLED", "COMPLETED"):
                missing = "worker" if state == "SCHEDULED" else ""
                dead = Known(state, LONG, LONG, beaten, LONG, 9, LONG, missing, crashes=crashes)
                step = decide(dead, Limits())
                assert step is not None, (kind, state)
                crashes += step.type == "CRASHED"
                state, steps = step.type, steps + 1
                assert steps < 4


def test_a_run_that_crashes_again_and_again_waits_longer_each_time() -> None:
    steps = [decide(Known("CRASHED", 4, crashes=n, message="Boom."), Limits()) for n in range(1, 7)]
    delays = [step.delay_s for step in steps[:5] if step]
    assert delays == [0, 10, 20, 40, 80]
    assert steps[5] == Step("FAILED", "Failed", "Crashed 6 times; the last time: Boom. Retry starts it again.")


def test_crashes_are_counted_since_the_run_last_ended_otherwise() -> None:
    def history(*types: str) -> list[dict[str, Any]]:
        return [{"type": each, "timestamp": f"{place:03}"} for place, each in enumerate(types)]

    often = ("SCHEDULED", "PENDING", "CRASHED") * 3
    assert crashes_in_a_row(history(*often)) == 3
    assert crashes_in_a_row(history(*often, "CRASHED")) == 3, "said by two"
    assert crashes_in_a_row(history(*often, "FAILED", "SCHEDULED", "CRASHED")) == 1, "a person has started it again"
    assert crashes_in_a_row(list(reversed(history(*often)))) == 3
    assert crashes_in_a_row([]) == 0


def test_all_our_flows_are_looked_after() -> None:
    from flows import branches, model_refresh, pipeline, stage, store_maintenance

    known = [
        branches.evaluate_flow,
        branches.tune_flow,
        branches.ladder_flow,
        store_maintenance.verify_flow,
        store_maintenance.gc_flow,
    ]
    known += [pipeline.nanochat_flow, model_refresh.refresh_flow, stage.stage_flow]
    assert {flow.name for flow in known} == set(FLOWS)
