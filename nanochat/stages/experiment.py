"""The summary of an experiment: a table of its runs, the verdict, and the page."""

import json
from pathlib import Path

from nanochat.config.experiment import ChildRecord, Metric, SummaryConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.experiments.analysis import Run, analyze
from nanochat.experiments.verdict import verdict
from nanochat.report.experiment import as_json, render_experiment
from nanochat.store.artifacts import Evaluation, Model, Report


@stage(version=1, produces=Report, resource="cpu")
def summarize_experiment(
    config: SummaryConfig, models: list[Model], evaluations: list[Evaluation], *, out: Path, context: Context
) -> Metrics:
    """Compare the runs of an experiment: noise between seeds, differences, scaling laws, and a verdict in words."""
    ended = iter(zip(models, evaluations, strict=True))
    runs = [run(child) if child.problem else run(child, *next(ended)) for child in config.children]
    analysis = analyze(runs, config.metric, config.confidence)
    sentences = verdict(analysis)
    markdown, page = render_experiment(config.title, analysis, sentences)
    (out / "report.md").write_text(markdown, encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")
    content = json.dumps(as_json(analysis, sentences), indent=1, ensure_ascii=False)
    (out / "experiment.json").write_text(content, encoding="utf-8")
    values = [each.measures[config.metric] for each in analysis.compared]
    return {
        "title": config.title, "verdict": " ".join(sentences), "runs": len(runs),
        "runs_without_result": sum(bool(each.problem) for each in analysis.runs),
        **({f"mean_{config.metric}": sum(values) / len(values)} if values else {}),
    }  # fmt: skip


def run(child: ChildRecord, model: Model | None = None, evaluation: Evaluation | None = None) -> Run:
    """One run, with what its artifacts hold."""
    if model is None or evaluation is None:
        return Run(child.name, child.recipe, child.rung, child.seed, child.measured_on, child.problem)
    trained = model.metrics
    return Run(
        child.name, child.recipe, child.rung, child.seed, _measured_on(child, model, evaluation), "",
        _measures(evaluation), trained["flops"], trained["parameters"], trained["train_tokens"],
        model.manifest.producer.seconds + evaluation.manifest.producer.seconds, trained["tokens_per_s"],
    )  # fmt: skip


def _measures(evaluation: Evaluation) -> dict[Metric, float]:
    """The metrics of an evaluation that can decide, by their names."""
    if evaluation.stage == "evaluate_base":
        return {"bits_per_byte": evaluation.metrics["bits_per_byte"]}
    found = json.loads((evaluation.path / "evaluation.json").read_text(encoding="utf-8"))
    bits = [task["gold_bits"] for task in found["tasks"].values() if task.get("gold_bits") is not None]
    mean_bits = sum(bits) / len(bits) if bits else None
    values: dict[Metric, float | None] = (
        {"core": evaluation.metrics.get("core"), "core_gold_bits": mean_bits}
        if evaluation.stage == "evaluate_core"
        else {"centered_accuracy": evaluation.metrics.get("centered_accuracy"), "chat_gold_bits": mean_bits}
    )
    return {name: value for name, value in values.items() if value is not None}


def _measured_on(child: ChildRecord, model: Model, evaluation: Evaluation) -> str:
    """What the evaluation has covered; where its limit on tokens cut the text off, also in which tokens."""
    limit, measured = evaluation.manifest.config.get("evaluation_tokens"), evaluation.metrics.get("validation_tokens")
    if limit is None or measured is None or measured + model.metrics["sequence_len"] <= limit:
        return child.measured_on
    return f"{child.measured_on}/{child.measured_until}"
