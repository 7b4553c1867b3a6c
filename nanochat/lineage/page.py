"""Lineage as one self-contained HTML page: the picture, and below it each artifact with all of its manifest."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nanochat.console import duration, is_number, number
from nanochat.lineage.ancestry import family, oldest_first
from nanochat.lineage.picture import as_svg, fold
from nanochat.store.manifest import InputRef, Manifest
from nanochat.store.store import Store


def as_page(store: Store, manifest: Manifest, *, down: bool = False) -> str:
    """The page of an artifact with its ancestors, nearest first; with `down`, its descendants, oldest first."""
    found = family(store, manifest, down=down)
    ordered = oldest_first(found)[:: 1 if down else -1]
    stages: dict[str, list[Manifest]] = {}
    for each in ordered:
        stages.setdefault(each.stage, []).append(each)
    for shards in stages.values():
        shards.sort(key=_label)
    links = {stage: f"#{stage}" for stage in stages}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    filters = {"anchor": _anchor, "duration": duration, "json": _json, "label": _label, "value": _value}
    environment.filters.update(filters)  # pyright: ignore[reportUnknownMemberType] - jinja2 has no type for it
    there = {each.name for each in found}
    return environment.get_template("page.html.jinja").render(
        top=manifest,
        down=down,
        root=store.objects.root,
        picture=Markup(as_svg(fold(found, down=down), here=manifest.stage, links=links)),  # noqa: S704 - our own SVG
        stages=stages,
        there=there,
        count=len(found),
        seconds=sum(each.producer.seconds for each in found),
        gone=0 if down else len({ref.name for each in found for ref in each.parents} - there),
        sources=sorted((each for each in found if not each.inputs), key=lambda each: (each.stage, _label(each))),
    )


def _anchor(artifact: Manifest | InputRef) -> str:
    return f"{artifact.stage}-{artifact.key}"


def _label(manifest: Manifest) -> str:
    """Name of a shard, or its key."""
    return str(manifest.config.get("name") or manifest.key[:8])


def _value(value: Any) -> str:
    """A metric as text."""
    if is_number(value):
        return number(value)
    if value is None:
        return "–"
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1 if isinstance(value, dict) else None, ensure_ascii=False)
