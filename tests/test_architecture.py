"""What the linters cannot see: sizes of files, names of modules in strings, what must not stand in a public project."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("nanochat/**/*.py"), *ROOT.glob("flows/**/*.py"), *ROOT.glob("rustbpe/src/**/*.rs")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_over_500_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_modules_named_in_strings_exist() -> None:
    named = {
        name
        for path in SOURCES
        if path.suffix == ".py"
        for name in re.findall(r'"(nanochat\.(?:training|evaluation|stages)\.[a-z_]+)"', path.read_text())
    }
    assert named
    for name in named:
        assert importlib.util.find_spec(name), name


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_packages_reexport_nothing(path: Path) -> None:
    imported = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module or "" for node in imported if isinstance(node, ast.ImportFrom)]
    package = ".".join(path.parent.relative_to(ROOT).parts)
    assert not [module for module in modules if module.startswith(package)]


def test_constraints_name_no_address() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_the_command_line_starts_without_torch_and_prefect() -> None:
    probe = (
        "import sys, nanochat.cli.main, nanochat.profiles; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'prefect', 'datasets')))"
    )
    import sys

    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0
