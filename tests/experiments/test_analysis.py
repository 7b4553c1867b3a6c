"""What an experiment concludes, in words; and what it does with runs that cannot be compared."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from nanochat.experiments.analysis import Analysis, Run, analyze
from nanochat.experiments.verdict import verdict
from nanochat.report.experiment import as_json, render_experiment


def seeds(
    recipe: str, mean: float, count: int = 3, deviation: float = 0.002, rung: str = "", flops: float = 1e12
) -> list[Run]:
    """Runs whose values are evenly spread around a mean."""
    values = mean + deviation * np.linspace(-1, 1, count) if count > 1 else [mean]
    return [
        Run(
            " ".join(filter(None, [recipe, rung, f"s{n}"])), recipe, rung, n, "text", "",
            {"bits_per_byte": float(value)}, flops, 1000, 10_000, 12.0, 5000.0,
        )
        for n, value in enumerate(values)
    ]  # fmt: skip


def ladder(recipe: str, multiplier: float = 1.0, depths: int = 6, noise: float = 0.001) -> list[Run]:
    generator = np.random.default_rng(len(recipe))
    found: list[Run] = []
    for depth in range(depths):
        flops = 1e12 * 4.0**depth
        loss = (0.7 + 1.5 * (multiplier * flops / 1e12) ** -0.2) * math.exp(noise * generator.standard_normal())
        (run,) = seeds(recipe, loss, 1, rung=f"d{depth + 2}", flops=flops)
        found.append(replace(run, parameters=1000 * 2**depth, tokens=int(flops / 6000 / 2**depth)))
    return found


def concluded(runs: list[Run], metric: str = "bits_per_byte") -> tuple[Analysis, str]:
    found = analyze(runs, metric, 0.95)  # pyright: ignore[reportArgumentType]
    return found, " ".join(verdict(found))


def test_a_change_that_helps_is_better_by_an_interval() -> None:
    found, text = concluded([*seeds("plain", 1.0), *seeds("better", 0.95)])
    assert text.startswith("better is better than plain by 0.0500 bits per byte (95% interval 0.04")
    assert found.recipes[0].noise["bits_per_byte"].deviation == pytest.approx(0.002)


def test_a_change_that_does_nothing_cannot_be_told() -> None:  # plain-words: ok
    _, text = concluded([*seeds("plain", 1.0), *seeds("same", 1.0005)])
    assert text.startswith("Cannot tell whether same is better than plain: the difference is +0.0005 bits per byte")
    assert "more seeds of each would be needed to see it." in text


def test_one_seed_is_named_and_the_runs_are_still_shown() -> None:
    found, text = concluded([*seeds("plain", 1.0, 1), *seeds("other", 0.9, 1)])
    assert text.startswith("Cannot tell whether other is better than plain: there is one seed of each run")
    markdown, page = render_experiment("One seed", found, verdict(found))
    for shown in ("plain s0", "other s0", "1.0000", "0.9000"):
        assert shown in markdown
        assert shown in page


def test_runs_that_failed_diverged_or_read_other_data_do_not_count() -> None:
    runs = [*seeds("plain", 1.0), *seeds("better", 0.95)]
    runs[3] = replace(runs[3], measures={"bits_per_byte": math.nan})
    runs[4] = replace(runs[4], measured_on="another text")
    runs += [replace(run, name=f"{run.name} again") for run in seeds("better", 0.95)]
    runs.append(Run("better s9", "better", "", 9, problem="The loss jumped."))
    runs.append(Run("better s10", "better", "", 10, "text", measures={}))
    found, text = concluded(runs)
    problems = {run.name: run.problem for run in found.runs if run.problem}
    assert problems == {
        "better s0": "It diverged: its bits per byte is not a finite number.",
        "better s1": "It was evaluated on other data or by other rules than plain s0, so it is not compared.",
        "better s9": "The loss jumped.",
        "better s10": "Its evaluation has no bits per byte.",
    }
    assert "better is better than plain" in text
    assert text.endswith("4 of 11 runs have no result.")
    page = render_experiment("Bad input", found, verdict(found))[1]
    assert all(problem in page for problem in problems.values())


def test_a_recipe_without_results_is_named() -> None:
    _, text = concluded([*seeds("plain", 1.0), Run("broken s0", "broken", "", 0, problem="It failed.")])
    assert "no run of broken has a result" in text
    _, text = concluded([Run("broken s0", "", "", 0, problem="It failed.")])
    assert text == "No run has a result. 1 of 1 runs has no result."


def test_a_study_of_seeds_gives_their_noise() -> None:
    _, text = concluded(seeds("", 1.0, 5))
    assert text == "5 seeds have 1.0000 bits per byte on average, with a standard deviation of 0.0016."
    assert "takes two seeds or more" in concluded(seeds("", 1.0, 1))[1]


def test_two_ladders_are_compared_by_their_compute() -> None:
    found, text = concluded([*ladder("plain"), *ladder("better", 1.5)])
    assert "better is better than plain. For an equal loss, plain needs 1.49 times the compute of better" in text
    assert "fall with compute to the power 0.2" in text
    assert "is inside the band" in text
    assert found.comparisons[0].verdict == "better"
    assert concluded([*ladder("plain"), *ladder("same", 1.0)])[0].comparisons[0].verdict == "cannot tell"
    markdown, page = render_experiment("Ladders", found, verdict(found))
    assert "compute multiplier" in markdown
    assert page.count("<figure>") == 3
    content = as_json(found, verdict(found))
    assert content["recipes"][0]["laws"]["flops"]["terms"][0]["exponent"] == pytest.approx(0.2, abs=0.05)


def test_a_short_ladder_has_no_law_and_says_so() -> None:  # plain-words: ok
    found, text = concluded(ladder("", depths=4))
    assert text == "There is no law: a law over FLOPs takes 5 runs or more, and there are 4."
    assert "d5 s0" in render_experiment("Short", found, verdict(found))[0]
    assert concluded(ladder("", depths=2))[0].recipes[0].means.keys() == {"d2", "d3"}


def test_budgets_have_a_best_size_and_a_law_of_the_best_runs() -> None:
    runs: list[Run] = []
    for flops in (1e15, 4e15, 1.6e16, 6.4e16, 2.56e17):
        best = 1e6 * (flops / 1e15) ** 0.5
        for share in (0.4, 1.0, 2.5):
            loss = (0.7 + (flops / 1e15) ** -0.2) * (1 + 0.02 * math.log(share) ** 2)
            (run,) = seeds("", loss, 1, rung=f"{share} {flops}", flops=flops)
            runs.append(replace(run, parameters=int(share * best), tokens=int(flops / 6 / share / best)))
    found, text = concluded(runs)
    assert "The best size grows with compute to the power 0.500." in text
    assert "fall with compute to the power 0.200" in text
    assert found.recipes[0].laws.keys() == {"flops"}, "parameters alone do not decide here"
    assert [len(budget.points) for budget in found.recipes[0].budgets] == [3] * 5
    page = render_experiment("Budgets", found, verdict(found))[1]
    assert page.count("<figure>") == 2
    assert "1e+15 FLOPs" in page


def test_intervals_of_several_comparisons_hold_together() -> None:
    one = concluded([*seeds("plain", 1.0), *seeds("a", 0.99)])[0].comparisons[0].difference
    three = concluded([*seeds("plain", 1.0), *seeds("a", 0.99), *seeds("b", 1.0), *seeds("c", 1.0)])[0]
    wide = three.comparisons[0].difference
    assert not isinstance(one, str)
    assert not isinstance(wide, str)
    assert wide.interval.high - wide.interval.low > one.interval.high - one.interval.low


def test_higher_is_better_for_accuracies() -> None:
    runs = [
        replace(run, measures={"centered_accuracy": run.measures["bits_per_byte"]})
        for run in (*seeds("plain", 0.2), *seeds("better", 0.3))
    ]
    found, text = concluded(runs, "centered_accuracy")
    assert text.startswith("better is better than plain by 0.1000 mean centered accuracy")
    assert found.recipes[0].laws == {}
