"""The chapter "What did it cost?": time, money and energy of each stage."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.console import duration
from nanochat.report.document import Block, Facts, Figure, Table, Text
from nanochat.report.figures import Bar, Group, bars
from nanochat.report.inputs import ReportInputs
from nanochat.report.making import name_of
from nanochat.store.artifacts import Artifact

JOULES_PER_KWH = 3.6e6
PARTS = {"compute_s": "computing", "data_s": "waiting for data", "communication_s": "communication",
         "evaluation_s": "evaluation", "checkpoint_s": "checkpoints"}  # fmt: skip


def cost(inputs: ReportInputs) -> list[Block]:
    """What it takes to make everything from nothing, also what a run found in the store."""
    stages = inputs.stages
    seconds = {stage: _seconds(each) for stage, each in stages.items()}
    total = sum(seconds.values()) or 1.0
    rows: list[list[str]] = []
    groups: list[Group] = []
    for stage, each in stages.items():
        share = seconds[stage] / total
        took = f"{duration(seconds[stage])} ({share:.0%})"
        groups.append(Group(name_of(stage, each), [Bar(seconds[stage], took, 0 if on_gpus(inputs, each) else 1)]))
        rows.append([
            name_of(stage, each), "train, evaluate" if on_gpus(inputs, each) else "data",
            duration(seconds[stage]), f"{share:.0%}", _money(inputs, each), _energy(each),
        ])  # fmt: skip
    heads = ["stage", "machines", "time", "share", "price", "energy"]
    known = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    heads, rows = [heads[column] for column in known], [[row[column] for column in known] for row in rows]
    caption = (
        f"Time of the stages, {duration(sum(seconds.values()))} together. The share of training and evaluation is "
        f"{sum(seconds[stage] for stage, each in stages.items() if on_gpus(inputs, each)) / total:.0%}."
    )
    blocks: list[Block] = [
        Text(_summary(inputs)),
        Figure(bars(groups, ("training and evaluation", "data")), caption),
        Table(heads, rows, heads[2:]),
    ]
    return [*blocks, *_training(inputs)]


def money(inputs: ReportInputs) -> float | None:
    """Price of all stages; None where no price is known."""
    if not inputs.prices.gpu_stages and not inputs.prices.cpu_stages:
        return None
    return sum(_price(inputs, each) for each in inputs.stages.values())


def energy_j(artifacts: Sequence[Artifact]) -> float | None:
    """Energy of the GPUs, where their driver counts it."""
    known = [a.manifest.producer.energy_j for a in artifacts if a.manifest.producer.energy_j is not None]
    return sum(known) if known else None


def on_gpus(inputs: ReportInputs, artifacts: Sequence[Artifact]) -> bool:
    return artifacts[0].stage in inputs.gpu_stages


def _summary(inputs: ReportInputs) -> str:
    stages = inputs.stages.values()
    training = sum(_seconds(each) for each in stages if on_gpus(inputs, each))
    everything = sum(_seconds(each) for each in stages)
    parts = [f"All stages took {duration(everything)}, of them {duration(training)} training and evaluation."]
    price, joules = money(inputs), energy_j([artifact for each in stages for artifact in each])
    if price is None:
        parts.append("No price of an hour is set (`report.price_per_hour`).")
    else:
        parts.append(
            f"That is {inputs.prices.text(price)}, at {inputs.prices.text(inputs.prices.gpu_stages)} an hour for "
            f"training and evaluation and {inputs.prices.text(inputs.prices.cpu_stages)} for the rest."
        )
    if joules is None:
        parts.append("No driver counted the energy.")
    else:
        parts.append(f"The GPUs of the first machine used {_kwh(joules)} in the last attempt of each stage.")
    return " ".join(parts)


def _seconds(artifacts: Sequence[Artifact]) -> float:
    return sum(artifact.manifest.producer.seconds for artifact in artifacts)


def _price(inputs: ReportInputs, artifacts: Sequence[Artifact]) -> float:
    hourly = inputs.prices.gpu_stages if on_gpus(inputs, artifacts) else inputs.prices.cpu_stages
    return hourly * _seconds(artifacts) / 3600


def _money(inputs: ReportInputs, artifacts: Sequence[Artifact]) -> str:
    return "" if money(inputs) is None else inputs.prices.text(_price(inputs, artifacts))


def _energy(artifacts: Sequence[Artifact]) -> str:
    joules = energy_j(artifacts)
    return "" if joules is None else _kwh(joules)


def _kwh(joules: float) -> str:
    return f"{joules / JOULES_PER_KWH:.3g} kWh"


def _training(inputs: ReportInputs) -> list[Block]:
    """Speed of training, and where its time went."""
    facts: list[tuple[str, str]] = []
    for name, model in (("pretraining", inputs.base), ("fine-tuning", inputs.one("sft"))):
        numbers = model.metrics
        speed = [f"{numbers['tokens_per_s']:,.0f} tokens per second"] if "tokens_per_s" in numbers else []
        speed += [f"{numbers['mfu']:.1%} of the GPUs' peak"] if numbers.get("mfu") else []
        speed += [f"{numbers['world_size']} ranks"] if numbers.get("world_size", 1) > 1 else []
        parts = {title: numbers[part] for part, title in PARTS.items() if numbers.get(part)}
        whole = sum(parts.values())
        speed += [f"{title} {seconds / whole:.0%}" for title, seconds in parts.items()]
        facts += [(name, ", ".join(speed))] if speed else []
    return [Facts(facts)] if facts else []
