"""The generated pages of `docs/reference` show the code as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert spec and spec.loader
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", ["environment.md", "commands.md", "config.md"])
def test_a_page_is_as_the_code_is(name: str) -> None:
    path = ROOT / "docs" / "reference" / name
    assert path.read_text(encoding="utf-8") == generate.pages()[name], f"{name} is stale: run `make reference`."


def test_every_field_has_a_row() -> None:
    page = generate.config()
    for kind in (PipelineConfig, Compute):
        for path in _paths(kind().model_dump(mode="json")):
            group, _, name = path.rpartition(".")
            section = page[page.index(f"`{group}`") :].partition("\n## ")[0]
            assert f"| `{name}` |" in section, path


def _paths(values: dict[str, object], before: str = "") -> list[str]:
    found: list[str] = []
    for name, value in values.items():
        found += _paths(value, f"{before}{name}.") if isinstance(value, dict) else [f"{before}{name}"]
    return found
