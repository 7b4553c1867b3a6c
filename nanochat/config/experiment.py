"""Configs of experiments: what varies between the runs, which metric decides, and what their summary is made from."""

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import Config, Seed

Metric = Literal["bits_per_byte", "core", "core_gold_bits", "centered_accuracy", "chat_gold_bits"]


class Recipe(Config):
    """One of the settings that are compared."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    """Name in tables."""
    changes: tuple[str, ...] = ()
    """Changed fields: `pretrain.optimizer.matrix_lr=0.05`."""


class ExperimentConfig(Config):
    """Runs that differ in some fields: each combination of recipe, grid, depth, FLOPs and seed."""

    title: Annotated[str, Field(min_length=1)] = "Experiment"
    """Title of the page."""
    changes: tuple[str, ...] = ()
    """Changed fields of all runs: `pretrain.horizon.amount=1e6`."""
    recipes: tuple[Recipe, ...] = ()
    """What is compared; the others are compared with the first one. Empty: one recipe without changes."""
    grid: tuple[str, ...] = ()
    """Fields with several values, as a JSON list: `pretrain.optimizer.matrix_lr=[0.02, 0.05]`. Each combination is a
    recipe."""
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = ()
    """A ladder: every recipe at each of these depths. Empty: the depth of the config."""
    flops: tuple[Annotated[float, Field(gt=0, le=1e30)], ...] = ()
    """Training FLOPs: every depth at each of these budgets. Empty: the horizon of the config."""
    seeds: tuple[Seed, ...] = ()
    """Seeds of training; two or more show its noise. Empty: the seed of the config."""
    metric: Metric = "bits_per_byte"
    """What decides: bits per byte of held-out text, CORE, the bits of the right answers of CORE, the mean centered
    accuracy of the chat model, or the bits of its right answers. The last two train chat models."""
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """Confidence of the intervals and verdicts."""


class ExperimentFile(ExperimentConfig):
    """An experiment in a file, with the profile that it starts from."""

    base: Annotated[str, Field(min_length=1)] = "demo"
    """Name of a profile, or its file."""


class ChildRecord(Config):
    """One run of an experiment, as its summary receives it."""

    name: str
    """Unique in the experiment."""
    recipe: str = ""
    """Name of its recipe; empty if there is one only."""
    rung: str = ""
    """Depth and FLOPs; empty if there is no ladder."""
    seed: Seed = 42
    """Seed of training."""
    measured_on: str = ""
    """Hash of the text or questions and of the rules of its evaluation: values of another hash are not compared."""
    measured_until: str = ""
    """Hash of what decides, beside `measured_on`, how much of the text the limit on tokens leaves."""
    problem: str = ""
    """Why the run has no result, in one sentence; empty if it has one."""


class SummaryConfig(Config):
    """The summary of an experiment."""

    title: str = "Experiment"
    """Title of the page."""
    metric: Metric = "bits_per_byte"
    """What decides."""
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """Confidence of the intervals and verdicts."""
    children: tuple[ChildRecord, ...] = ()
    """The runs; those without a problem have a model and an evaluation, in this order."""
