"""Attacks on the sandbox: none escapes, none outlives its limit, nothing is left, and no verdict can be faked."""

from __future__ import annotations

import pytest

from nanochat.tools.sandbox.limits import Limits
from nanochat.tools.sandbox.sandbox import Checked, Outcome, Sandbox, Verdict
from tests.sandbox.attack import Attack
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.fakes import BEFORE, FAKES, TESTS, program_of

LONG = Limits(time_s=60)
FAKE_LIMITS = Limits(time_s=5)


def attack(sandbox: Sandbox, attack: Attack) -> Outcome:
    outcome = sandbox.run(attack.program, attack.limits)
    assert outcome.ending == attack.ending, outcome
    if attack.output is not None:
        assert outcome.output == attack.output, outcome
    if attack.ending == "ended":
        assert (outcome.code != 0) == attack.failed, outcome
    return outcome


@pytest.mark.parametrize("each", ATTACKS, ids=lambda each: each.name)
def test_an_attack_fails(each: Attack, full: Sandbox) -> None:
    attack(full, each)


@pytest.mark.parametrize(
    "each", [each for each in ATTACKS if not each.only_full and each.ending != "time limit"], ids=lambda each: each.name
)
def test_an_attack_fails_without_namespaces(each: Attack, no_namespaces: Sandbox) -> None:
    attack(no_namespaces, each)


def judge(sandbox: Sandbox, program: str, limits: Limits = LONG) -> Verdict:
    return sandbox.check([Checked((program,), "f", TESTS, BEFORE)], limits)[0]


@pytest.mark.parametrize("name", FAKES)
def test_cases_22_and_26_a_verdict_is_not_faked(name: str, full: Sandbox) -> None:
    """`os._exit(0)`, printing "passed", patching `check` (22) and `sys._getframe` (26) among others."""
    assert not judge(full, program_of(name), FAKE_LIMITS).right


@pytest.mark.parametrize("name", FAKES)
def test_a_verdict_is_not_faked_without_namespaces(name: str, no_namespaces: Sandbox) -> None:
    assert not judge(no_namespaces, program_of(name), FAKE_LIMITS).right


def test_the_right_program_is_right(full: Sandbox, no_namespaces: Sandbox) -> None:
    """Else the tests above would show nothing."""
    for sandbox in (full, no_namespaces):
        assert judge(sandbox, "def f(x): return x * x").name == "right"


def test_a_program_that_only_prints_is_not_stopped(full: Sandbox) -> None:
    assert judge(full, "print('x' * 1000)\ndef f(x):\n    print(x)\n    return x * x").name == "right"


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("while True: pass", "time limit"),
        ("def f(x):\n    while True: pass", "time limit"),
        ("import time\ndef f(x): time.sleep(1000)", "time limit"),
        ("def f(x): return f", "wrong"),
    ],
)
def test_verdicts_of_limits(program: str, name: str, full: Sandbox) -> None:
    limits = Limits(time_s=0.5) if name == "time limit" else LONG
    assert judge(full, program, limits).name == name


def test_files_of_a_program_are_gone(full: Sandbox) -> None:
    """Also for the next program of the same launcher, and of all others."""
    for _ in range(4):
        outcome = full.run("import os\nprint(os.listdir('.'))\nopen('left', 'w').write('x')", LONG)
        assert outcome.output == "[]\n", outcome


def test_a_program_may_use_its_own_folder(full: Sandbox) -> None:
    text = "import tempfile, shutil, pathlib\nfile = pathlib.Path(tempfile.mkdtemp()) / 'a'\nfile.write_text('kept')\n"
    text += "shutil.copy(file, 'b')\nprint(pathlib.Path('b').read_text(), open('/dev/null', 'w').write('x'))"
    assert full.run(text, LONG).output == "kept 1\n"


def test_ordinary_programs_work(full: Sandbox, no_namespaces: Sandbox) -> None:
    text = """
import asyncio, concurrent.futures, datetime, decimal, hashlib, json, random, re, sqlite3, subprocess, threading

async def main():
    await asyncio.sleep(0)
    return await asyncio.gather(*[asyncio.to_thread(pow, 2, n) for n in range(3)])

print(asyncio.run(main()))
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(list(pool.map(len, ["a", "bb"])))
print(sqlite3.connect(":memory:").execute("select 1 + 1").fetchone())
print(hashlib.sha256(b"").hexdigest()[:8], decimal.Decimal("0.1") + 1, f"{datetime.date(2000, 1, 1):%A}")
if __name__ == "__main__":
    print("main")
raise SystemExit(3)
"""
    for sandbox in (full, no_namespaces):
        outcome = sandbox.run(text, LONG)
        assert outcome.output == "[1, 2, 4]\n[1, 2]\n(2,)\ne3b0c442 1.1 Saturday\nmain\n", outcome
        assert (outcome.ending, outcome.code) == ("ended", 3)
