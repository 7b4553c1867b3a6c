"""The report of a pipeline run."""

from pathlib import Path
from typing import Annotated

from nanochat.config.base import AbsentMeans
from nanochat.config.pipeline import ComparedModelConfig, ReportConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.report.inputs import ComparedModel, Prices, ReportInputs
from nanochat.report.report import render
from nanochat.store.artifacts import (
    Artifact,
    ArtifactStore,
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


@stage(version=7, produces=Report, resource="cpu")
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
    dpo: Annotated[list[Model], AbsentMeans(())],
    dpo_evaluation: Annotated[list[Evaluation], AbsentMeans(())],
    rl: Annotated[list[Model], AbsentMeans(())],
    rl_evaluation: Annotated[list[Evaluation], AbsentMeans(())],
    *,
    out: Path,
    context: Context,
) -> Metrics:
    """Write what was made, how good it is, what it cost and what went wrong, as Markdown and as an HTML page."""
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
            **({"dpo": list(dpo), "evaluate_chat dpo": list(dpo_evaluation)} if dpo else {}),
            **({"rl": list(rl), "evaluate_chat rl": list(rl_evaluation)} if rl else {}),
        },
        compared=[_compared(each, base.store) for each in config.compared],
        prices=Prices(config.price_per_hour, config.data_price_per_hour, config.currency),
    )
    markdown, page = render(inputs)
    (out / "report.md").write_text(markdown, encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")
    return {"title": config.title}


def _compared(model: ComparedModelConfig, store: ArtifactStore) -> ComparedModel:
    """The evaluations that the store still has. They are no inputs, so that a report keeps no earlier model alive."""
    found: dict[str, Artifact] = {}
    gone: list[str] = []
    for name in model.evaluations:
        stage_name, _, key = name.partition("/")
        if (manifest := store.find(stage_name, key)) is None:
            gone.append(f"{stage_name} {key[:8]}")
        else:
            found[stage_name] = store.artifact(manifest, reused=True)
    missing = f"The store no longer has {', '.join(gone)} of {model.name}." if gone else model.missing
    return ComparedModel(model.name, found, missing)
