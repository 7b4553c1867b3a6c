"""A small bundle of CORE: all 22 names, three types, and the rows that are hard to score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nanochat.evaluation.core.definition import BASELINES_V1

SCHEMAS = ("winograd", "winogrande")
CHOICES = (
    "hellaswag_zeroshot", "arc_easy", "arc_challenge", "copa", "commonsense_qa", "piqa", "openbook_qa", "hellaswag",
    "agi_eval_lsat_ar", "boolq", "bigbench_language_identification",
)  # fmt: skip
ANIMALS = ("cat", "dog", "bird", "naïve horse", "little mouse", "big grey elephant", "fish")
PLACES = ("on the mat", "in the house", "under a tree", "by the river", "at the market")
Rows = Sequence[Mapping[str, Any]]


def choice_rows(count: int) -> Rows:
    """Choices that begin alike, that are one token, that are equal, and one that is the beginning of all others."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        animal, place = ANIMALS[number % len(ANIMALS)], PLACES[number % len(PLACES)]
        choices = [f"the {each} sat {place}." for each in ANIMALS[:4]]
        match number % 5:
            case 1:
                choices = ["A", "B", "C", "D"]
            case 2:
                choices = [animal, animal, f"{animal}s and more", "Nothing at all."]
            case 3:
                choices = [animal, f"{animal} and a friend", f"{animal}, or not"]
        rows.append(
            {"query": f"Question {number}: where does the {animal} sit?\n", "choices": choices, "gold": number % 3}
        )
    return rows


def schema_rows(count: int) -> Rows:
    """Two contexts of one ending; one in four is a pair of equal ones."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        one, other = ANIMALS[number % 7], ANIMALS[(number + 1 + (number % 4 == 3) * 6) % 7]
        contexts = [f"The {one} did not fit {PLACES[number % 5]} because the {each}" for each in (one, other)]
        rows.append({"context_options": contexts, "continuation": f"was too big ({number}).", "gold": number % 2})
    return rows


def continuation_rows(count: int) -> Rows:
    """Contexts with spaces at their ends, and endings that a tokenizer may join with what is before them."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        animal = ANIMALS[number % 7]
        context = f"Context: a {animal} sat {PLACES[number // 7 % 5]}.\nQuestion: who sat there, {number}?\nAnswer: "
        rows.append({"context": context, "continuation": animal if number % 3 else f"{animal}s"})
    return rows


def write_bundle(folder: Path, rows: int = 14, shots: int = 3, without: Sequence[str] = ()) -> Path:
    """Writes a bundle of all tasks; a third of them with examples in prompts, a third with a delimiter of its own."""
    entries: list[dict[str, Any]] = []
    for number, name in enumerate(BASELINES_V1):
        kind, content = "language_modeling", continuation_rows(rows)
        if name in SCHEMAS:
            kind, content = "schema", schema_rows(rows)
        elif name in CHOICES:
            kind, content = "multiple_choice", choice_rows(rows)
        entry = {"label": name, "dataset_uri": f"some/{name}.jsonl", "num_fewshot": [shots * (number % 3 > 0)],
                 "icl_task_type": kind}  # fmt: skip
        entries.append(entry | ({"continuation_delimiter": "\nAnswer: "} if number % 3 == 2 else {}))
        if name not in without:
            write_rows(folder, name, content)
    (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": entries}))
    lines = [f"{name},x,{round(100 * baseline, 2)}" for name, baseline in BASELINES_V1.items()]
    (folder / "eval_meta_data.csv").write_text("\n".join(["Eval Task,Task Category,Random baseline", *lines]) + "\n")
    return folder


def write_rows(folder: Path, name: str, rows: Rows) -> None:
    path = folder / f"eval_data/some/{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def texts(folder: Path) -> list[str]:
    """All of its text, to train a tokenizer on."""
    return [line for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]
