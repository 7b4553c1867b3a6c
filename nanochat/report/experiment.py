"""The page of an experiment: the verdict, each recipe against the first one, the ladder, the noise, every run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nanochat.config.experiment import Metric
from nanochat.console import duration
from nanochat.evaluation.statistics import Interval
from nanochat.experiments.analysis import LOWER_IS_BETTER, NAMES, Against, Analysis, RecipeResult, Run
from nanochat.experiments.scaling_law import AXES, Axis, ScalingLaw
from nanochat.experiments.seeds import SeedDifference
from nanochat.experiments.verdict import of_best_sizes
from nanochat.report.document import Block, Cell, Chapter, Document, Figure, Points, Table, Text, Tone
from nanochat.report.figures import Bar, Group, Series, bars, curves

AXIS_NAMES: Mapping[Axis, str] = {
    "flops": "training FLOPs", "parameters": "parameters", "tokens": "training tokens",
}  # fmt: skip
CURVE_POINTS = 40
BEYOND = 3.0
"""A law is drawn up to this many times the largest amount."""


def render_experiment(title: str, analysis: Analysis, sentences: Sequence[str]) -> tuple[str, str]:
    """The page, as Markdown and as HTML."""
    name = NAMES[analysis.metric]
    recipes = [recipe for recipe in analysis.recipes if recipe.runs]
    better = "lower" if analysis.metric in LOWER_IS_BETTER else "higher"
    subtitle = f"{len(analysis.runs)} runs; {name} decide, {better} is better; intervals of {analysis.confidence:.0%}"
    chapters = [
        Chapter("Against the first recipe", _against(analysis)),
        Chapter("Over compute, parameters and tokens", _ladder(recipes, analysis)),
        Chapter("Best size of each budget", _budgets(recipes, name)),
        Chapter("Noise between seeds", _noise(recipes)),
        Chapter("Runs", [_runs(analysis)]),
    ]
    return Document(title, subtitle, chapters, [Points(sentences)]).render()


def as_json(analysis: Analysis, sentences: Sequence[str]) -> dict[str, Any]:
    """The numbers of the page, for programs."""
    return {
        "verdict": list(sentences),
        "metric": analysis.metric,
        "confidence": analysis.confidence,
        "runs": [asdict(run) for run in analysis.runs],
        "recipes": [_recipe_json(recipe, analysis.confidence) for recipe in analysis.recipes],
        "comparisons": [asdict(each) for each in analysis.comparisons],
    }


def _recipe_json(recipe: RecipeResult, confidence: float) -> dict[str, Any]:
    fitted: dict[str, ScalingLaw | str] = {**recipe.laws, "parameters and tokens": recipe.both}
    return {
        "name": recipe.name,
        "means": recipe.means,
        "noise": {name: asdict(noise) for name, noise in recipe.noise.items()},
        "laws": {name: _law_json(law, confidence) for name, law in fitted.items() if law},
        "held_out": recipe.held_out if isinstance(recipe.held_out, str) else asdict(recipe.held_out),
        "budgets": [asdict(budget) for budget in recipe.budgets],
        "best_sizes": recipe.best_sizes and asdict(recipe.best_sizes),
    }


def _law_json(law: ScalingLaw | str, confidence: float) -> Any:
    if isinstance(law, str):
        return law
    terms = [{**asdict(term), "interval": asdict(law.exponent_interval(term.axis, confidence))} for term in law.terms]
    floor = {"value": law.irreducible, "interval": asdict(law.irreducible_interval(confidence))}
    return {"irreducible": floor, "terms": terms}


# --- recipes ----------------------------------------------------------------------------------------------------------


def _against(analysis: Analysis) -> list[Block]:
    if not analysis.comparisons:
        return []
    rows = [_against_row(each) for each in analysis.comparisons]
    heads = ["recipe", "verdict", "difference", "interval", "could be seen", "compute multiplier"]
    sentences = [each.difference for each in analysis.comparisons if isinstance(each.difference, str)]
    sentences += [each.multiplier for each in analysis.comparisons if isinstance(each.multiplier, str)]
    first = analysis.comparisons[0].first
    intro = (
        f"Differences from {first} in {NAMES[analysis.metric]}, over the sizes that both have. A true difference as "
        "large as in the column “could be seen” is seen in four of five experiments like this one. The compute "
        f"multiplier is the compute that {first} needs for an equal loss, as a multiple of the recipe's."
    )
    blocks: list[Block] = [*_differences(analysis), Text(intro, "dim"), Table(heads, rows, heads[2:])]
    if problems := [sentence for sentence in dict.fromkeys(sentences) if sentence]:
        blocks.append(Points(problems))
    return blocks


def _against_row(found: Against) -> list[str | Cell]:
    seen, multiplier = found.difference, found.multiplier
    compute = "–" if isinstance(multiplier, str) else f"{multiplier.value:.3g} ({_range(multiplier.interval, '.3g')})"
    tone: Tone = "good" if found.verdict == "better" else "bad" if found.verdict == "worse" else "dim"
    cells: list[str | Cell] = [found.recipe, Cell(found.verdict, tone)]
    if isinstance(seen, str):
        return [*cells, "–", "–", "–", compute]
    return [*cells, f"{seen.difference:+z.4f}", _range(seen.interval, "+z.4f"), f"{seen.detectable:.4f}", compute]


def _differences(analysis: Analysis) -> list[Block]:
    """A bar for each recipe whose difference from the first one has an interval."""
    name = NAMES[analysis.metric]
    groups = [
        Group(
            each.recipe, [Bar(seen.difference, f"{seen.difference:+z.4f}", 0, (seen.interval.low, seen.interval.high))]
        )
        for each in analysis.comparisons
        if isinstance(seen := each.difference, SeedDifference)
    ]
    if not groups:
        return []
    first = analysis.comparisons[0].first
    return [Figure(bars(groups), f"Difference from {first} in {name}, with its interval; 0 is no difference.")]


# --- the ladder -------------------------------------------------------------------------------------------------------


def _ladder(recipes: Sequence[RecipeResult], analysis: Analysis) -> list[Block]:
    if not any(recipe.laws for recipe in recipes):
        return []
    rows: list[list[str | Cell]] = []
    for recipe in recipes:
        for axis, law in recipe.laws.items():
            rows.append(_law_row(recipe.name, AXIS_NAMES[axis], law, axis, analysis))
        if isinstance(recipe.both, ScalingLaw):
            rows += [
                _law_row(recipe.name, f"{axis}, with both", recipe.both, axis, analysis)
                for axis in ("parameters", "tokens")
            ]
    heads = ["recipe", "over", "exponent", "interval", "irreducible", "its interval"]
    intro = (
        "The law is E + scale · x^(−exponent), where E is the irreducible loss; bands are a bootstrap by run, and "
        "contain the mean loss of runs of that size. Of several sizes at equal FLOPs, the best one counts."
    )
    axes: list[Axis] = [axis for axis in AXES if any(axis in recipe.laws for recipe in recipes)]
    figures = [_law_figure([each for each in recipes if axis in each.laws], axis, analysis) for axis in axes]
    problems = dict.fromkeys(
        law for recipe in recipes for law in (*recipe.laws.values(), recipe.both) if isinstance(law, str) and law
    )
    blocks: list[Block] = [Text(intro, "dim"), *figures, Table(heads, rows, heads[2:])]
    return [*blocks, Points(list(problems))] if problems else blocks


def _law_row(name: str, over: str, law: ScalingLaw | str, axis: Axis, analysis: Analysis) -> list[str | Cell]:
    if isinstance(law, str):
        return [name or "–", over, "–", "–", "–", "–"]
    term = next(term for term in law.terms if term.axis == axis)
    level = analysis.confidence
    return [
        name or "–", over, f"{term.exponent:.3f}", _range(law.exponent_interval(axis, level), ".3f"),
        f"{law.irreducible:.3f}", _range(law.irreducible_interval(level), ".3f"),
    ]  # fmt: skip


def _law_figure(recipes: Sequence[RecipeResult], axis: Axis, analysis: Analysis) -> Figure:
    """The runs of each recipe, and below them the curve and the band of its law."""
    series: list[Series] = []
    laws: list[Series] = []
    for recipe in recipes:
        runs = sorted((getattr(point, axis), point.loss) for point in recipe.frontier)
        series.append(Series(recipe.name or "runs", runs, dots=True))
        law = recipe.laws.get(axis)
        if isinstance(law, ScalingLaw):
            laws.append(_law_series(law, axis, f"law of {recipe.name}" if recipe.name else "law", runs, analysis))
    caption = f"{NAMES[analysis.metric]} over {AXIS_NAMES[axis]}, both axes logarithmic. {_fitted(recipes, axis)}"
    drawing = curves([*series, *laws], AXIS_NAMES[axis], NAMES[analysis.metric], log=True)
    return Figure(drawing, caption[0].upper() + caption[1:])


def _law_series(
    law: ScalingLaw, axis: Axis, name: str, runs: Sequence[tuple[float, float]], analysis: Analysis
) -> Series:
    amounts = [float(x) for x in np.geomspace(runs[0][0], BEYOND * runs[-1][0], CURVE_POINTS)]
    bands = [(x, law.band({axis: x}, analysis.confidence)) for x in amounts]
    return Series(name, [(x, law.at({axis: x})) for x in amounts], [(x, band.low, band.high) for x, band in bands])


def _fitted(recipes: Sequence[RecipeResult], axis: Axis) -> str:
    sentences: list[str] = []
    for recipe in recipes:
        law = recipe.laws.get(axis)
        if isinstance(law, ScalingLaw):
            of = f" of {recipe.name}" if recipe.name else ""
            (term,) = law.terms
            sentences.append(f"Law{of}: {law.irreducible:.3f} + {term.scale:.4g} · x^−{term.exponent:.3f}.")
    return " ".join(sentences)


def _budgets(recipes: Sequence[RecipeResult], name: str) -> list[Block]:
    rows: list[list[str | Cell]] = [
        [
            recipe.name or "–", f"{each.flops:.3g}", str(len(each.points)),
            f"{each.parameters:,.0f}" if each.parameters else "–", f"{each.tokens:,.0f}" if each.tokens else "–",
            f"{each.loss:.4f}" if each.loss else each.problem,
        ]
        for recipe in recipes for each in recipe.budgets
    ]  # fmt: skip
    if not rows:
        return []
    heads = ["recipe", "FLOPs", "runs", "best parameters", "tokens", "loss there"]
    lines = [of_best_sizes(recipe, recipe.best_sizes) for recipe in recipes if recipe.best_sizes]
    intro = Text("Minimum of a parabola of the loss over the logarithm of the parameters, at equal FLOPs.", "dim")
    series = [
        Series(
            " ".join(filter(None, [recipe.name, f"{each.flops:.2g} FLOPs"])),
            [(point.parameters, point.loss) for point in each.points],
            dots=True,
        )
        for recipe in recipes
        for each in recipe.budgets
    ]
    figure = Figure(curves(series, "parameters", name, log=True), f"{name} over parameters, a curve for each budget.")
    blocks: list[Block] = [intro, figure, Table(heads, rows, heads[1:5])]
    return [*blocks, Points(lines)] if lines else blocks


# --- noise and runs ---------------------------------------------------------------------------------------------------


def _noise(recipes: Sequence[RecipeResult]) -> list[Block]:
    rows: list[list[str | Cell]] = [
        [recipe.name or "–", NAMES[metric], f"{noise.deviation:.3g}", str(noise.freedom)]
        for recipe in recipes
        for metric, noise in recipe.noise.items()
    ]
    if not rows:
        return []
    heads = ["recipe", "metric", "standard deviation", "degrees of freedom"]
    return [
        Text("How far runs that differ only in their seed are from each other.", "dim"),
        Table(heads, rows, heads[2:]),
    ]


def _runs(analysis: Analysis) -> Table:
    measured: list[Metric] = [metric for metric in NAMES if any(metric in run.measures for run in analysis.runs)]
    heads = [
        "run", "seed", "parameters", "tokens", "FLOPs", *(NAMES[metric] for metric in measured), "tokens/s", "time",
        "problem",
    ]  # fmt: skip
    if not any(run.problem for run in analysis.runs):
        heads = heads[:-1]

    def row(run: Run) -> list[str | Cell]:
        values = [f"{run.measures[metric]:.4f}" if metric in run.measures else "–" for metric in measured]
        made = [f"{run.parameters:,}", f"{run.tokens:,}", f"{run.flops:.3g}"] if run.parameters else ["–"] * 3
        speed = [f"{run.tokens_per_s:,.0f}", duration(run.seconds)] if run.parameters else ["–"] * 2
        cells: list[str | Cell] = [run.name, str(run.seed), *made, *values, *speed, Cell(run.problem, "bad")]
        return cells[: len(heads)]

    return Table(heads, [row(run) for run in analysis.runs], [head for head in heads[1:] if head != "problem"])


def _range(interval: Interval, form: str) -> str:
    return f"{interval.low:{form}} to {interval.high:{form}}"
