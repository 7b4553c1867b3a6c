"""The flow of an experiment: runs that share what they have in common, and their summary. A ladder is one of depths."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import RunSummary, execute, final_state
from flows.pipeline import ProfileName
from flows.request import RunRequest, parse_request, title
from nanochat.config.compute import Compute
from nanochat.config.experiment import ExperimentConfig
from nanochat.config.overrides import parse
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import BadConfig
from nanochat.execution.graph import Failures, Results
from nanochat.experiments.children import Child, children
from nanochat.graphs import resolve
from nanochat.graphs.experiment import ChildSources, Experiment, Summary, experiment, records, summary


def experiment_name() -> str:
    """`experiment Higher rate`."""
    given = (flow_run.parameters or {}).get("experiment")
    named = given.title if isinstance(given, ExperimentConfig) else (given or {}).get("title", "")
    return f"experiment {named}".strip()


@flow(name="experiment", flow_run_name=experiment_name, persist_result=False, validate_parameters=False)
def experiment_flow(
    experiment: ExperimentConfig,
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Runs that differ in some fields and share the rest, and their comparison, with a verdict in words.

    Args:
        experiment: What varies, and which metric decides.
        profile: A named, complete config.
        config: Changed fields replace those of the profile, in all runs.
        compute: How to run; changed fields replace those of the profile.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for training and evaluation; empty: this process.
    """

    def work() -> RunSummary:
        given = experiment if isinstance(experiment, ExperimentConfig) else parse(ExperimentConfig, experiment)
        return run_experiment(parse_request(profile, config, compute, store, gpu_pool), given, "experiment/latest")

    return final_state(work)


def ladder_name() -> str:
    """`ladder d2, d4, d6 · world`."""
    depths = (flow_run.parameters or {}).get("depths", [])
    return f"ladder {', '.join(f'd{depth}' for depth in depths)} · {title().rpartition(' · ')[2]}"


@flow(name="ladder", flow_run_name=ladder_name, persist_result=False, validate_parameters=False)
def ladder_flow(
    depths: list[int],
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Base models of several depths on the same text: an experiment without other changes.

    Args:
        depths: Two or more, for example 2, 4 and 6.
        profile: A named, complete config; its depth is not used.
        config: Changed fields replace those of the profile.
        compute: How to run; changed fields replace those of the profile.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for training and evaluation; empty: this process.
    """

    def work() -> RunSummary:
        request = parse_request(profile, config, compute, store, gpu_pool)
        if len(set(depths)) < 2 or len(set(depths)) < len(depths):
            raise BadConfig(f"A ladder takes two or more different depths, got {list(depths)}.")
        given = parse(ExperimentConfig, {"title": request.config.report.title, "depths": depths})
        return run_experiment(request, given, "ladder/latest")

    return final_state(work)


def run_experiment(request: RunRequest, given: ExperimentConfig, alias: str) -> RunSummary:
    """Runs the children and the summary; the alias then leads to the summary."""
    planned: list[Child] = children(given, request.config)
    sources: list[ChildSources] = []
    last: list[Summary] = []

    def build() -> Experiment:
        sources.extend(resolve.experiment(request.store, planned, given.metric))
        return experiment(planned, sources, given.metric)

    def follow(graph: Experiment, results: Results, failures: Failures) -> Summary:
        found = records(planned, sources, given.metric, graph, failures)
        if all(child.problem for child in found):
            raise next(iter(failures.values()))
        last.append(summary(given, found, graph, results))
        return last[0]

    def finish(_: Experiment, results: Results) -> RunSummary:
        made = results[last[0].summary]
        request.store.set_alias(alias, made.manifest)
        return RunSummary(made.metrics["verdict"])

    return execute(request, build, finish, follow)
