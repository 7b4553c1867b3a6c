"""Tables are computed from examples, and from nothing else."""

import json
from pathlib import Path

import pytest

from nanochat.errors import BadSource
from nanochat.evaluation.examples import read_examples, write_examples
from nanochat.evaluation.statistics import wilson
from nanochat.evaluation.tables import overall, tables, task_row, task_rows
from tests.evaluation.answers import answer, answers


def test_every_number_of_a_table_comes_from_the_examples(tmp_path: Path) -> None:
    """Written, read again, and computed: the same JSON to the byte."""
    examples = [
        *answers("arc", [True] * 30 + [False] * 30, gold_bits=1.25, right_flexible=True),
        *answers("spelling", [True] * 5 + [False] * 15, baseline=0.0, kind="generate"),
    ]
    write_examples(tmp_path, examples)
    found = tables(read_examples(tmp_path))
    assert json.dumps(found, allow_nan=False) == json.dumps(tables(examples))
    arc = found["tasks"]["arc"]
    assert (arc["questions"], arc["right"], arc["accuracy"], arc["baseline"]) == (60, 30, 0.5, 0.25)
    assert arc["interval"] == [wilson(0.5, 60).low, wilson(0.5, 60).high]
    assert arc["centered"] == pytest.approx(1 / 3)
    assert (arc["gold_bits"], arc["flexible_accuracy"]) == (1.25, 1.0)
    assert "gold_bits" not in found["tasks"]["spelling"]
    assert found["chatcore"] == pytest.approx((1 / 3 + 0.25) / 2)
    low, high = found["chatcore_interval"]
    assert 0.15 < low < found["chatcore"] < high < 0.45


def test_subjects_are_lines_of_their_own_and_clusters_of_the_task() -> None:
    """MMLU: a subject's questions are correlated, so the task's interval is wider; inside one they are not joined."""
    examples = [
        answer("mmlu", f"{subject} {number}", subject < 5, subject=f"s{subject}", group=f"s{subject}")
        for subject in range(10)
        for number in range(20)
    ]
    row = task_row(examples)
    assert list(row.subjects) == [f"s{number}" for number in range(10)]
    assert row.subjects["s1"].interval == wilson(1.0, 20)
    assert row.interval.high - row.interval.low > 3 * (wilson(0.5, 200).high - wilson(0.5, 200).low)


def test_several_answers_to_a_question_have_pass_at_k() -> None:
    examples = [
        answer("gsm8k", str(question), sample == 0, sample=sample) for question in range(40) for sample in range(4)
    ]
    row = task_row(examples)
    assert (row.questions, row.answers, row.right, row.accuracy) == (40, 160, 40, 0.25)
    assert {k: round(value, 6) for k, (value, _) in row.pass_at.items()} == {1: 0.25, 2: 0.5, 4: 1.0}
    assert row.pass_at[1][1] == row.interval
    assert task_row(answers("arc", [True])).pass_at == {}


def test_answers_that_are_none_are_counted_by_their_reason() -> None:
    examples = answers("humaneval", [True, False, False]) + [
        answer("humaneval", f"late {number}", False, verdict="time limit") for number in range(2)
    ]
    assert task_row(examples).no_answer == {"time limit": 2}


def test_a_score_of_nothing_but_wrong_answers_is_not_certain() -> None:
    """None of 10: the bootstrap alone would give an interval without width."""
    found = overall(answers("arc", [False] * 10))
    assert found.value == found.interval.low == pytest.approx(-1 / 3)
    assert 0.2 < found.interval.high - found.value < 0.5
    passages = [answer("squad", str(number), False, group=str(number // 5)) for number in range(50)]
    width = overall(passages).interval.high - overall(passages).interval.low
    assert width == pytest.approx(found.interval.high - found.interval.low), "ten passages count as ten answers"


def test_other_baselines_change_the_centered_accuracy_only() -> None:
    """DCLM's baselines exist in two versions."""
    examples = answers("commonsense_qa", [True] * 10 + [False] * 10)
    theirs = task_rows(examples, {"commonsense_qa": 0.403})["commonsense_qa"]
    assert theirs.accuracy == task_rows(examples)["commonsense_qa"].accuracy
    assert theirs.centered == pytest.approx((0.5 - 0.403) / 0.597)
    assert overall(examples, {"commonsense_qa": 0.403}).value == pytest.approx(theirs.centered)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples"),
        ([answer("arc", "1", True), answer("arc", "1", False)], "The question `1` of `arc` was answered twice"),
        (answers("arc", [True, False], baseline=1.0), "a guess at `arc` is 1.0"),
        (answers("arc", [True, False], gold_bits=float("nan")), "the right answer to `0` of `arc` are not finite"),
    ],
)
def test_examples_that_give_no_number_are_refused_by_name(examples: list, message: str) -> None:
    with pytest.raises(BadSource, match=message):
        tables(examples)
