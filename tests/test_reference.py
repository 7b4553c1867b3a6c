"""The generated pages of `docs/reference` show the code as it is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert spec and spec.loader
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Made by a process of its own: other tests import commands in another order."""
    code = "import generate, json, sys; json.dump(generate.pages(), sys.stdout)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "docs"), str(ROOT)])}
    return json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment))


@pytest.mark.parametrize("name", ["environment.md", "commands.md", "config.md"])
def test_a_page_is_as_the_code_is(name: str, pages: dict[str, str]) -> None:
    path = ROOT / "docs" / "reference" / name
    assert path.read_text(encoding="utf-8") == pages[name], f"{name} is stale: run `make reference`."


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
