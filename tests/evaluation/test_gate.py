"""The gate of `refresh`: bounds decide, and what would have been needed is named."""

from pathlib import Path

import numpy as np
import pytest

from nanochat.config.compute import Compute
from nanochat.config.evaluation import GateConfig
from nanochat.errors import NotComparable
from nanochat.evaluation.comparison import Answers, PairedTask
from nanochat.evaluation.gate import Decision, decide, decide_by_bounds, decide_by_score
from nanochat.evaluation.paired import Pairs
from nanochat.execution.local import run_local
from nanochat.stages.compare_evaluations import gate
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store
from tests.evaluation.answers import answers
from tests.evaluation.stored import evaluation, model

DISAGREEMENT = 0.2
"""Share of the questions that only one of the two models answers."""


def simulated(loss: float, questions: int, seed: int, tasks: int = 5) -> tuple[Answers, Answers]:
    """A candidate that loses so much accuracy on every task, and the model in use; tasks without a guess."""
    generator = np.random.default_rng(seed)
    ours, theirs = [], []
    for task in range(tasks):
        place = generator.random(questions)
        only_candidate = place < (DISAGREEMENT - loss) / 2
        only_in_use = (place >= (DISAGREEMENT - loss) / 2) & (place < DISAGREEMENT)
        both = (place >= DISAGREEMENT) & (generator.random(questions) < 0.5)
        ours += answers(f"task {task}", list(only_candidate | both), baseline=0.0)
        theirs += answers(f"task {task}", list(only_in_use | both), baseline=0.0)
    return Answers("the candidate", ours, {}), Answers("the model in use", theirs, {})


def decision(loss: float, questions: int, seed: int = 1, **config: float | bool) -> Decision:
    return decide(*simulated(loss, questions, seed), GateConfig(**config))


def test_an_equal_candidate_passes_and_a_worse_one_does_not() -> None:
    assert decision(0.0, 400).passes
    assert not decision(0.05, 400).passes


def test_with_few_questions_a_loss_cannot_be_excluded_and_the_page_names_what_is_missing() -> None:
    found = decision(0.0, 20)
    assert not found.passes
    assert "95% confidence only at least" in found.reason
    assert found.lower_bound is not None
    assert found.lower_bound < -0.05
    assert "With these 100 questions, a gain of" in found.needed
    assert "The measured gain suffices with about" in found.needed


def test_the_named_gain_is_the_one_that_suffices() -> None:
    found = decision(0.05, 400)
    named = float(found.needed.split("a gain of ")[1].split()[0])
    assert decision(0.05, 400, least_gain=-named - 0.2, margin=0.0).passes
    gain = (found.score or 0) - (found.score_in_use or 0)
    shortfall = named - gain
    assert decision(0.05, 400, least_gain=-shortfall + 0.001).passes is False
    assert decision(0.05, 400, least_gain=-shortfall - 0.001).passes is True


def test_a_certain_gain_can_be_required() -> None:
    assert not decision(0.0, 400, margin=0.0).passes
    assert decision(-0.06, 400, margin=0.0).passes
    assert not decision(-0.06, 400, least_gain=0.05, margin=0.0).passes


def test_a_small_loss_that_many_questions_show_is_held_back() -> None:
    """A loss of 2 points is inside the margin, but with 20,000 questions it is certain."""
    found = decision(0.02, 4000)
    assert not found.passes
    assert "at most -0.0" in found.reason


def test_one_task_that_got_worse_is_held_back_if_requested() -> None:
    candidate, in_use = simulated(0.0, 600, 3, tasks=4)
    candidate = Answers("c", [*candidate.examples, *answers("sums", [False] * 60 + [True] * 540)], {})
    in_use = Answers("u", [*in_use.examples, *answers("sums", [True] * 600)], {})
    assert decide(candidate, in_use, GateConfig()).passes
    found = decide(candidate, in_use, GateConfig(per_task=True))
    assert (found.passes, found.worse_tasks) == (False, ("sums",))
    assert "worse on sums" in found.reason


def test_the_least_score_holds_in_any_case() -> None:
    found = decision(-0.05, 400, least_score=0.9)
    assert not found.passes
    assert "required 0.9000" in found.reason
    named = float(found.needed.split("a gain of ")[1].split()[0])
    assert (found.score_in_use or 0) + named == pytest.approx(0.9, abs=1e-4)


def test_without_kept_answers_the_bare_scores_decide_and_this_is_named() -> None:
    found = decide_by_score(0.31, 0.30, GateConfig(), "by the bare scores")
    assert found.passes
    assert "by the bare scores" in found.reason
    assert not decide_by_score(0.29, 0.30, GateConfig(), "").passes
    assert not decide_by_score(0.31, 0.30, GateConfig(least_gain=0.02), "").passes
    assert decide_by_score(0.1, None, GateConfig(), "there is no model in use").passes


def test_other_questions_are_refused() -> None:
    candidate, in_use = simulated(0.0, 10, 1)
    with pytest.raises(NotComparable):
        decide(Answers("c", candidate.examples, {"max_tokens": 5}), in_use, GateConfig())


def simulated_pairs(loss: float, questions: int, generator: np.random.Generator) -> dict[str, PairedTask]:
    """Five tasks as in `simulated`, without examples."""
    found = {}
    for task in range(5):
        place = generator.random(questions)
        differences = np.where(place < (DISAGREEMENT - loss) / 2, 1.0, np.where(place < DISAGREEMENT, -1.0, 0.0))
        pairs = Pairs(differences, np.arange(questions), 1)
        found[f"task {task}"] = PairedTask(pairs, 0.5, 0.5 + pairs.mean, 0.0)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "least_held", "most_held"), [(0.05, 0.95, 1.0), (0.0, 0.0, 0.05)])
def test_a_loss_of_5_points_is_caught_in_95_of_100_and_no_loss_is_held_back_in_5(
    loss: float, least_held: float, most_held: float
) -> None:
    """1,000 simulations of five tasks with 250 questions each, where models disagree on a fifth of the questions."""
    generator = np.random.default_rng(0)
    tries = (simulated_pairs(loss, 250, generator) for _ in range(1000))
    held = sum(not decide_by_bounds(tasks, GateConfig(), draws=2000).passes for tasks in tries)
    assert least_held <= held / 1000 <= most_held


def test_a_stage_keeps_the_decision_with_its_reason_and_table(tmp_path: Path) -> None:
    """Also for evaluations that have kept no answers, where the bare scores decide."""
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    candidate, in_use = simulated(0.0, 400, 1)
    new = evaluation(store, model(store, "new"), candidate.examples)
    used = evaluation(store, model(store, "used"), in_use.examples)
    old = evaluation(store, model(store, "old"), [], version=1)

    def decided(*before: Artifact) -> tuple[Artifact, str]:
        node = gate(GateConfig(), candidate=new, in_use=before)
        found = run_local(node, store, Compute(), tmp_path / "runs")[node]
        return found, (found.path / "report.md").read_text()

    found, page = decided(used)
    assert found.metrics["passes"] is True
    assert found.metrics["lower_bound"] > -0.05
    assert "# The candidate passes" in page
    assert "the candidate against the model in use" in page
    found, page = decided(old)
    assert "has kept no answers" in page
    assert "lower_bound" not in found.metrics
    found, page = decided()
    assert "there is no model in use" in page
