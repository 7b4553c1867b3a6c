"""Writes the pages of `docs/reference` from the code: environment variables, commands, config fields.

python docs/generate.py        (or `make reference`)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import nanochat.cli.main
from nanochat.cli.app import app
from nanochat.config.base import AbsentMeans, Config
from nanochat.config.compute import Compute
from nanochat.config.data import ShardConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.variables import VARIABLES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py: `make reference` renews it. -->\n\n"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of", "pattern": "matches"}
LENGTHS = {"min_length": "at least", "max_length": "at most"}


def pages() -> dict[str, str]:
    """File name → text of every page."""
    made = {"environment.md": environment(), "commands.md": commands(), "config.md": config()}
    return {name: NOTE + text.strip() + "\n" for name, text in made.items()}


def environment() -> str:
    """Our variables from their table, and the names of foreign ones from the source."""
    rows = [(f"`{each.name}`", f"`{each.default}`" if each.default else "", f"{each.meaning}.") for each in VARIABLES]
    sources = [path for room in ("nanochat", "flows") for path in sorted((ROOT / room).rglob("*.py"))]
    read = re.compile(r"environ(?:\.get\(|\[|\.setdefault\()\s*[\"\']([A-Za-z0-9_]+)[\"\']")
    named = {name for path in sources for name in read.findall(path.read_text(encoding="utf-8"))}
    foreign = sorted(named - {each.name for each in VARIABLES})
    return (
        "# Environment variables\n\n"
        "Every command checks them when it starts: a value that cannot be used is an error, and so is a misspelt "
        "`NANOCHAT_…` name. An empty variable counts as not set.\n\n"
        f"{table(('variable', 'default', 'meaning'), rows)}\n\n"
        "Variables of other programs that nanochat reads or sets; their own documentation describes them: "
        f"{', '.join(f'`{name}`' for name in foreign)}. S3 clients, Prefect, torch and the Hugging Face Hub read more "
        "variables of their own.\n"
    )


def commands() -> str:
    """The help of every command."""
    assert nanochat.cli.main  # registers them
    text: str = app.generate_docs(output_format="markdown", recursive=True)
    text = re.sub(r"(?m)^(nanochat \S+) -m \S+", r"\1", text)  # cyclopts adds how this program was started
    return text.replace("# nanochat\n", "# Commands\n", 1).replace(' *[default: ""]*', "")


def config() -> str:
    """Every field of the pipeline's config, of a raw shard's and of `Compute`."""
    parts = [
        "# Config fields\n\n"
        "`--set pretrain.model.depth=6` sets a field of the pipeline's config. Its fields enter the keys of the stages "
        "that they belong to: a changed field makes those stages run again. A field at the value in *not in key* is "
        "left out of the key: it was added after artifacts existed.",
        *sections(PipelineConfig),
        "## A raw shard\n\nThe `download` stage gets one per shard; the fields follow from `data` and the source.\n\n"
        + fields(ShardConfig),
        "# Compute\n\n"
        "`--compute parallelism.ranks=2` sets how a run is executed. No field enters a key: results do not depend on "
        "them, except for rounding.",
        *sections(Compute),
    ]
    return "\n\n".join(parts)


def sections(kind: type[Config]) -> Iterator[str]:
    """A section for each group of fields, with all paths at which it occurs."""
    places: dict[type[Config], list[str]] = {}
    collect(kind, "", places)
    for group, paths in places.items():
        title = ", ".join(f"`{path}`" for path in paths)
        yield f"## {title}\n\n{(group.__doc__ or '').strip()}\n\n{fields(group)}".rstrip()


def collect(kind: type[Config], path: str, places: dict[type[Config], list[str]]) -> None:
    """Adds the groups below `path` to `places`, in the order of the fields."""
    for name, field in kind.model_fields.items():
        inner, below = nested(field.annotation), f"{path}.{name}".lstrip(".")
        if inner is not None:
            places.setdefault(inner, []).append(below + "[]" * (get_origin(field.annotation) is tuple))
            collect(inner, below, places)


def fields(kind: type[Config]) -> str:
    """A table of the fields that hold values."""
    rows = []
    for name, field in kind.model_fields.items():
        if nested(field.annotation) and get_origin(field.annotation) is not tuple:
            continue
        default = "" if field.is_required() else f"`{shown(field.get_default())}`"
        absent = [shown(mark.value) for mark in field.metadata if isinstance(mark, AbsentMeans)]
        description = " ".join((field.description or "").split())
        rows.append((f"`{name}`", type_name(field), default, f"`{absent[0]}`" if absent else "", description))
    columns = ("field", "type", "default", "not in key", "meaning")
    if not any(row[3] for row in rows):
        columns, rows = (*columns[:3], columns[4]), [(*row[:3], row[4]) for row in rows]
    return table(columns, rows) if rows else ""


def nested(annotation: Any) -> type[Config] | None:
    """The config class of a field, or of the items of its tuple."""
    kinds = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    return next((each for each in kinds if issubclass(each, Config)), None)


def type_name(field: Any) -> str:
    """Type and limits of a field: `int`, 1 … 64."""
    annotation, args = field.annotation, get_args(field.annotation)
    if get_origin(annotation) is tuple:
        item = nested(annotation)
        text = f"list of `{item.__name__ if item else type_of(args[0])}`"
    elif args and all(isinstance(each, str) for each in args):
        text = ", ".join(f"`{each}`" for each in args)
    else:
        text = f"`{type_of(annotation)}`"
    limits = [limit for mark in field.metadata for limit in limits_of(mark)]
    return ", ".join([text, *limits])


def type_of(annotation: Any) -> str:
    if choices := [each for each in get_args(annotation) if isinstance(each, str)]:
        return " | ".join(choices)
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def limits_of(mark: Any) -> Iterator[str]:
    for name, words in {**BOUNDS, **LENGTHS}.items():
        value = getattr(mark, name, None)
        if value is not None:
            number = f"`{value}`" if name == "pattern" else f"{value:,}" if isinstance(value, int) else f"{value:g}"
            yield f"{words} {number}{' long' if name in LENGTHS else ''}"


def shown(value: Any) -> str:
    """A default as one would write it on the command line."""
    if isinstance(value, tuple):
        value = [each.canonical() if isinstance(each, Config) else each for each in value]
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
