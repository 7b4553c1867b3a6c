"""What an experiment shows: noise between seeds, differences, laws, best sizes, compute multipliers, and a verdict.

Each part that the runs cannot show is replaced by one sentence that names what is missing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nanochat.config.experiment import Metric
from nanochat.errors import NotComparable
from nanochat.experiments.compute_multiplier import Multiplier, compute_multiplier
from nanochat.experiments.iso_flop import BestSizes, Budget, best_sizes, budgets, frontier
from nanochat.experiments.scaling_law import AXES, Axis, LargestRun, Point, ScalingLaw, fit_law, predict_largest
from nanochat.experiments.seeds import Noise, SeedDifference, Verdict, compare_seeds, noise_floor

T = TypeVar("T")

NAMES: Mapping[Metric, str] = {
    "bits_per_byte": "bits per byte",
    "core": "CORE",
    "core_gold_bits": "bits of CORE's right answers",
    "centered_accuracy": "mean centered accuracy",
    "chat_gold_bits": "bits of the right answers",
}
LOWER_IS_BETTER: frozenset[Metric] = frozenset(("bits_per_byte", "core_gold_bits", "chat_gold_bits"))


@dataclass(frozen=True)
class Run:
    """One run of an experiment; without a result if it has a problem."""

    name: str
    recipe: str
    rung: str
    seed: int
    measured_on: str = ""
    """Equal for runs that were evaluated on the same text or questions, by the same rules."""
    problem: str = ""
    """One sentence."""
    measures: Mapping[Metric, float] = field(default_factory=dict)
    flops: float = 0.0
    parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Of training and of what evaluates it."""
    tokens_per_s: float = 0.0


@dataclass(frozen=True)
class RecipeResult:
    """What the runs of one recipe show."""

    name: str
    runs: int
    means: Mapping[str, float]
    """Rung → mean over seeds."""
    noise: Mapping[Metric, Noise]
    """Of each metric that the evaluations have."""
    laws: Mapping[Axis, ScalingLaw | str]
    """Axis → law of the frontier, or why there is none; empty without a ladder."""
    frontier: Sequence[Point]
    """All runs; of several sizes at equal FLOPs, those of the best size."""
    both: ScalingLaw | str
    """The law of parameters and tokens together, or why there is none."""
    held_out: LargestRun | str
    budgets: Sequence[Budget]
    best_sizes: BestSizes | None


@dataclass(frozen=True)
class Against:
    """A recipe against the first one."""

    recipe: str
    first: str
    difference: SeedDifference | str
    """Or why there is none."""
    multiplier: Multiplier | str

    @property
    def verdict(self) -> Verdict:
        """By the difference if its noise is known, else by the compute for an equal loss."""
        if isinstance(self.difference, SeedDifference):
            return self.difference.verdict
        if isinstance(self.multiplier, str) or 1 in self.multiplier.interval:
            return "cannot tell"
        return "better" if self.multiplier.value > 1 else "worse"


@dataclass(frozen=True)
class Analysis:
    """All that an experiment shows."""

    metric: Metric
    confidence: float
    runs: Sequence[Run]
    recipes: Sequence[RecipeResult]
    comparisons: Sequence[Against]

    @property
    def compared(self) -> list[Run]:
        """The runs that have a result which counts."""
        return [run for run in self.runs if not run.problem]


def analyze(runs: Sequence[Run], metric: Metric, confidence: float) -> Analysis:
    """What the runs show. Runs without a finite metric, or evaluated on something else, are kept with their problem."""
    checked = _checked(runs, metric)
    names = list(dict.fromkeys(run.recipe for run in runs))
    by_recipe = {name: [run for run in checked if run.recipe == name and not run.problem] for name in names}
    results = [_recipe(name, of, metric, confidence) for name, of in by_recipe.items()]
    level = 1 - (1 - confidence) / max(1, len(names) - 1)  # all intervals together have the confidence (Bonferroni)
    first, *others = names or [""]
    comparisons = [_against(by_recipe, first, other, metric, level) for other in others]
    return Analysis(metric, confidence, checked, results, comparisons)


def _checked(runs: Sequence[Run], metric: Metric) -> list[Run]:
    measured = [run for run in runs if not run.problem and math.isfinite(run.measures.get(metric, math.nan))]
    reference = measured[0] if measured else None

    def problem(run: Run) -> str:
        if run.problem:
            return run.problem
        if metric not in run.measures:
            return f"Its evaluation has no {NAMES[metric]}."
        if not math.isfinite(run.measures[metric]):
            return f"It diverged: its {NAMES[metric]} is not a finite number."
        if reference and run.measured_on != reference.measured_on:
            return f"It was evaluated on other data or by other rules than {reference.name}, so it is not compared."
        return ""

    return [replace(run, problem=problem(run)) for run in runs]


def _recipe(name: str, runs: Sequence[Run], metric: Metric, confidence: float) -> RecipeResult:
    rungs = dict.fromkeys(run.rung for run in runs)
    noise: dict[Metric, Noise] = {}
    for each in NAMES:
        if found := noise_floor(_values(runs, each)):
            noise[each] = found
    means = {rung: _mean([run.measures[metric] for run in runs if run.rung == rung]) for rung in rungs}
    laws: dict[Axis, ScalingLaw | str] = {}
    both: ScalingLaw | str = ""
    held_out: LargestRun | str = ""
    found_budgets: list[Budget] = []
    best: list[Point] = []
    if len(rungs) > 1 and metric in LOWER_IS_BETTER:
        points = _points(runs, metric)
        found_budgets, best = budgets(points), frontier(points)
        # with several sizes at equal compute, the loss depends on parameters and tokens together only
        axes: Sequence[Axis] = ("flops",) if found_budgets else AXES
        laws = {axis: _or_sentence(lambda axis=axis: fit_law(best, (axis,))) for axis in axes}
        both = _or_sentence(lambda: fit_law(points, ("parameters", "tokens")))
        held_out = _or_sentence(lambda: predict_largest(best, confidence))
    return RecipeResult(
        name, len(runs), means, noise, laws, best, both, held_out, found_budgets, best_sizes(found_budgets)
    )


def _against(
    by_recipe: Mapping[str, Sequence[Run]], first: str, other: str, metric: Metric, confidence: float
) -> Against:
    lower = metric in LOWER_IS_BETTER
    for name in (first, other):
        if not by_recipe[name]:
            missing = f"No run of {name} has a result, so {other} is not compared with {first}."
            return Against(other, first, missing, missing)
    one, two = by_recipe[first], by_recipe[other]
    difference = _or_sentence(
        lambda: compare_seeds(_values(one, metric), _values(two, metric), lower_is_better=lower, confidence=confidence)
    )
    multiplier: Multiplier | str = ""
    if lower and len({run.rung for run in one}) > 1:
        best, other_best = frontier(_points(one, metric)), frontier(_points(two, metric))
        multiplier = _or_sentence(lambda: compute_multiplier(best, other_best, confidence))
    return Against(other, first, difference, multiplier)


def _or_sentence(make: Callable[[], T]) -> T | str:
    try:
        return make()
    except NotComparable as error:
        return str(error)


def _values(runs: Sequence[Run], metric: Metric) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        if math.isfinite(run.measures.get(metric, math.nan)):
            found.setdefault(run.rung, []).append(run.measures[metric])
    return found


def _points(runs: Sequence[Run], metric: Metric) -> list[Point]:
    return [Point(run.flops, run.parameters, run.tokens, run.measures[metric], run.name) for run in runs]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
