"""The graph of a ladder: base models of several depths on the same text, and their comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config.data import ShardConfig
from nanochat.config.evaluation import CoreBundleConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.training import PretrainConfig
from nanochat.errors import BadConfig
from nanochat.execution.stage import Node
from nanochat.graphs.pipeline import Text, core_while_training, prepare_text
from nanochat.stages.compare import compare
from nanochat.stages.core import core_bundle
from nanochat.stages.evaluate import evaluate_base
from nanochat.stages.pretrain import pretrain
from nanochat.store.artifacts import Evaluation, Model, Report


@dataclass(frozen=True)
class Ladder:
    """Base models of several depths, their evaluations, and the comparison."""

    text: Text
    bases: list[Node[Model]]
    evaluations: list[Node[Evaluation]]
    comparison: Node[Report]


def ladder(
    config: PipelineConfig, depths: Sequence[int], shards: Sequence[ShardConfig], bundle: CoreBundleConfig | None = None
) -> Ladder:
    """The same text and settings at several depths; the `bundle` is for CORE while training.

    Raises `BadConfig` for fewer than two depths, or equal ones.
    """
    if len(set(depths)) < 2 or len(set(depths)) < len(depths):
        raise BadConfig(f"A ladder takes two or more different depths, got {list(depths)}.")
    text = prepare_text(config, shards)
    tasks = core_while_training(config.pretrain, None if bundle is None else core_bundle(bundle))
    bases = [
        pretrain(_with_depth(config, depth), item=f"d{depth}", vocabulary=text.vocabulary, rows=text.rows, bundle=tasks)
        for depth in depths
    ]
    evaluations = [
        evaluate_base(config.base_evaluation, item=f"d{depth}", model=base, rows=text.rows)
        for depth, base in zip(depths, bases, strict=True)
    ]
    return Ladder(text, bases, evaluations, compare(config.report, bases=bases, evaluations=evaluations))


def _with_depth(config: PipelineConfig, depth: int) -> PretrainConfig:
    model = config.pretrain.model.model_copy(update={"depth": depth})
    return PretrainConfig.model_validate({**config.pretrain.model_dump(), "model": model.model_dump()})
