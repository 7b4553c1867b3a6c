"""Retired words stay out: names, comments, messages and docs use ordinary technical English.

`docs/glossary.md` lists the words in use, and the retired ones beside their replacements. A line that needs one,
because another interface or a stored format contains it, ends with `plain-words: ok`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = {
    r"pulses?|hearts?|beats|beating|beat_[a-z]+|(?:a|the|each|last)[ _]beat|signs? of life": "heartbeat",
    r"silences?|hang[ _]watch": "watchdog, watchdog timeout",
    r"meetings?": "rendezvous",
    r"lent|lends?|lending": "a description: node that helps the first node",
    r"told|tells": "passed, given, notified, reported; distinguished",
    r"said|says|saying": "message, report, state, print, log, contain",
    r"heard|hears?": "received, read",
    r"asks|asked|asking": "requested, passed",
    r"dice": "generator",
    r"examin(?:e|es|ed|ing|ations?)": "evaluate, evaluation; inspect",
    r"read_on|learns?[ _]on|learnt": "continue pretraining; trained on, learned",
    r"manners?": "mode",
    r"(?:gets?|got) on": "make progress",
    r"deals?|dealt": "distribute",
    r"handed|hands?[ _]on": "pass, return",
    r"(?-i:Watching|Unwatched|Unseen)": "event sinks",
    r"(?-i:Overtaken|Held(?![- ]back|[- ]out|_Lease))": "LeaseLost, HeldLease",
    r"keepers?": "site supervisor",
    r"overdue": "stale runs",
    r"knobs?": "setting",
    r"tongues?|speaks?|spoken": "uses",
    r"whoever|nobody|somebody|anybody|everybody|for who": "the caller, the reader, no process, no one",
    r"(?<!fine[-_ ])tun(?:e|es|ed|ing)": "fine-tune; choose",
    r"training[ _]?plan|plan[ _]training": "hyperparameters, derive_hyperparameters",
    r"(?:shuffle|packing)[ _]windows?": "shuffle group, packing group",
}
WORDS = re.compile("|".join(f"(?P<w{i}>(?<![a-zA-Z])(?:{words})(?![a-zA-Z]))" for i, words in enumerate(RETIRED)), re.I)
CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SUFFIXES = {".py", ".pyi", ".rs", ".md", ".yaml", ".toml", ".jinja", ".html", ".sh", ".env", ""}
OUTSIDE = (
    "CHANGELOG.md", "docs/glossary.md", "tests/test_plain_words.py",  # they list the words
    "nanochat/world/", "nanochat/tasks/identity.py", "tests/unit/test_world.py",  # its texts are data
    "LICENSE", "constraints.txt",
)  # fmt: skip


def sources() -> list[str]:
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    return [
        path for path in listed
        if Path(path).suffix in SUFFIXES and not path.startswith(OUTSIDE) and (ROOT / path).is_file()
    ]  # fmt: skip


def retired(text: str) -> list[tuple[int, str, str]]:
    """Line, word and replacement of each retired word in a text."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if "plain-words: ok" not in line:
            for match in WORDS.finditer(CAMEL_CASE.sub("_", line)):
                replacement = RETIRED[list(RETIRED)[int(str(match.lastgroup)[1:])]]
                found.append((number, match.group(), replacement))
    return found


@pytest.mark.parametrize("path", sources())
def test_no_retired_word(path: str) -> None:
    names = retired(path)
    found = retired((ROOT / path).read_text())
    lines = [f"{path}:{line}: `{word}`: use {replacement}" for line, word, replacement in names + found]
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize(
    "line",
    [
        "def read_on(self)",
        "class HangWatch",
        "the_dice = 1",
        "Whoever reads it",
        "BEAT_EVERY_S",
        "it says so",
        "Held()",
    ],
)
def test_a_retired_word_is_found(line: str) -> None:
    assert retired(line)


@pytest.mark.parametrize(
    "line",
    [
        "heartbeat_s = 1",
        "a fine-tuned model",
        "fine_tune()",
        "say hello",
        "max-autotune",
        "Held back",
        "told  # plain-words: ok",
    ],
)
def test_ordinary_words_stay_possible(line: str) -> None:
    assert not retired(line)


def test_the_glossary_lists_no_word_that_is_not_refused() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", (ROOT / "docs/glossary.md").read_text().split("## Retired")[1], re.M)
    words = [word.strip() for row in rows[2:] for word in row.split(",")]
    assert len(words) > 40
    assert [word for word in words if not retired(word)] == []
