"""Docs refer to what exists: linked files and headings, paths of code, make targets; commit messages have a form."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
PAGES = [path for path in FILES if path.endswith(".md") and (ROOT / path).is_file()]
FOLDERS = {"nanochat", "flows", "rustbpe", "tests", "benchmarks", "docs", "deploy", ".ci"}
TO_COME = {"CHANGELOG.md", "docs/adding_a_stage.md"}
"""They name files of the past, or files that the reader creates."""
DEPLOYMENTS = {
    f"nanochat/{entry['name']}" for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
}


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{page} links {target}"
        assert not anchor or anchor in headings(linked), f"{page} links {target}: there is no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TO_COME])
def test_paths_that_are_named_exist(page: str) -> None:
    """A path in backticks that begins with a folder of the project, or is a file beside the page."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for path in re.findall(r"`([\w.-]+/[\w./*-]*)(?:::[\w:]+)?`", text):
        if path.split("/")[0] in FOLDERS and path not in DEPLOYMENTS:
            assert list(ROOT.glob(path.rstrip("/"))), f"{page} names {path}"


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", (ROOT / page).read_text())) <= targets


def test_the_changelog_has_the_version_or_what_is_unreleased() -> None:
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    titles = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] in ("Unreleased", *version)


@pytest.mark.parametrize(
    ("message", "accepted"),
    [
        ("store: a lease is renewed by its holder\n", True),
        ("tests, docs: links are checked\n\nBecause they broke.\n", True),
        ("a subject without an area\n", False),
        ("store: \n", False),
        (f"store: {'x' * 66}\n", False),
        ("store: no empty line\nbefore the body\n", False),
    ],
)
def test_the_hook_for_commit_messages(message: str, accepted: bool) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (pattern,) = [hook["entry"] for hook in hooks if hook["id"] == "commit-message"]
    assert bool(re.search(pattern, message, re.MULTILINE)) == accepted


def test_hooks_run_programs_of_the_virtual_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in config["repos"]} == {"local"}, "no host is named"
