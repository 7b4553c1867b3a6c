"""The part of a report about CORE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.report.document import Block, Table, Text


def core_blocks(evaluation: Mapping[str, Any]) -> list[Block]:
    """An `evaluation.json` of CORE: a summary, and a line for each task."""
    rows = [_row(name, task) for name, task in evaluation["tasks"].items()]
    heads = ["task", "kind", "examples", "right", "chance", "centered", "bits of the answer", "questions", "also"]
    return [Text(_summary(evaluation)), Table(heads, rows, heads[2:8])]


def core_tile(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """CORE with its interval, if there is one."""
    if evaluation["core"] is None:
        return []
    low, high = evaluation["core_interval"]
    return [("CORE", f"{evaluation['core']:.4f} ({low:.4f}–{high:.4f})")]


def _summary(evaluation: Mapping[str, Any]) -> str:
    limit = f"the first {evaluation['limit']:,} questions of each task" if evaluation["limit"] else "all questions"
    how = {"run": "prompts of any length are computed", "crop": "longer prompts lose their beginning"}
    about = f"{limit}; {how[evaluation['overlong']]}; choices by {evaluation['choices_by']}."
    if evaluation["core"] is None:
        return f"No CORE, without {', '.join(evaluation['missing_tasks'])}. {about[0].upper()}{about[1:]}"
    versions = [f"{core:.4f} by DCLM's baselines {version}" for version, core in evaluation["core_by_version"].items()]
    return f"CORE is {' and '.join(versions)}; the bundle has {evaluation['baselines']}. {about[0].upper()}{about[1:]}"


def _row(name: str, task: Mapping[str, Any]) -> list[str]:
    low, high = task["interval"]
    notes = [f"{task['cropped']:,} cropped"] if task["cropped"] else []
    notes += [f"{task['moved_spans']:,} with a moved span"] if task["moved_spans"] else []
    return [
        name, task["kind"], str(task["shots"]), f"{task['accuracy']:.1%} ({100 * low:.1f}–{100 * high:.1f})",
        f"{task['baseline']:.0%}", f"{task['centered']:.3f}", f"{task['gold_bits']:.2f}", f"{task['questions']:,}",
        ", ".join(notes),
    ]  # fmt: skip
