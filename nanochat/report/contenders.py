"""Models beside each other: what differs in how they were made, their curves, their texts, what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nanochat.console import duration, number
from nanochat.errors import NanochatError
from nanochat.lineage.differences import key_differences, other_differences
from nanochat.report.document import Block, Figure, Heading, Points, Sample, Samples, Table, Text
from nanochat.report.figures import Series, amount, curves
from nanochat.report.quality import bits_verdict
from nanochat.store.artifacts import Artifact, ArtifactStore
from nanochat.store.manifest import Manifest

BASE_STAGES = ("pretrain", "continue_pretrain")
FOREIGN_STAGE = "foreign_model"
MOST_DIFFERENCES = 40
MOST_SAMPLES = 12
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Contender:
    """A model in a comparison."""

    name: str
    model: Artifact | None
    """None: it is no longer in the store."""
    evaluations: Mapping[str, Artifact] = field(default_factory=dict)
    """Stage → evaluation."""

    @cached_property
    def chain(self) -> dict[str, Manifest]:
        """Stage → the model and those that it was made from, the base model first; without those that are gone."""
        found: list[Manifest] = []
        made = self.model.manifest if self.model else None
        while made is not None and self.model is not None:
            found.append(made)
            base = made.inputs.get("base", [])
            made = self.model.store.read(*base[0].name) if base and made.stage not in BASE_STAGES else None
        return {("base" if each.stage in BASE_STAGES else each.stage): each for each in reversed(found)}


# --- how they were made -----------------------------------------------------------------------------------------------


def differences(contenders: Sequence[Contender]) -> list[Block]:
    """What differs from the first model: settings and inputs, back to where it began; then code, machine, packages."""
    first, *others = contenders
    blocks: list[Block] = []
    for other in others:
        sentences = _differences(first, other)
        blocks += [Heading(f"{other.name} against {first.name}"), Points(sentences[:MOST_DIFFERENCES])]
        if len(sentences) > MOST_DIFFERENCES:
            blocks.append(Text(f"And {len(sentences) - MOST_DIFFERENCES} more: `nanochat diff` lists them.", "dim"))
    return blocks


def _differences(first: Contender, other: Contender) -> list[str]:
    for each in (first, other):
        if each.model is None:
            return [f"The model {each.name} is no longer in the store, so its settings are unknown."]
        if each.model.stage == FOREIGN_STAGE:
            return [f"{each.name} is a model of Hugging Face, so how it was trained is unknown."]
    shared = [stage for stage in first.chain if stage in other.chain]
    if not shared:
        return ["They have no stage in common."]
    found: list[str] = []
    if list(first.chain) != list(other.chain):
        steps = [" → ".join(made.stage for made in each.chain.values()) for each in (first, other)]
        found.append(f"{first.name} was made by {steps[0]}, {other.name} by {steps[1]}.")
    before, after = first.chain[shared[-1]], other.chain[shared[-1]]
    if before.key == after.key:
        return [*found, f"They have the same model of {before.stage} ({before.key[:8]})."]
    assert first.model is not None
    found += [str(each) for each in key_differences(first.model.store, before, after)]
    rest = [str(each) for each in other_differences(before, after) if each.what != "metric"]
    return [*found, *rest] or ["Nothing differs."]


# --- how they learned -------------------------------------------------------------------------------------------------


def learning(contenders: Sequence[Contender]) -> list[Block]:
    """Held-out score, or else the loss, over steps, tokens, FLOPs and seconds of pretraining and fine-tuning."""
    blocks: list[Block] = []
    for stage, title, held_out in (
        ("base", "Pretraining", "validation_bits_per_byte"),
        ("sft", "Fine-tuning", "validation_loss"),
    ):
        trained = {each.name: each.chain[stage] for each in contenders if stage in each.chain}
        if not trained:
            continue
        blocks.append(Heading(title))
        if len({made.key for made in trained.values()}) == 1 and len(trained) > 1:
            blocks.append(Text(f"The same model: {', '.join(trained)}."))
            trained = dict(list(trained.items())[:1])
        store = next(each.model.store for each in contenders if each.model is not None)
        events = {name: _events(store, made) for name, made in trained.items()}
        blocks.append(_training_table(trained, events, held_out))
        blocks += _figures(trained, events, held_out)
    return blocks


def _events(store: ArtifactStore, made: Manifest) -> list[dict[str, Any]]:
    try:
        text = store.payloads.read_file(made, "metrics.jsonl").decode()
        return [event for line in text.splitlines() if "smoothed_loss" in (event := json.loads(line or "{}"))]
    except (NanochatError, OSError, ValueError):  # its payload is gone: the rest is shown
        return []


def _at(event: Mapping[str, Any], made: Manifest, x: str) -> float | None:
    """The steps, tokens, FLOPs or seconds of training up to an event."""
    match x:
        case "step":
            return event["done"]
        case "FLOPs":
            flops, steps = made.metrics.get("flops"), made.metrics.get("steps")
            return flops * event["done"] / steps if flops and steps else None
        case "seconds of training":
            return event.get("seconds")
        case _:
            return event.get("tokens")


def _figures(
    trained: Mapping[str, Manifest], events: Mapping[str, Sequence[Mapping[str, Any]]], held_out: str
) -> list[Block]:
    blocks: list[Block] = []
    evaluated = [sum(held_out in event for event in found) for found in events.values()]
    measured, y_name = (
        (held_out, held_out.replace("_", " "))
        if min(evaluated, default=0) > 1
        else ("smoothed_loss", "training loss (nats per token)")
    )
    for x in ("step", "tokens", "FLOPs", "seconds of training"):
        series: list[Series] = []
        for name, found in events.items():
            points = [
                (at, event[measured]) for event in found if measured in event and (at := _at(event, trained[name], x))
            ]
            series.append(Series(name, points, dots=len(points) < 40))
        drawn = [each for each in series if each.points]
        if drawn:
            ends = ", ".join(f"{each.name} {each.points[-1][1]:.4f} at {amount(each.points[-1][0])}" for each in drawn)
            blocks.append(Figure(curves(drawn, x, y_name), f"{y_name.capitalize()} over {x}: {ends}."))
    return blocks


def _training_table(
    trained: Mapping[str, Manifest], events: Mapping[str, Sequence[Mapping[str, Any]]], held_out: str
) -> Table:
    names = ("steps", "train_tokens", "flops", "parameters", "tokens_per_s", "final_loss", held_out)
    heads = ["model", *(name.replace("_", " ") for name in names), "time of training"]
    rows = [
        [name, *(number(made.metrics[each]) if made.metrics.get(each) is not None else "" for each in names),
         duration(made.metrics.get("training_s", made.producer.seconds))]
        for name, made in trained.items()
    ]  # fmt: skip
    return Table(heads, rows, heads[1:])


# --- what they write --------------------------------------------------------------------------------------------------


def samples(contenders: Sequence[Contender]) -> list[Block]:
    """The same prompts, continued or answered by each model."""
    texts: dict[tuple[str, str, str], list[Sample]] = {}
    for each in contenders:
        for stage, names in (("evaluate_base", ("samples", "text")), ("evaluate_chat", ("examples", "answer"))):
            for found in _report(each.evaluations.get(stage)).get(names[0], []):
                sample = Sample("", found[names[1]], each.name, found.get("right"), found.get("expected", ""))
                texts.setdefault((stage, found.get("task", ""), found["prompt"]), []).append(sample)
    shared = {prompt: found for prompt, found in texts.items() if len({each.label for each in found}) > 1}
    blocks: list[Block] = []
    for (_, _, prompt), found in list(shared.items())[:MOST_SAMPLES]:
        blocks += [Text(prompt or "(from nothing)", "strong"), Samples(found)]
    return blocks


# --- scores and cost --------------------------------------------------------------------------------------------------


def scores(contenders: Sequence[Contender]) -> list[Block]:
    """Every score of the evaluations, with its interval where there is one."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for each in contenders:
        for stage, evaluation in each.evaluations.items():
            report = _report(evaluation)
            for name, value in evaluation.metrics.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    interval = report.get(f"{name}_interval")
                    ends = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
                    rows.setdefault((stage, name), {})[each.name] = f"{number(value)}{ends}"
    heads = ["score", "evaluation", *(each.name for each in contenders)]
    table = [
        [name.replace("_", " "), stage.replace("_", " "), *(found.get(each.name, "") for each in contenders)]
        for (stage, name), found in rows.items()
    ]
    return [Table(heads, table, heads[2:])] if table else []


def bits_verdicts(contenders: Sequence[Contender]) -> list[str]:
    """Bits per byte of the others against those of the first model."""
    first, *others = contenders
    pairs = [(first.evaluations.get("evaluate_base"), each.evaluations.get("evaluate_base"), each) for each in others]
    return [bits_verdict(mine, before, each.name, first.name) for before, mine, each in pairs if before and mine]


def cost(contenders: Sequence[Contender]) -> list[Block]:
    """Time and energy of the stages of training of each model."""
    rows: list[list[str]] = []
    for each in contenders:
        chain = list(each.chain.values())
        if not chain or chain[0].stage == FOREIGN_STAGE:
            rows.append([each.name, "unknown", "", ""])
            continue
        joules = [made.producer.energy_j for made in chain if made.producer.energy_j is not None]
        stages = ", ".join(f"{made.stage} {duration(made.producer.seconds)}" for made in chain)
        energy = f"{sum(joules) / JOULES_PER_KWH:.3g} kWh" if joules else ""
        rows.append([each.name, duration(sum(made.producer.seconds for made in chain)), stages, energy])
    return [
        Table(["model", "time of training stages", "stages", "energy of the GPUs"], rows, ("time of training stages",))
    ]


def _report(evaluation: Artifact | None) -> Mapping[str, Any]:
    if evaluation is None:
        return {}
    try:
        return json.loads(evaluation.store.payloads.read_file(evaluation.manifest, "evaluation.json"))
    except (NanochatError, OSError, ValueError):  # its payload is gone: the rest is shown
        return {}
