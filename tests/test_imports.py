"""No module re-exports: `from nanochat.x import name` takes a name from the module that defines it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("nanochat", "flows", "tests", "benchmarks") for path in (ROOT / room).glob("**/*.py"))


@cache
def defined(path: Path) -> frozenset[str]:
    """The names that a module defines at its top level, also below `if` and `try`."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        waiting += ast.iter_child_nodes(node)
    return frozenset(found)


def re_exported(path: Path) -> list[str]:
    """`module.name` for each name that a file imports from a module of ours that only imports it itself."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        place = ROOT / node.module.replace(".", "/")
        module = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        if not module.exists():
            continue
        for alias in node.names:
            is_module = (place / f"{alias.name}.py").exists() or (place / alias.name / "__init__.py").exists()
            is_compiled = bool(list(place.glob(f"{alias.name}.*.so"))) or (place / f"{alias.name}.pyi").exists()
            if not (is_module or is_compiled or alias.name in defined(module)):
                found.append(f"{node.module}.{alias.name}")
    return found


def test_no_name_is_imported_through_another_module() -> None:
    found = {path.relative_to(ROOT).as_posix(): names for path in FILES if (names := re_exported(path))}
    assert found == {}
