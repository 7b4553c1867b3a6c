"""Held-out questions for models that were trained elsewhere, and so have no conversations here."""

from pathlib import Path

from nanochat.config.chat import QuestionsConfig
from nanochat.data.mixture import write_questions
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import Conversations


@stage(version=1, produces=Conversations, resource="cpu")
def questions(config: QuestionsConfig, *, out: Path, context: Context) -> Metrics:
    """Collect the held-out questions of the tasks."""
    return write_questions(config.questions, config.seed, out / "questions.jsonl")
