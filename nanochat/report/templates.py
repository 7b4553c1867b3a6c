"""Jinja templates of reports."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from nanochat.console import duration, number


def templates() -> Environment:
    """An environment for the templates in this folder: HTML is escaped, an undefined variable is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(["html.jinja"]),
    )
    environment.filters.update(number=number, duration=duration)
    return environment
