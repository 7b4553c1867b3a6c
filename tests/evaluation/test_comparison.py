"""Two models on the same questions: the verdict is in words, and what cannot be compared is refused by name."""

import math
from itertools import product

import numpy as np
import pytest

from nanochat.errors import BadSource, NotComparable
from nanochat.evaluation.comparison import Answers, compare, rules_of
from nanochat.evaluation.examples import Example
from nanochat.evaluation.paired import Pairs, detectable, difference_interval, exact_test, holm
from tests.evaluation.answers import answer, answers

RULES = {"stage": "evaluate_chat", "max_tokens": 256}


def pairs(differences: list[float], clusters: list[int] | None = None, unit: int = 1) -> Pairs:
    return Pairs(np.array(differences), np.array(clusters or range(len(differences))), unit)


def two(first: list[Example], second: list[Example]) -> tuple[Answers, Answers]:
    return Answers("A", first, RULES), Answers("B", second, RULES)


def test_independent_questions_have_mcnemars_exact_test() -> None:
    found = exact_test(pairs([1.0] * 15 + [-1.0] * 5 + [0.0] * 30))
    assert found.either == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20)
    assert found.worse == pytest.approx(1 - sum(math.comb(20, k) for k in range(5)) / 2**20)
    assert exact_test(pairs([0.0] * 9)).either == 1.0


def test_clusters_and_several_answers_are_tested_by_all_their_signs() -> None:
    """Against the sums of all 2^n signs."""
    generator = np.random.default_rng(5)
    for _ in range(20):
        clusters = np.unique(generator.integers(0, 8, 14), return_inverse=True)[1]
        differences = generator.integers(-4, 5, 14) / 4
        sums = np.bincount(clusters, differences)
        totals = [float(np.dot(signs, np.abs(sums))) for signs in product([1, -1], repeat=len(sums))]
        found = exact_test(Pairs(differences, clusters, 4))
        assert found.either == pytest.approx(np.mean(np.abs(totals) >= abs(sums.sum()) - 1e-9))
        assert found.worse == pytest.approx(np.mean(np.array(totals) <= sums.sum() + 1e-9))


def test_independent_questions_have_bonett_and_prices_interval() -> None:
    """Of 100 questions, 20 only the second model has right, and 8 only the first: (20 - 8) / 102 ± t · error."""
    found = difference_interval(pairs([1.0] * 20 + [-1.0] * 8 + [0.0] * 72))
    middle = 12 / 102
    error = math.sqrt((30 / 102 - middle**2) / 101)
    assert (found.low + found.high) / 2 == pytest.approx(middle)
    assert found.high - middle == pytest.approx(1.9837 * error, rel=1e-3)


def test_models_that_agree_on_a_few_questions_are_not_known_to_be_equal() -> None:
    found = difference_interval(pairs([0.0] * 10))
    assert found.low < -0.2
    assert found.high > 0.2


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_difference_that_could_be_seen_is_millers() -> None:
    """Differences with a variance of 1/9: 969 questions show 3 points with a power of 80% (Miller 2024, section 5)."""
    assert detectable(math.sqrt(1 / 9 / 969), math.inf) == pytest.approx(0.03, rel=1e-3)


def test_the_verdict_is_in_words_for_each_task_and_over_all() -> None:
    base = [number % 2 == 0 for number in range(400)]
    better = [number % 2 == 0 or number % 8 == 1 for number in range(400)]
    slightly = [each if number else not each for number, each in enumerate(base)]
    worse = [number % 4 == 0 for number in range(400)]
    first = [*answers("up", base), *answers("same", base), *answers("down", base)]
    second = [*answers("up", better), *answers("same", slightly), *answers("down", worse)]
    found = compare(*two(first, second))
    assert {name: each.verdict for name, each in found.tasks.items()} == {
        "up": "better", "same": "cannot tell", "down": "worse",
    }  # fmt: skip
    assert found.tasks["up"].difference == pytest.approx(0.125)
    assert 0.09 < found.tasks["up"].interval.low < 0.125 < found.tasks["up"].interval.high < 0.16
    assert found.tasks["same"].detectable < 0.02
    assert found.tasks["up"].adjusted < 1e-10
    assert found.overall.verdict == "worse"
    assert found.overall.difference == pytest.approx((0.125 - 0.0025 - 0.25) / 0.75 / 3)
    mirrored = compare(*reversed(two(first, second)))
    assert mirrored.tasks["up"].verdict == "worse"
    assert mirrored.overall.difference == pytest.approx(-found.overall.difference)
    assert mirrored.overall.verdict == "better"


def test_the_same_answers_are_compared_to_the_same_bytes() -> None:
    generator = np.random.default_rng(1)
    first, second = (answers("arc", list(generator.random(200) < 0.5)) for _ in range(2))
    assert compare(*two(first, second)) == compare(*two(first, second))


def test_questions_that_only_one_model_answered_are_left_out_and_counted() -> None:
    first = [*answers("arc", [True] * 30), *answers("mmlu", [True] * 5)]
    second = answers("arc", [True] * 20)
    found = compare(*two(first, second))
    assert found.tasks["arc"].questions == 20
    assert found.left_out == {"arc": 10, "mmlu": 5}


def test_another_prompt_of_a_question_is_refused_by_name() -> None:
    """Case 27: one model had MMLU 38.3 and 35.1 with two forms of the prompt."""
    second = [*answers("mmlu", [True] * 4), answer("mmlu", "4", True, prompt="Answer with the letter.")]
    with pytest.raises(NotComparable, match=r"`mmlu` differ between A and B: 1 of 5 have another prompt \(`4`\)"):
        compare(*two(answers("mmlu", [True] * 5), second))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"gold": "C"}, "2 of 2 have another right answer"), ({"kind": "generate"}, "2 of 2 have another kind")],
)
def test_another_answer_or_kind_of_question_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(NotComparable, match=message):
        compare(*two(answers("arc", [True, False]), answers("arc", [True, False], **changes)))


def test_other_rules_are_refused_by_name_but_not_other_numbers_of_questions() -> None:
    """Stop rules, length and sampling decide on answers; limits and seeds do not."""
    config = {"limit": 50, "samples": 4, "seed": 1, "max_tokens": 256, "stop": ["\n"]}
    ours = rules_of("evaluate_chat", 2, config)
    assert ours == {"stage": "evaluate_chat", "version of the stage": 2, "max_tokens": 256, "stop": ["\n"]}
    for changes, message in (
        ({"max_tokens": 512}, "`max_tokens` is `256` for A and `512` for B"),
        ({"temperature": 0.6}, "`temperature` is not set for A and `0.6` for B"),
        ({"stop": ["#"]}, "`stop` is"),
    ):
        theirs = rules_of("evaluate_chat", 2, config | changes)
        with pytest.raises(NotComparable, match=message):
            compare(Answers("A", answers("arc", [True]), ours), Answers("B", answers("arc", [True]), theirs))
    with pytest.raises(NotComparable, match="`version of the stage` is `2` for A and `3` for B"):
        compare(Answers("A", [], ours), Answers("B", [], rules_of("evaluate_chat", 3, config)))


def test_no_question_in_common_is_refused() -> None:
    with pytest.raises(NotComparable, match="A and B have no question in common") as refused:
        compare(*two(answers("arc", [True]), answers("gsm8k", [True])))
    assert "`arc`" in refused.value.hint


def test_several_answers_to_a_question_are_compared_by_their_share() -> None:
    """Four answers of one model, and one of the other: differences are multiples of a quarter."""
    first = [answer("gsm8k", str(question), sample < 1, sample=sample) for question in range(30) for sample in range(4)]
    found = compare(*two(first, answers("gsm8k", [True] * 30))).tasks["gsm8k"]
    assert (found.first, found.second, found.verdict) == (0.25, 1.0, "better")
    assert found.probability == pytest.approx(2 / 2**30)


def test_an_answer_that_is_there_twice_is_refused() -> None:
    with pytest.raises(BadSource, match="answered twice"):
        compare(*two(answers("arc", [True]), [*answers("arc", [True]), *answers("arc", [False])]))
