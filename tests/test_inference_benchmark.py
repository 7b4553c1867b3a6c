"""`benchmarks/inference.py` runs: every kind of line, with a few tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = ["d4-u1", "before-u32", "samples", "arrival", "warm-turn", "start", "cache"]


@pytest.mark.slow
def test_every_kind_of_line_runs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, "benchmarks/inference.py", "--quick", "--json", str(tmp_path / "found.json")]
    subprocess.run([*command, "--only", *LINES], cwd=ROOT, check=True, timeout=3600)
    lines = {line["name"]: line for line in json.loads((tmp_path / "found.json").read_text())["lines"]}
    assert list(lines) == LINES
    assert all(line["ratio"] > 0 for line in lines.values())
    assert "1 of 1 answers equal" in lines["d4-u1"]["note"]
    assert "32 of 32 answers equal" in lines["before-u32"]["note"]
    assert lines["samples"]["note"].startswith("384 prompt tokens computed of 384;")
