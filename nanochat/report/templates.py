"""Renders the Jinja templates of reports."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from nanochat.console import duration, number


def code_spans(text: str) -> Markup:
    """Escaped text in which `…` is code."""
    escaped = str(escape(text))  # in a `Markup`, `re.sub` would escape the tags too
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escaped))  # noqa: S704 - escaped


def render_template(name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """A page as Markdown, and as self-contained HTML. HTML is escaped; an undefined variable is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(["html.jinja"]),
    )
    environment.filters.update(number=number, duration=duration, code_spans=code_spans)
    markdown, html = (environment.get_template(f"{name}.{kind}.jinja") for kind in ("md", "html"))
    return markdown.render(values), html.render(values)
