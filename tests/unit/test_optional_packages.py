"""A base install, without the optional groups of dependencies, trains and looks at a store."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nanochat.failures import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"flows": ("prefect", "fastapi", "starlette", "uvicorn", "sqlalchemy", "httptools", "uvloop"),
          "foreign": ("transformers", "gguf", "accelerate"), "hub": ("datasets", "pandas"), "plots": ("matplotlib",),
          "serve": ("sse_starlette", "prometheus_client", "llguidance")}  # fmt: skip
"""Group → packages that only it installs, as they are imported."""
BLOCKED = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sum(GROUPS.values(), ())!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def run_blocked(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in which the optional packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "NANOCHAT_HOME": str(home)},
    )  # fmt: skip


def test_training_and_the_command_line_need_no_optional_package(tmp_path: Path) -> None:
    modules = (
        "training.pretrain", "training.sft", "evaluation.base_model", "evaluation.chat_model", "workers.launch",
        "workers.supervisor", "serve.terminal", "graphs.pipeline", "graphs.resolve", "cli.main",
    )  # fmt: skip
    done = run_blocked("".join(f"import nanochat.{module}\n" for module in modules), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "package", "group"),
    [
        ("run", "prefect", "flows"),
        ("serve", "uvicorn", "serve"),
        ("run --plain --set data.source=hf://a/b data.subset=c", "datasets", "hub"),
    ],
)
def test_a_missing_package_is_one_sentence_with_its_group(
    command: str, package: str, group: str, tmp_path: Path
) -> None:
    code = f"sys.argv = ['nanochat', *{command.split()!r}]\n"
    if group == "hub":  # as after the dataset's list of files, which needs a network
        code += "from nanochat.sources import hub\nhub.list_files = lambda *_: "
        code += "hub._list_declared('hf://a/b', 'a/b', 'commit', 'c', '', {})\n"
    done = run_blocked(code + "from nanochat.cli.main import main\nmain()", tmp_path)
    assert done.returncode == 1
    assert f"needs the package `{package}`, which is not installed" in done.stderr, done.stderr
    assert f"`pip install 'nanochat[{group}]'`." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_model_without_transformers_is_one_sentence_with_its_group(tmp_path: Path) -> None:
    (tmp_path / "foreign.json").write_text("{}")
    code = f"""
from pathlib import Path
from nanochat.evaluation.any_model import load_any
from nanochat.failures import to_nanochat_error
try:
    load_any(Path({str(tmp_path)!r}))
except Exception as error:
    print(to_nanochat_error(error, "the stage `evaluate_core`"))
"""
    done = run_blocked(code, tmp_path)
    assert "needs the package `transformers`, which is not installed. `pip install 'nanochat[foreign]'`." in done.stdout


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", each, maxsplit=1)[0].replace("_", "-").lower() for each in requirements}


def test_the_groups_install_what_the_hints_promise() -> None:
    groups = {name: names(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
    for module, group in EXTRAS.items():
        wanted = module.replace("_", "-")
        assert wanted in groups[group] or f"prefect-{wanted}" in groups[group], (module, group)
    assert PROJECT["optional-dependencies"]["all"] == [f"nanochat[{','.join(GROUPS)}]"]
    base = names(PROJECT["dependencies"])
    assert not any(base & groups[group] for group in GROUPS)
