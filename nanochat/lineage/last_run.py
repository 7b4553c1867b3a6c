"""The run before this one, whose model a report compares with."""

from collections.abc import Mapping
from typing import Any

from nanochat.lineage.evaluations import EVALUATION_STAGES
from nanochat.store import runs
from nanochat.store.run_recording import without_secrets
from nanochat.store.store import Store

RUNS_READ = 50
"""Newest runs among which the last one is searched."""


def last_run(store: Store, config: Mapping[str, Any]) -> tuple[str, dict[str, str]] | None:
    """Name of the last completed run of the pipeline with another config, and its evaluations (stage → key).

    The report's own settings do not count: with other ones, the same models come out. `config` is canonical.
    """
    this = _models_of(without_secrets(config))  # records have no secrets
    found, _ = runs.survey(store, RUNS_READ)
    for run in found:
        record = run.record
        stages = [each for each in record.stages.values() if each.key]
        if run.state != "completed" or not any(each.stage == "report" for each in stages):
            continue
        if _models_of(record.config) != this:
            name = f"the last run ({record.id.rpartition('-')[2]})"
            return name, {each.stage: each.key for each in stages if each.stage in EVALUATION_STAGES}
    return None


def _models_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in config.items() if name != "report"}
