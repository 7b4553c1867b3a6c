"""The base model: pretraining under torchrun."""

from pathlib import Path
from typing import Annotated

from nanochat.config.base import AbsentMeans
from nanochat.config.compute import Compute
from nanochat.config.training import PretrainConfig
from nanochat.data.row_index import write_index
from nanochat.errors import BadConfig, BadSource
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.scaling import derive_hyperparameters
from nanochat.store.artifacts import CoreBundle, Model, Rows, Vocabulary
from nanochat.workers.launch import launch, rank_count


@stage(version=2, produces=Model, resource="gpu")
def pretrain(
    config: PretrainConfig, vocabulary: Vocabulary, rows: list[Rows],
    bundle: Annotated[list[CoreBundle], AbsentMeans(())], *, out: Path, context: Context,
) -> Metrics:  # fmt: skip
    """Train the base model: next-token prediction on the packed rows."""
    check(config, vocabulary, rows, bundle, context.compute)
    inputs: dict[str, Path | list[Path]] = {
        "vocabulary": vocabulary.path, "rows": write_index(rows, context.folder),
        "bundle": [each.path for each in bundle],
    }  # fmt: skip
    return launch("nanochat.training.pretrain", config, inputs, out, context)


@stage(version=2, produces=Model, resource="gpu")
def continue_pretrain(
    config: PretrainConfig, base: Model, vocabulary: Vocabulary, rows: list[Rows],
    bundle: Annotated[list[CoreBundle], AbsentMeans(())], *, out: Path, context: Context,
) -> Metrics:  # fmt: skip
    """Continue pretraining a base model on new text, with a fresh optimizer."""
    before = base.manifest.config.get("model", {})
    for name, wanted in config.model.canonical().items():
        if before.get(name) != wanted:
            raise BadConfig(f"`pretrain.model.{name}` is {wanted}, but the base model has {before.get(name)}.")
    (trained,) = base.manifest.inputs["vocabulary"]
    if trained.digest != vocabulary.digest:
        raise BadSource("The new text and the base model have different vocabularies.")
    check(config, vocabulary, rows, bundle, context.compute)
    inputs: dict[str, Path | list[Path]] = {
        "base": base.path, "vocabulary": vocabulary.path, "rows": write_index(rows, context.folder),
        "bundle": [each.path for each in bundle],
    }  # fmt: skip
    return launch("nanochat.training.pretrain", config, inputs, out, context)


def check(
    config: PretrainConfig, vocabulary: Vocabulary, rows: list[Rows], bundle: list[CoreBundle], compute: Compute
) -> None:
    """Raises `BadConfig` when batch, horizon, heads and ranks do not fit together. Loads no payload.

    `bundle` is the tasks of CORE, or empty without CORE while training.
    """
    if len(bundle) != bool(config.core_every_steps):
        raise BadConfig(
            f"`pretrain.core_every_steps` is {config.core_every_steps}, but training got {len(bundle)} bundles of CORE."
        )
    derived = derive_hyperparameters(config, vocabulary.metrics["vocab_size"], rows[0].metrics["sequence_len"])
    ranks = rank_count(compute) * compute.parallelism.nodes
    if ranks > derived.batch_rows:
        raise BadConfig(
            f"A batch of {derived.batch_rows} rows (`batch_tokens` = {derived.batch_tokens:,}) cannot be divided "
            f"among {ranks} ranks.",
            hint="Use fewer ranks (`compute.parallelism.ranks`) or larger batches (`pretrain.batch_tokens`).",
        )
