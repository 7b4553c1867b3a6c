"""Configs of CORE, of comparisons, and of the gate of `refresh`.

CORE is the score of base models: 22 tasks (DCLM, arXiv:2406.11794), with the prompts of nanochat.
"""

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import AbsentMeans, Config

NANOCHAT_BUNDLE = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
"""The tasks that nanochat's harness reads."""


class CoreBundleConfig(Config):
    """The bundle with the tasks of CORE: `core.yaml`, `eval_meta_data.csv` and `eval_data/`."""

    source: str = ""
    """Folder, zip file, or `https://` address of a zip file. Empty: CORE is not evaluated."""
    sha256: Annotated[str, AbsentMeans("")] = ""
    """SHA-256 of the zip file; another file is refused. Empty: the run computes that of a file on this machine."""
    files: Annotated[tuple[tuple[str, str], ...], AbsentMeans(())] = ()
    """Path and SHA-256 of each file of a folder; another file is refused. Empty: the run computes them."""


class CoreConfig(Config):
    """Evaluation of a model on CORE."""

    limit: Annotated[int, Field(ge=0)] = 0
    """Questions per task, the first ones in nanochat's order, which also gives the examples in prompts; 0: all."""
    overlong: Literal["run", "crop"] = "run"
    """Prompts longer than the training rows: `run` computes them, `crop` drops their beginning, BOS included."""
    tasks: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """Only these tasks; empty: all. There is no CORE unless all 22 are evaluated."""


class ComparisonConfig(Config):
    """Comparison of evaluations, question by question."""

    title: str = "Comparison"
    """Title of the page."""
    models: tuple[str, ...] = ()
    """Name of the model of each evaluation, in their order; the others are compared with the first one."""
    names: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """Names of all models, also of those without evaluations; empty: those of `models`."""
    model_names: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """Name of each model that is still in the store, in the order of the inputs."""
    problems: Annotated[tuple[str, ...], AbsentMeans(())] = ()
    """What is missing: sentences for the page."""
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """Confidence of the intervals and verdicts."""


class GateConfig(Config):
    """The conditions on which a candidate replaces the model in use."""

    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """Confidence of the bounds."""
    least_gain: Annotated[float, Field(ge=-10, le=10)] = 0.0
    """Required gain in mean centered accuracy over the model in use. A candidate that is shown to gain less fails."""
    margin: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Doubt that is accepted: the lower bound of the gain may be this much below `least_gain`. 0: none."""
    least_score: Annotated[float, Field(ge=-10, le=10)] = 0.0
    """Required mean centered accuracy in any case."""
    per_task: bool = False
    """Whether a candidate also fails if it is shown to be worse on one task."""
