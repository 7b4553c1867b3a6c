"""Runs the parts of `gpu.py`: each in a process of its own, with a time limit, so that none takes others along.

A part is a function of a `Bench`. What it has found is in a file at once, so a part that is stopped or crashes keeps
what it found before. The processes are forked, which saves them the imports; so this one must never touch the GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TRACEBACK_LINES = 40


class Bench:
    """What a part gets: the device, the results of earlier parts, and where to put its own."""

    def __init__(self, device: torch.device, *, rehearsal: bool, notes: Path, earlier: list[dict[str, Any]]) -> None:
        self.device, self.rehearsal = device, rehearsal
        self._notes, self._earlier = notes, earlier

    def numbers(self, **found: Any) -> None:
        """Records numbers, or other values of JSON, by name."""
        self._note({"numbers": found})

    def check(self, claim: str, holds: bool | None, seen: str) -> None:
        """Records whether a claim of `gpu_claims.CLAIMS` holds; None if it cannot be seen on this device."""
        self._note({"checks": {claim: {"holds": holds, "seen": seen}}})

    def on_a_card(self, holds: bool) -> bool | None:
        """None in a rehearsal: of speed, it shows nothing."""
        return None if self.rehearsal else holds

    def earlier(self, part: str) -> dict[str, Any]:
        """The numbers of a part that ran before; empty if it did not."""
        lines = [line for line in self._earlier if line["part"] == part and line["rehearsal"] == self.rehearsal]
        return lines[-1]["numbers"] if lines else {}

    def _note(self, found: dict[str, Any]) -> None:
        with self._notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


@dataclass(frozen=True)
class Part:
    """A part of the proof. `by_request`: runs only when it is named."""

    name: str
    work: Callable[[Bench], None]
    limit_s: float
    by_request: bool = False


def run(part: Part, limit_s: float, *, device: str, rehearsal: bool, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs a part for at most `limit_s` seconds; returns its line.

    The line has `status` ("done", "failed" or "stopped"), a `sentence` unless it is done, `checks` and `numbers`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        notes = Path(scratch) / "notes.jsonl"
        notes.touch()
        process = multiprocessing.get_context("fork").Process(
            target=_in_child, args=(part, device, rehearsal, notes, earlier)
        )
        began = time.monotonic()
        process.start()
        process.join(limit_s)
        stopped = process.is_alive()
        if stopped and process.pid:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.pid:
            with suppress(ProcessLookupError, PermissionError):  # its children, such as the workers of a compiler
                os.killpg(process.pid, signal.SIGKILL)
        line: dict[str, Any] = {
            "part": part.name, "rehearsal": rehearsal, "status": "done", "sentence": "",
            "seconds": round(time.monotonic() - began, 1), "checks": {}, "numbers": {},
        }  # fmt: skip
        for text in notes.read_text(encoding="utf-8").splitlines():
            found = json.loads(text)
            line["checks"] |= found.get("checks", {})
            line["numbers"] |= found.get("numbers", {})
            if "failure" in found:
                line |= {"status": "failed", "sentence": found["failure"], "traceback": found["traceback"]}
    if stopped:
        line |= {"status": "stopped", "sentence": f"stopped after {limit_s:.0f} s"}
    elif process.exitcode and line["status"] == "done":
        code = process.exitcode
        how = f"the signal {signal.Signals(-code).name}" if code < 0 else f"the exit code {code}"
        line |= {"status": "failed", "sentence": f"the process of the part ended with {how}"}
    return line


def _in_child(part: Part, device: str, rehearsal: bool, notes: Path, earlier: list[dict[str, Any]]) -> None:
    os.setsid()
    try:
        part.work(Bench(torch.device(device), rehearsal=rehearsal, notes=notes, earlier=earlier))
    except Exception as error:  # noqa: BLE001 - any failure becomes a line
        failure = {"failure": _sentence(error), "traceback": traceback.format_exc().splitlines()[-TRACEBACK_LINES:]}
        with notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(failure) + "\n")


def _sentence(error: Exception) -> str:
    """The error in one line; with its type, unless it is one of ours."""
    ours = getattr(error, "message", "")
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return ours or f"{type(error).__name__}: {first}"
