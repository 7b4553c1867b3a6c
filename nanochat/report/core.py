"""The chapter of CORE in a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def core_chapter(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show of an `evaluation.json` of CORE: a summary, and a line for each task."""
    return {"summary": _summary(evaluation), "rows": [_row(name, task) for name, task in evaluation["tasks"].items()]}


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


def _row(name: str, task: Mapping[str, Any]) -> dict[str, str]:
    low, high = task["interval"]
    notes = [f"{task['cropped']:,} cropped"] if task["cropped"] else []
    notes += [f"{task['moved_spans']:,} with a moved span"] if task["moved_spans"] else []
    return {
        "name": name,
        "kind": task["kind"],
        "shots": str(task["shots"]),
        "right": f"{task['accuracy']:.1%} ({100 * low:.1f}–{100 * high:.1f})",
        "chance": f"{task['baseline']:.0%}",
        "centered": f"{task['centered']:.3f}",
        "gold_bits": f"{task['gold_bits']:.2f}",
        "questions": f"{task['questions']:,}",
        "notes": ", ".join(notes),
    }
