"""The report of a pipeline run."""

from pathlib import Path
from typing import Annotated

from nanochat.config.base import AbsentMeans
from nanochat.config.pipeline import ReportConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.report.report import ReportInputs, render
from nanochat.store.artifacts import (
    Conversations,
    DataCard,
    Evaluation,
    Model,
    RawShard,
    Report,
    Rows,
    TokenShard,
    Vocabulary,
)


@stage(version=6, produces=Report, resource="cpu")
def report(
    config: ReportConfig,
    raw: list[RawShard],
    vocabulary: Vocabulary,
    tokens: list[TokenShard],
    rows: list[Rows],
    data_card: DataCard,
    base: Model,
    base_evaluation: Evaluation,
    conversations: Conversations,
    chat: Model,
    chat_evaluation: Evaluation,
    core: Annotated[list[Evaluation], AbsentMeans(())],
    rl: Annotated[list[Model], AbsentMeans(())],
    rl_evaluation: Annotated[list[Evaluation], AbsentMeans(())],
    *,
    out: Path,
    context: Context,
) -> Metrics:
    """Write metrics, curves, samples, lineage and times, as Markdown and as an HTML page."""
    inputs = ReportInputs(
        config.title,
        {
            "download": list(raw),
            "train_tokenizer": [vocabulary],
            "tokenize": list(tokens),
            "pack": list(rows),
            "data_card": [data_card],
            base.stage: [base],
            "evaluate_base": [base_evaluation],
            **({"evaluate_core": list(core)} if core else {}),
            "converse": [conversations],
            "sft": [chat],
            "evaluate_chat": [chat_evaluation],
            **({"rl": list(rl), "evaluate_chat rl": list(rl_evaluation)} if rl else {}),
        },
    )
    markdown, page = render(inputs)
    (out / "report.md").write_text(markdown, encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")
    return {"title": config.title}
