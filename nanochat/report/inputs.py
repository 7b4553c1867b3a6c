"""What a report is made of: the artifacts of a run, the models it is compared with, and prices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.store.artifacts import Artifact

CORE, DPO, DPO_EVALUATION, RL, RL_EVALUATION = "evaluate_core", "dpo", "evaluate_chat dpo", "rl", "evaluate_chat rl"
BASE_STAGES = ("pretrain", "continue_pretrain")


@dataclass(frozen=True)
class Prices:
    """Prices of an hour; 0: unknown."""

    gpu_stages: float = 0.0
    """Of the machines that train and evaluate."""
    cpu_stages: float = 0.0
    """Of the machines of all other stages."""
    currency: str = "$"

    def text(self, money: float) -> str:
        """`$12.30`."""
        return f"{self.currency}{money:,.2f}"


@dataclass(frozen=True)
class ComparedModel:
    """Another model, for the chapter that compares."""

    name: str
    evaluations: Mapping[str, Artifact]
    """Stage → its evaluation of this model."""
    missing: str = ""
    """A sentence about what the store no longer has."""


@dataclass(frozen=True)
class ReportInputs:
    """The title and the artifacts of a report."""

    title: str
    stages: dict[str, list[Artifact]]
    """Stage → its artifacts, in the order of the graph; several for a stage that is mapped over shards."""
    compared: Sequence[ComparedModel] = ()
    prices: Prices = field(default_factory=Prices)
    gpu_stages: frozenset[str] = frozenset((*BASE_STAGES, "sft", "dpo", "rl", "evaluate_base", "evaluate_chat", CORE))
    """Stages that run on the machines with GPUs."""

    def one(self, *stages: str) -> Artifact:
        """The artifact of the first of these stages that has one."""
        return next(self.stages[stage][0] for stage in stages if stage in self.stages)

    @property
    def base(self) -> Artifact:
        return self.one(*BASE_STAGES)

    @property
    def chat_evaluation(self) -> Artifact:
        """Of the last chat model."""
        return self.one(RL_EVALUATION, DPO_EVALUATION, "evaluate_chat")

    @property
    def chat(self) -> Artifact:
        """The last chat model."""
        return self.one(RL, DPO, "sft")

    @property
    def evaluations(self) -> dict[str, Artifact]:
        """Stage → evaluation, of the base model and of the last chat model."""
        found = {"evaluate_chat": self.chat_evaluation, "evaluate_base": self.one("evaluate_base")}
        return found | {stage: self.stages[stage][0] for stage in (CORE,) if stage in self.stages}


def read_json(artifact: Artifact, name: str) -> Any:
    """A JSON file of an artifact."""
    return json.loads((artifact.path / name).read_text(encoding="utf-8"))


def training_events(model: Artifact, number: str = "smoothed_loss") -> list[dict[str, Any]]:
    """The events of `metrics.jsonl` that have this number."""
    lines = (model.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if number in line and number in (event := json.loads(line))]
