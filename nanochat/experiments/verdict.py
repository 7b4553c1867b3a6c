"""The verdict of an experiment, in words, with its intervals."""

from nanochat.evaluation.statistics import Interval
from nanochat.experiments.analysis import NAMES, Against, Analysis, RecipeResult
from nanochat.experiments.compute_multiplier import Multiplier
from nanochat.experiments.iso_flop import BestSizes
from nanochat.experiments.scaling_law import LargestRun, ScalingLaw
from nanochat.experiments.seeds import MOST_SEEDS, SeedDifference


def verdict(analysis: Analysis) -> list[str]:
    """Sentences: of each recipe against the first one; of the ladder; of what has no result."""
    sentences = [_of_comparison(each, analysis) for each in analysis.comparisons]
    sentences += [sentence for each in analysis.recipes if (sentence := of_law(each, analysis))]
    sentences += [of_best_sizes(each, each.best_sizes) for each in analysis.recipes if each.best_sizes]
    if not sentences:
        sentences = [_of_one(analysis)]
    without = sum(bool(run.problem) for run in analysis.runs)
    if without:
        sentences.append(f"{without} of {len(analysis.runs)} runs {'has' if without == 1 else 'have'} no result.")
    return sentences


def _of_comparison(found: Against, analysis: Analysis) -> str:
    difference, multiplier = found.difference, found.multiplier
    if isinstance(difference, str):
        if isinstance(multiplier, Multiplier):
            return _of_multiplier(found, multiplier, analysis)
        return f"Cannot tell whether {found.recipe} is better than {found.first}: {_inside(difference)}"
    sentence = _of_difference(found, difference, analysis)
    return f"{sentence} {_multiplier(found, multiplier, analysis)}" if isinstance(multiplier, Multiplier) else sentence


def _of_difference(found: Against, seen: SeedDifference, analysis: Analysis) -> str:
    interval = f"{analysis.confidence:.0%} interval"
    name = NAMES[analysis.metric]
    if seen.verdict != "cannot tell":
        size = sorted((abs(seen.interval.low), abs(seen.interval.high)))
        return (
            f"{found.recipe} is {seen.verdict} than {found.first} by {abs(seen.difference):.4f} {name} "
            f"({interval} {size[0]:.4f} to {size[1]:.4f})."
        )
    return (
        f"Cannot tell whether {found.recipe} is better than {found.first}: the difference is {seen.difference:+z.4f} "
        f"{name} ({interval} {seen.interval.low:+z.4f} to {seen.interval.high:+z.4f}); {_needed(seen)}."
    )


def _needed(seen: SeedDifference) -> str:
    if seen.more_seeds is None:
        return f"to see it, more than {MOST_SEEDS:,} seeds of each would be needed"
    plural = "s" * (seen.more_seeds != 1)
    return f"{seen.more_seeds} more seed{plural} of each would be needed to see it"


def _of_multiplier(found: Against, seen: Multiplier, analysis: Analysis) -> str:
    sentence = f"{found.recipe} is {found.verdict} than {found.first}."
    if found.verdict == "cannot tell":
        sentence = f"Cannot tell whether {found.recipe} is better than {found.first}."
    return f"{sentence} {_multiplier(found, seen, analysis)}"


def _multiplier(found: Against, seen: Multiplier, analysis: Analysis) -> str:
    sentence = (
        f"For an equal loss, {found.first} needs {seen.value:.3g} times the compute of {found.recipe} "
        f"({analysis.confidence:.0%} interval {seen.interval.low:.3g} to {seen.interval.high:.3g})."
    )
    return sentence + " The two have no loss in common, so this depends on the law." * seen.is_extrapolated


def of_law(recipe: RecipeResult, analysis: Analysis) -> str:
    """What the ladder of a recipe shows, over compute; empty without a ladder."""
    law = recipe.laws.get("flops")
    of = f" of {recipe.name}" if recipe.name else ""
    if law is None:
        return ""
    if not isinstance(law, ScalingLaw):
        return f"There is no law{of}: {_inside(law)}"
    name, level = NAMES[analysis.metric], analysis.confidence
    exponent = law.exponent_interval("flops", level)
    floor = law.irreducible_interval(level)
    sentence = (
        f"The {name}{of} fall with compute to the power {law.terms[0].exponent:.3f} "
        f"({level:.0%} interval {_range(exponent, 3)}) towards {law.irreducible:.3f} ({_range(floor, 3)})."
    )
    return f"{sentence} {_of_held_out(recipe.held_out)}".strip()


def of_best_sizes(recipe: RecipeResult, found: BestSizes) -> str:
    """How the best size of a recipe grows with compute."""
    of = f" of {recipe.name}" if recipe.name else ""
    return f"The best size{of} grows with compute to the power {found.exponent:.3f}."


def _of_held_out(found: LargestRun | str) -> str:
    if isinstance(found, str):
        return ""
    place = "inside" if found.is_inside else "outside of"
    return (
        f"The largest run, {found.name}, is {place} the band of a law of the others: {found.measured:.4f}, "
        f"predicted {_range(found.interval, 4)}."
    )


def _of_one(analysis: Analysis) -> str:
    """An experiment of one recipe without a ladder: a study of its noise."""
    recipe = analysis.recipes[0] if analysis.recipes else None
    if recipe is None or not recipe.means:
        return "No run has a result."
    noise = recipe.noise.get(analysis.metric)
    (mean,) = recipe.means.values()
    name = NAMES[analysis.metric]
    if noise is None:
        return f"One run has {mean:.4f} {name}; the noise between seeds takes two seeds or more."
    return f"{recipe.runs} seeds have {mean:.4f} {name} on average, with a standard deviation of {noise.deviation:.2g}."


def _range(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def _inside(sentence: str) -> str:
    """A sentence after a colon."""
    return sentence[0].lower() + sentence[1:]
