"""What a graph would cost before it runs, from the speed of earlier runs in the store."""

import math
import socket
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanochat.config.pipeline import ReportConfig
from nanochat.console import duration
from nanochat.execution.graph import AnyNode
from nanochat.execution.plan import Planned
from nanochat.scaling import Hyperparameters
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store

NEWEST = 50
"""Runs of a stage that are looked at."""


@dataclass(frozen=True)
class StageCost:
    """The nodes of one stage."""

    stage: str
    resource: str
    cached: int
    to_run: int
    flops: float
    """Of pretraining; 0 for other stages."""
    seconds: float | None
    """One after the other; None if this store has no run of the stage."""


def stage_costs(
    planned: Sequence[Planned], trainings: Mapping[AnyNode, Hyperparameters], store: Store
) -> list[StageCost]:
    """The cost of each stage, in the order in which they run. `trainings` are the nodes of pretraining."""
    by_stage: dict[str, list[Planned]] = {}
    for entry in planned:
        by_stage.setdefault(entry.node.stage.name, []).append(entry)
    found: list[StageCost] = []
    for stage, entries in by_stage.items():
        missing = [entry.node for entry in entries if entry.artifact is None]
        known = [trainings[node] for node in missing if node in trainings]
        seconds = _seconds(stage, missing, trainings, store) if missing else 0.0
        found.append(
            StageCost(
                stage,
                entries[0].node.stage.resource,
                len(entries) - len(missing),
                len(missing),
                math.fsum(each.flops for each in known),
                seconds,
            )
        )
    return found


def total(costs: Sequence[StageCost], prices: ReportConfig) -> str:
    """One sentence: the time of all nodes that would run, and its price if the config has one."""
    known = math.fsum(cost.seconds for cost in costs if cost.seconds is not None)
    unknown = [cost.stage for cost in costs if cost.seconds is None]
    if not any(cost.to_run for cost in costs):
        return "Everything is in the store."
    flops = math.fsum(cost.flops for cost in costs)
    parts = [f"{flops:.3g} training FLOPs"] if flops else []
    if len(unknown) < sum(bool(cost.to_run) for cost in costs):
        parts.append(f"about {duration(known)} one after the other, from measured speed{_price(costs, prices)}")
    if unknown:
        parts.append(f"not measured in this store: {', '.join(unknown)}")
    return f"{'; '.join(parts)}."


def _price(costs: Sequence[StageCost], prices: ReportConfig) -> str:
    """`, about $1.20`; empty if no price of an hour is set."""
    hourly = {"gpu": prices.price_per_hour, "cpu": prices.data_price_per_hour}
    if not prices.price_per_hour:
        return ""
    price = math.fsum((cost.seconds or 0.0) / 3600 * hourly[cost.resource] for cost in costs)
    return f", about {prices.currency}{price:,.2f}"


def _seconds(
    stage: str, missing: Sequence[AnyNode], trainings: Mapping[AnyNode, Hyperparameters], store: Store
) -> float | None:
    made = _newest(stage, store)
    if not made:
        return None
    usual = statistics.median(each.producer.seconds for each in made)
    speeds = [each for each in made if each.metrics.get("flops") and each.metrics.get("training_s")]
    return math.fsum(
        _of_training(trainings[node], speeds) if node in trainings and speeds else usual for node in missing
    )


def _newest(stage: str, store: Store) -> list[Manifest]:
    """The newest runs of a stage: those on this machine if there are any."""
    found, _ = store.survey(stage)
    newest = sorted(found, key=lambda each: each.producer.ended, reverse=True)[:NEWEST]
    here = [each for each in newest if each.producer.host == socket.gethostname()]
    return here or newest


def _of_training(wanted: Hyperparameters, made: Sequence[Manifest]) -> float:
    """Seconds of a training: its FLOPs at the speed of the run whose tokens cost most nearly as much, and its start."""

    def distance(each: Manifest) -> float:
        per_token = each.metrics["flops"] / each.metrics["train_tokens"]
        return abs(math.log(per_token / wanted.architecture.flops_per_token))

    nearest = min(made, key=distance)
    start = max(0.0, nearest.producer.seconds - nearest.metrics["training_s"])
    return start + wanted.flops * nearest.metrics["training_s"] / nearest.metrics["flops"]
