"""The sandbox for generated programs: what a program costs, HumanEval, and how exactly limits are kept.

    python benchmarks/sandbox.py
    python benchmarks/sandbox.py --humaneval FOLDER       # also openai/openai_humaneval, as the Hub lays it out

The cost of a program is the time that an empty one takes, since its own time is nothing; beside it, in turns, the start
of Python for the same program. HumanEval's canonical solutions, and `pass` for each problem, are judged by as many
launchers as there are cores. The excess is what a program that never ends had beyond its limit, at most: of endless
loops, and of every attack of the tests that is stopped by the clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from nanochat import settings
from nanochat.config.chat import MixtureItem
from nanochat.tasks.humaneval import judge_programs
from nanochat.tasks.registry import load_task
from nanochat.tools.sandbox.limits import Limits, Mode
from nanochat.tools.sandbox.sandbox import Checked, Sandbox
from tests.sandbox.attacks import ATTACKS

TARGET_MS, TARGET_S = 100, 20
ADD = Checked(("def f(x): return x + 1",), "f", "def check(f): assert f(1) == 2")


def milliseconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def costs(mode: Mode, turns: int, table: Table) -> None:
    """The cost of a program by itself, and of one with tests, beside the start of Python."""
    started = milliseconds(lambda: Sandbox((mode,), 1).mode)
    with Sandbox((mode,), 1) as sandbox:
        sandbox.run("pass")
        actions: dict[str, Callable[[], object]] = {
            "python -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
            "python -S -s -P -c pass": lambda: subprocess.run(
                [sys.executable, "-S", "-s", "-P", "-c", "pass"], check=True
            ),
            f"{mode}: a program": lambda: sandbox.run("pass"),
            f"{mode}: a program and its tests": lambda: sandbox.check([ADD]),
        }
        found: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(turns):
            for name, action in actions.items():
                found[name].append(milliseconds(action))
        for name, times in found.items():
            inside = name.startswith(mode)
            table.add_row(name, f"{median(times):.1f} ms", f"{max(times):.1f} ms", f"{TARGET_MS} ms" if inside else "")
    table.add_row(f"{mode}: start and self-check of a launcher", f"{started:.0f} ms", "", "")


def excess(table: Table) -> None:
    """How long programs that never end have lived beyond their limit."""
    endless = [each.program for each in ATTACKS if each.ending == "time limit"] + ["while True: pass"] * 10
    with Sandbox(workers=1) as sandbox:
        beyond = [sandbox.run(program, Limits(time_s=0.5)).seconds - 0.5 for program in endless]
    table.add_row(
        f"beyond the limit, {len(endless)} programs",
        f"{1000 * median(beyond):.0f} ms",
        f"{1000 * max(beyond):.0f} ms",
        "1000 ms",
    )


def humaneval(folder: str, table: Table) -> None:
    task = load_task(MixtureItem(task="humaneval", source=folder), seed=1)
    questions = list(task.questions())
    with Sandbox() as sandbox:
        _ = sandbox.mode
        for name, answers in {
            "canonical solutions": [question["answer"] for question in questions],
            "pass": ["    pass\n"] * len(questions),
        }.items():
            began = time.perf_counter()
            verdicts = judge_programs(list(zip(questions, answers, strict=True)), sandbox)
            seconds = time.perf_counter() - began
            right = sum(verdict.right for verdict in verdicts)
            table.add_row(
                f"HumanEval, {name}: {right} of {len(questions)} right", f"{seconds:.1f} s", "", f"{TARGET_S} s"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--humaneval", default="", help="folder of openai/openai_humaneval")
    parser.add_argument("--turns", type=int, default=50)
    args = parser.parse_args()
    with Sandbox() as sandbox:
        mode = sandbox.mode
    table = Table("", "median", "maximum", "at most", title=f"sandbox: {mode}, {settings.cores()} cores")
    costs(mode, args.turns, table)
    excess(table)
    if args.humaneval:
        humaneval(args.humaneval, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
