"""CORE: the bundle with its tasks, and the evaluation of a model on them."""

from pathlib import Path

from nanochat.config.evaluation import CoreBundleConfig, CoreConfig
from nanochat.evaluation.core.source import write_bundle
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import AnyModel, CoreBundle, Evaluation
from nanochat.workers.launch import launch


@stage(version=1, produces=CoreBundle, resource="cpu")
def core_bundle(config: CoreBundleConfig, *, out: Path, context: Context) -> Metrics:
    """Fetch the tasks of CORE, and check every row."""
    return write_bundle(config, out, context.folder, context.progress)


@stage(version=1, produces=Evaluation, resource="gpu")
def evaluate_core(config: CoreConfig, model: AnyModel, bundle: CoreBundle, *, out: Path, context: Context) -> Metrics:
    """Evaluate a model on CORE: choices by likelihood, and greedy continuations."""
    inputs: dict[str, Path | list[Path]] = {"model": model.path, "bundle": bundle.path}
    return launch("nanochat.evaluation.core.worker", config, inputs, out, context)
