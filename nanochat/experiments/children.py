"""The runs of an experiment: each combination of recipe, grid, depth, FLOPs and seed, with its whole config."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.config.experiment import ExperimentConfig, Recipe
from nanochat.config.overrides import override, shown
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import BadConfig
from nanochat.scaling import derive_hyperparameters

MOST_CHILDREN = 500
CHAT_METRICS = ("centered_accuracy", "chat_gold_bits")


@dataclass(frozen=True)
class Child:
    """One run of an experiment."""

    name: str
    """Unique in the experiment: `higher rate d4 s2`."""
    recipe: str
    rung: str
    config: PipelineConfig

    @property
    def seed(self) -> int:
        return self.config.pretrain.seed


def children(experiment: ExperimentConfig, base: PipelineConfig) -> list[Child]:
    """The runs, those of the first recipe first.

    Raises `BadConfig` for a change that does not fit the config, for hyperparameters that do not fit together, for two
    runs with one name, and for more than 500 runs.
    """
    recipes = list(itertools.product(experiment.recipes or (Recipe(name="-"),), _combinations(experiment.grid)))
    rungs = list(itertools.product(_depths(experiment.depths), _budgets(experiment.flops)))
    seeds = [(f"s{seed}", _seed(seed, experiment)) for seed in experiment.seeds] or [("", [])]
    count = len(recipes) * len(rungs) * len(seeds)
    if count > MOST_CHILDREN:
        raise BadConfig(f"The experiment has {count:,} runs, and at most {MOST_CHILDREN} are possible.")
    found: list[Child] = []
    for recipe, (values, of_grid) in recipes:
        name = " ".join(filter(None, [recipe.name if experiment.recipes else "", values]))
        for (depth, of_depth), (budget, of_budget) in rungs:
            rung = " ".join(filter(None, [depth, budget]))
            for seed, of_seed in seeds:
                changes = [*experiment.changes, *recipe.changes, *of_grid, *of_depth, *of_budget, *of_seed]
                child = " ".join(filter(None, [name, rung, seed])) or "base"
                found.append(Child(child, name, rung, _config(child, base, changes)))
    _check_names([child.name for child in found])
    return found


def _config(name: str, base: PipelineConfig, changes: Sequence[str]) -> PipelineConfig:
    try:
        config = override(base, changes)
        derive_hyperparameters(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len)
    except BadConfig as error:
        raise BadConfig(f"The run `{shown(name)}`: {error.message}", hint=error.hint) from None
    return config


def _combinations(grid: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Name and changes of each combination of values."""
    axes = [_values(axis) for axis in grid]
    return [
        (", ".join(f"{field.rpartition('.')[2]}={_text(value)}" for field, value in combination),
         [f"{field}={json.dumps(value)}" for field, value in combination])
        for combination in itertools.product(*axes)
    ]  # fmt: skip


def _values(axis: str) -> list[tuple[str, Any]]:
    field, _, text = axis.partition("=")
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not field.strip() or not isinstance(values, list) or not values:
        raise BadConfig(
            f"`grid`: `{shown(axis)}` is not a field with a list of values.",
            hint="For example `pretrain.optimizer.matrix_lr=[0.02, 0.05]`.",
        )
    return [(field.strip(), value) for value in values]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _depths(depths: Sequence[int]) -> list[tuple[str, list[str]]]:
    return [(f"d{depth}", [f"pretrain.model.depth={depth}"]) for depth in depths] or [("", [])]


def _budgets(flops: Sequence[float]) -> list[tuple[str, list[str]]]:
    found = [
        (f"{each:.3g} FLOPs", [f'pretrain.horizon={{"unit": "flops", "amount": {json.dumps(each)}}}']) for each in flops
    ]
    return found or [("", [])]


def _seed(seed: int, experiment: ExperimentConfig) -> list[str]:
    also = [f"sft.seed={seed}"] if experiment.metric in CHAT_METRICS else []
    return [f"pretrain.seed={seed}", *also]


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadConfig(
            f"Two runs of the experiment have the name `{shown(twice)}`.", hint="Give each recipe another one."
        )
