"""Reads a bundle of CORE: a folder with `core.yaml`, `eval_meta_data.csv` and the rows of each task in `eval_data/`.

Whatever could make a score that means something else is refused by name: rows that are no JSON or lack a column, a
right answer outside the choices, too few rows for the examples in a prompt. A task whose file is not there is missing:
the others are evaluated, and there is no CORE.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import yaml

from nanochat.errors import BadSource
from nanochat.evaluation.core.definition import TASKS
from nanochat.evaluation.examples import ExampleKind

TASKS_FILE, BASELINES_FILE, ROWS_FOLDER = "core.yaml", "eval_meta_data.csv", "eval_data"
KINDS: dict[str, ExampleKind] = {"multiple_choice": "choice", "schema": "schema", "language_modeling": "continuation"}
MAX_SHOTS = 1000


@dataclass(frozen=True)
class Row:
    """A question, as the bundle has it."""

    number: int
    """Its line in the file, from 1: it identifies the question in its task."""
    query: str = ""
    """What a choice answers, or what a continuation continues; empty for a schema."""
    options: tuple[str, ...] = ()
    """The choices; for a schema, the contexts of its ending."""
    ending: str = ""
    """The continuation, or the ending of a schema."""
    gold: int = 0
    """Index of the right option."""


@dataclass(frozen=True)
class Task:
    """One task with its rows in the order of the file."""

    name: str
    kind: ExampleKind
    shots: int
    """Examples of other questions, with their answers, before each question."""
    delimiter: str
    """Between a question and its answer."""
    file: str
    """Below `eval_data`."""
    baseline: float
    """Accuracy of a guess, as the bundle has it, from 0 to 1."""
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Bundle:
    """The tasks of a bundle."""

    tasks: tuple[Task, ...]
    missing: tuple[str, ...]
    """Tasks of CORE that the bundle lacks, or whose rows it lacks."""


def read_bundle(folder: Path) -> Bundle:
    """The tasks of a bundle. Raises `BadSource`, naming file and line, for a bundle that cannot be evaluated."""
    baselines = _baselines(folder)
    tasks: list[Task] = []
    for entry in _entries(folder):
        task = _task(entry, baselines)
        if any(task.name == other.name for other in tasks):
            raise BadSource(f"`{TASKS_FILE}` has the task `{task.name}` twice.")
        rows = folder / ROWS_FOLDER / task.file
        if rows.is_file():
            tasks.append(_with_rows(task, rows))
    found = {task.name for task in tasks}
    if not tasks:
        raise BadSource(f"`{folder}` has no rows of any task of `{TASKS_FILE}`.")
    return Bundle(tuple(tasks), tuple(name for name in TASKS if name not in found))


def files_of(folder: Path) -> list[str]:
    """The files of a bundle, relative to its folder: its `core.yaml` names them. Files of rows may be missing."""
    rows = {f"{ROWS_FOLDER}/{_text(entry, 'dataset_uri')}" for entry in _entries(folder)}
    return [TASKS_FILE, BASELINES_FILE, *sorted(rows)]


def _entries(folder: Path) -> list[Mapping[str, Any]]:
    """The tasks of `core.yaml`, with names and files checked."""
    content = _read(folder / TASKS_FILE)
    try:
        parsed = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise BadSource(f"`{TASKS_FILE}` is not YAML: {' '.join(str(error).split())[:200]}.") from error
    listed = cast("dict[str, Any]", parsed).get("icl_tasks") if isinstance(parsed, dict) else None
    if not isinstance(listed, list) or not listed:
        raise BadSource(f"`{TASKS_FILE}` has no list `icl_tasks`.", hint="Is it the bundle of CORE?")
    entries: list[Mapping[str, Any]] = []
    for entry in cast("list[Any]", listed):
        if not isinstance(entry, dict):
            raise BadSource(f"`{TASKS_FILE}`: a task of `icl_tasks` is not a mapping.")
        file = PurePosixPath(_text(cast("dict[str, Any]", entry), "dataset_uri"))
        if file.is_absolute() or ".." in file.parts:
            raise BadSource(f"`{TASKS_FILE}`: `{file}` is not a file below `{ROWS_FOLDER}`.")
        entries.append(cast("dict[str, Any]", entry))
    return entries


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise BadSource(f"`{TASKS_FILE}`: the task `{entry.get('label', '?')}` has no `{name}`.")
    return value


def _task(entry: Mapping[str, Any], baselines: Mapping[str, float]) -> Task:
    """A task without its rows."""
    name = _text(entry, "label")
    kind = KINDS.get(_text(entry, "icl_task_type"))
    if kind is None:
        raise BadSource(
            f"`{TASKS_FILE}`: `{name}` has the unknown type `{entry['icl_task_type']}`.",
            hint=f"Known are {', '.join(f'`{known}`' for known in KINDS)}.",
        )
    shots = entry.get("num_fewshot")
    first = cast("list[Any]", shots)[0] if isinstance(shots, list) and shots else None
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first <= MAX_SHOTS:
        raise BadSource(f"`{TASKS_FILE}`: `num_fewshot` of `{name}` is not a list with a number from 0.")
    delimiter = entry.get("continuation_delimiter", " ")
    if not isinstance(delimiter, str):
        raise BadSource(f"`{TASKS_FILE}`: `continuation_delimiter` of `{name}` is not text.")
    if name not in baselines:
        raise BadSource(f"`{BASELINES_FILE}` has no row for the task `{name}`.")
    return Task(name, kind, first, delimiter, _text(entry, "dataset_uri"), baselines[name], ())


def _baselines(folder: Path) -> dict[str, float]:
    """Accuracy of a guess by task, from 0 to 1."""
    rows = csv.DictReader(_read(folder / BASELINES_FILE).splitlines())
    if not {"Eval Task", "Random baseline"} <= set(rows.fieldnames or ()):
        raise BadSource(f"`{BASELINES_FILE}` has no columns `Eval Task` and `Random baseline`.")
    found: dict[str, float] = {}
    for row in rows:
        try:
            percent = float(row["Random baseline"] or "nan")
        except ValueError:
            percent = math.nan
        if 0 <= percent < 100:
            found[row["Eval Task"]] = percent / 100
    return found


def _with_rows(task: Task, path: Path) -> Task:
    rows: list[Row] = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            rows.append(_row(task, number, line))
    if not rows:
        raise BadSource(f"`{task.file}` has no rows.")
    return Task(task.name, task.kind, task.shots, task.delimiter, task.file, task.baseline, tuple(rows))


def _row(task: Task, number: int, line: str) -> Row:
    place = f"`{task.file}`, line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadSource(f"{place}: not JSON.") from error
    if not isinstance(row, dict):
        raise BadSource(f"{place}: not an object.")
    given = cast("dict[str, Any]", row)
    match task.kind:
        case "choice":
            options = _options(given, "choices", place)
            return Row(number, _string(given, "query", place), options, "", _gold(given, options, place))
        case "schema":
            options = _options(given, "context_options", place)
            return Row(number, "", options, _ending(given, place), _gold(given, options, place))
        case _:
            return Row(number, _string(given, "context", place), (), _ending(given, place))


def _string(row: Mapping[str, Any], name: str, place: str) -> str:
    if name not in row:
        raise BadSource(f"{place}: there is no `{name}`.")
    if not isinstance(row[name], str):
        raise BadSource(f"{place}: `{name}` is not text.")
    return _unicode(row[name], name, place)


def _ending(row: Mapping[str, Any], place: str) -> str:
    ending = _string(row, "continuation", place)
    if not ending.strip():
        raise BadSource(f"{place}: `continuation` is empty: there is nothing to score.")
    return ending


def _options(row: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    options = row.get(name)
    if not isinstance(options, list) or not all(isinstance(option, str) for option in cast("list[Any]", options)):
        raise BadSource(f"{place}: `{name}` is not a list of texts.")
    texts = cast("list[str]", options)
    if len(texts) < 2:
        raise BadSource(f"{place}: `{name}` has fewer than two texts.")
    return tuple(_unicode(text, name, place) for text in texts)


def _gold(row: Mapping[str, Any], options: tuple[str, ...], place: str) -> int:
    gold = row.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool):
        raise BadSource(f"{place}: `gold` is not a number.")
    if not 0 <= gold < len(options):
        raise BadSource(f"{place}: `gold` is {gold}, but the choices are numbered from 0 to {len(options) - 1}.")
    return gold


def _unicode(text: str, name: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadSource(f"{place}: `{name}` is not valid Unicode.") from None
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadSource(f"The bundle of CORE has no `{path.name}`.", hint="Is it the right folder?") from None
    except UnicodeDecodeError as error:
        raise BadSource(f"`{path.name}` is not UTF-8 text.") from error
