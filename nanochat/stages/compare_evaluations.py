"""Compares models, question by question, and decides whether a candidate replaces the model in use."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from nanochat.config.base import AbsentMeans
from nanochat.config.evaluation import ComparisonConfig, GateConfig
from nanochat.errors import NotComparable
from nanochat.evaluation.gate import Decision, decide, decide_by_score
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.lineage.evaluations import score_of
from nanochat.report.answers import answers_of, has_answers
from nanochat.report.comparison import sections
from nanochat.report.comparison_page import compared_sections, comparison_document, gate_document, verdicts
from nanochat.report.contenders import Contender
from nanochat.store.artifacts import AnyModel, Evaluation, Report


@stage(version=2, produces=Report, resource="cpu")
def compare_evaluations(
    config: ComparisonConfig, evaluations: list[Evaluation], models: Annotated[list[AnyModel], AbsentMeans(())],
    *, out: Path, context: Context,
) -> Metrics:  # fmt: skip
    """Compare models with the first one: answers to the same questions, settings, curves, texts, cost."""
    contenders = _contenders(config, evaluations, models)
    found = compared_sections(contenders, config.confidence)
    page = comparison_document(config.title, contenders, found, config.problems, config.confidence)
    markdown, html = page.render()
    (out / "report.md").write_text(markdown, encoding="utf-8")
    (out / "report.html").write_text(html, encoding="utf-8")
    compared = [comparison for section in found for comparison in section.comparisons]
    content = json.dumps([asdict(each) for each in compared], indent=1, ensure_ascii=False)
    (out / "comparison.json").write_text(content, encoding="utf-8")
    return {"title": config.title, "verdict": " ".join(verdicts(contenders, found, config.problems))}


@stage(version=1, produces=Report, resource="cpu")
def gate(
    config: GateConfig, candidate: Evaluation, in_use: list[Evaluation], *, out: Path, context: Context
) -> Metrics:
    """Decide whether a candidate replaces the model in use; without one, only its score counts."""
    decision = _decision(config, candidate, in_use)
    (out / "decision.json").write_text(json.dumps(asdict(decision), indent=1), encoding="utf-8")
    title = f"The candidate {'passes' if decision.passes else 'is held back'}"
    text = f"{decision.reason[0].upper()}{decision.reason[1:]}. {decision.needed}"
    models = [answers_of(*named) for named in _named(candidate, in_use) if has_answers(named[1])]
    found = sections(models, config.confidence) if len(models) == 2 else []
    markdown, html = gate_document(title, text, found, config.confidence).render()
    (out / "report.md").write_text(markdown, encoding="utf-8")
    (out / "report.html").write_text(html, encoding="utf-8")
    return {name: value for name, value in asdict(decision).items() if value is not None and name != "worse_tasks"}


def _contenders(
    config: ComparisonConfig, evaluations: Sequence[Evaluation], models: Sequence[AnyModel]
) -> list[Contender]:
    """The models in the order in which they were named."""
    names = config.models or tuple(each.manifest.inputs["model"][0].key[:8] for each in evaluations)
    found = {name: Contender(name, None, {}) for name in config.names or dict.fromkeys(names)}
    for name, model in zip(config.model_names, models, strict=True):
        found[name] = Contender(name, model, {})
    for name, evaluation in zip(names, evaluations, strict=True):
        known = found.setdefault(name, Contender(name, None, {}))
        found[name] = Contender(name, known.model, {**known.evaluations, evaluation.stage: evaluation})
    return list(found.values())


def _decision(config: GateConfig, candidate: Evaluation, in_use: Sequence[Evaluation]) -> Decision:
    if not in_use:
        return decide_by_score(_score(candidate), None, config, "there is no model in use")
    if not (has_answers(candidate) and has_answers(in_use[0])):
        why = "by the bare scores, as an evaluation of an earlier version has kept no answers"
        return decide_by_score(_score(candidate), _score(in_use[0]), config, why)
    used, new = (answers_of(*named) for named in _named(candidate, in_use))
    return decide(new, used, config)


def _named(candidate: Evaluation, in_use: Sequence[Evaluation]) -> list[tuple[str, Evaluation]]:
    return [*(("the model in use", each) for each in in_use[:1]), ("the candidate", candidate)]


def _score(evaluation: Evaluation) -> float:
    found = score_of(evaluation.metrics, "centered_accuracy")
    if found is None:
        raise NotComparable(f"The evaluation {evaluation.stage}/{evaluation.key[:8]} has no mean centered accuracy.")
    return found
