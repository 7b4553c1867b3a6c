"""Evaluation of the base model and of the chat model."""

from pathlib import Path

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.config.training import BaseEvaluationConfig
from nanochat.data.row_index import write_index
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import AnyModel, Conversations, Evaluation, Model, Rows
from nanochat.workers.launch import launch


@stage(version=1, produces=Evaluation, resource="gpu")
def evaluate_base(
    config: BaseEvaluationConfig, model: Model, rows: list[Rows], *, out: Path, context: Context
) -> Metrics:
    """Evaluate the base model: bits per byte on held-out text, and samples."""
    inputs: dict[str, Path | list[Path]] = {"model": model.path, "rows": write_index(rows, context.folder)}
    return launch("nanochat.evaluation.base_model", config, inputs, out, context)


@stage(version=2, produces=Evaluation, resource="gpu")
def evaluate_chat(
    config: ChatEvaluationConfig, model: AnyModel, conversations: Conversations, *, out: Path, context: Context
) -> Metrics:
    """Evaluate the chat model on held-out questions: by likelihood of the choices, or by generating the answer."""
    inputs: dict[str, Path | list[Path]] = {"model": model.path, "conversations": conversations.path}
    return launch("nanochat.evaluation.chat_model", config, inputs, out, context)
