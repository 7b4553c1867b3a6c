"""Runs an action with a fault at each of its calls, and looks at what it left.

An action is run once to learn its calls and what it should leave. Then, for a call and a fault, from the same store as
before: once more with the fault, and again without. What must hold:

- objects that were there are there, as they were, unless the action is meant to change them;
- each manifest is of an artifact that an undisturbed run has, and its payload is whole; aliases, pins and checkpoints
  likewise;
- the action succeeded, and printed and left what it should; or raised a `NanochatError`, transient as the fault is;
- without the fault it then succeeds, does not wait for longer than a lease lasts, and leaves what it should.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from nanochat.errors import NanochatError, NoSpace
from nanochat.store.manifest import Manifest

Objects = Mapping[str, bytes]
"""Path in the store → bytes."""
LEASE_S = 25.0
"""A lease lasts 20 s; who waits for it looks every half second."""
ENDLESS_S = 3600.0
TEMPORARY = re.compile(r"(^|/)\.[^/]*\.part$|(^|/)\.swap\.lock$")
KNOWN = re.compile(
    r"v1/(artifacts/[^/]+/[^/]+/([^/]+/.+|manifest\.json)|aliases/.+\.json|runs/[^/]+\.json|pins/[^/]+|leases/[^/]+\.json"
    r"|checkpoints/[^/]+/.+|sources/[^/]+\.json|probe/[^/]+|trash/.+)"
)


class Fault(Protocol):
    """A way in which a call can fail."""

    @property
    def name(self) -> str: ...
    @property
    def calls(self) -> frozenset[str]: ...
    @property
    def transient(self) -> bool | None: ...
    @property
    def honest(self) -> bool: ...


class Call(Protocol):
    """A call that may fail."""

    @property
    def number(self) -> int: ...
    @property
    def kind(self) -> str: ...


class Backend(Protocol):
    """Where the faults are, and the store that they may hurt."""

    @property
    def faults(self) -> tuple[Any, ...]: ...
    @property
    def url(self) -> str: ...
    @property
    def home(self) -> Path: ...
    def watched(self, choose: Callable[[Any], Any]) -> AbstractContextManager[list[Any]]: ...
    def objects(self) -> dict[str, bytes]: ...
    def reset(self, to: Objects) -> None: ...


@dataclass(frozen=True)
class Action:
    """Something that is done with a store."""

    name: str
    do: Callable[[Any], str]
    """Does it, with what `prepare` gave; returns what a user sees of it."""
    prepare: Callable[[], Any] = lambda: None
    """What is done before, without faults."""
    reads: bool = False
    """It changes nothing, and prints the same each time."""
    after: Callable[[Any], str] = lambda given: ""
    """What a success must have left outside the store, as text."""
    done_already: type[NanochatError] | None = None
    """The error that reports that there is nothing left to do."""
    may_leave_more: bool = False
    """What it could not remove may be left: the next one removes it."""
    deletes: bool = False
    """It takes things out; a listing or read that lies may mislead it."""
    trash: bool = False
    """What it takes out is in the trash."""


class Printed(NanochatError):
    """What a command printed as its error before it ended with 1; whether it was transient is not known."""


class Endless(BaseException):
    """An action waits, or repeats a request, without end."""


class Clock:
    """Stands for the module `time` in our modules: sleeps take no time, and are counted."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        if self.slept_s > ENDLESS_S:
            raise Endless(f"it slept for {self.slept_s:.0f} s")
        time.sleep(0)

    def monotonic(self) -> float:
        return time.monotonic() + self.slept_s


@contextmanager
def quick() -> Iterator[Clock]:
    """Neither our modules nor the S3 client sleep."""
    clock, asleep = Clock(), asyncio.sleep

    async def sleep(delay: float, result: Any = None) -> Any:
        return await asleep(0, result)

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("nanochat.") and getattr(module, "time", None) is time:
                stack.enter_context(patch.object(module, "time", clock))
        stack.enter_context(patch.object(asyncio, "sleep", sleep))
        yield clock


@dataclass
class Outcome:
    """How an action ended."""

    output: str = ""
    error: NanochatError | None = None
    broke: str = ""
    """Where it ended with another error: its last lines."""
    slept_s: float = 0.0


@dataclass
class Found:
    """What a drill found."""

    calls: int = 0
    tried: int = 0
    met: int = 0
    """Runs in which the fault did meet a call."""
    refused: int = 0
    """Runs that ended with a sentence."""
    violations: list[str] = field(default_factory=list)

    def report(self) -> str:
        shown = "\n\n".join(self.violations[:10])
        return f"{len(self.violations)} violations in {self.tried} faults at {self.calls} calls:\n{shown}"


@dataclass(frozen=True)
class Trial:
    """One fault at one call, once or from there on."""

    call: int
    fault: Any
    lasts: bool

    def __call__(self, call: Call) -> Any:
        return self.fault if call.number == self.call or (self.lasts and call.number > self.call) else None

    def __str__(self) -> str:
        return f"{self.fault.name} at call {self.call}{' and all that follow' if self.lasts else ''}"


def drill(action: Action, backend: Backend, before: Objects, *, at_most: int = 0) -> Found:
    """All faults at all calls; with `at_most`, so many of them, evenly spread over the calls."""
    found = Found()
    with quick() as clock:
        clean(backend, before)
        given = action.prepare()
        with backend.watched(lambda call: None) as calls:
            usual = _run(action, given, clock)
        assert not usual.error, usual.error
        assert not usual.broke, usual.broke
        calls, after = list(calls), backend.objects()
        wanted, left = summary(after), action.after(given)
        found.calls = len(calls)
        for trial in _chosen(trials(calls, backend.faults), at_most):
            clean(backend, before)
            given = action.prepare()
            met: list[Call] = []

            def choose(call: Call, trial: Trial = trial, met: list[Call] = met) -> Any:
                if call.number > 50 * len(calls) + 2000:
                    raise Endless(f"it made {call.number} calls")
                fault = trial(call)
                if fault and call.kind in fault.calls:
                    met.append(call)
                return fault

            with backend.watched(choose):
                outcome = _run(action, given, clock)
            found.tried += 1
            found.met += bool(met)
            found.refused += outcome.error is not None
            there = backend.objects()
            wrong = [
                *_outcome(action, trial, outcome, usual, left, given, met),
                *_losses(action, trial, before, after, there),
                *_wrongs(before, after, there),
            ]
            again = _run(action, action.prepare(), clock)
            if action.done_already and isinstance(again.error, action.done_already):
                again.error = None
            if again.error or again.broke:
                wrong.append(f"afterwards it does not work: {again.broke or again.error}")
            elif again.slept_s > LEASE_S:
                wrong.append(f"afterwards it waits for {again.slept_s:.0f} s")
            elif not (action.deletes and not trial.fault.honest):
                wrong += _differences(action, wanted, summary(backend.objects()))
            if wrong:
                where = f"{action.name}: {trial} ({', '.join(str(call) for call in met[:2]) or 'met nothing'})"
                found.violations.append("\n  ".join([where, *wrong]))
    clean(backend, before)
    return found


def clean(backend: Backend, before: Objects) -> None:
    """Everything as it was."""
    backend.reset(before)
    shutil.rmtree(backend.home, ignore_errors=True)
    backend.home.mkdir(parents=True)


def trials(calls: list[Any], faults: tuple[Any, ...]) -> list[Trial]:
    """Every fault that each call can meet, once and for good."""
    return [
        Trial(call.number, fault, lasts)
        for call in calls
        for fault in faults
        if call.kind in fault.calls
        for lasts in (False, True)
    ]


def _chosen(every: list[Trial], at_most: int) -> list[Trial]:
    if not at_most or len(every) <= at_most:
        return every
    generator, width = random.Random(at_most), len(every) / at_most  # one of each part of the whole: none is left out
    return [every[int((position + generator.random()) * width)] for position in range(at_most)]


def _run(action: Action, given: Any, clock: Clock) -> Outcome:
    clock.slept_s = 0.0
    outcome = Outcome()
    try:
        outcome.output = action.do(given)
    except NanochatError as error:
        outcome.error = error
    except (Exception, SystemExit, Endless) as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(each.filename).name}:{each.lineno}" for each in last if "/nanochat/" in each.filename]
        outcome.broke = f"{type(error).__name__}: {error} (at {' '.join(ours[-4:])})"
    outcome.slept_s = clock.slept_s
    alive = [each.name for each in threading.enumerate() if each.name.startswith(("lease-", "run-", "checkpoint"))]
    if alive:
        outcome.broke += f" threads are left: {alive}"
    return outcome


def _outcome(
    action: Action, trial: Trial, outcome: Outcome, usual: Outcome, left: str, given: Any, met: list[Call]
) -> list[str]:
    if outcome.broke:
        return [f"it ended with {outcome.broke}"]
    error = outcome.error
    if error is None:
        if not trial.fault.honest:
            return []
        if action.reads and outcome.output != usual.output:
            return [f"it succeeded, and printed something else:\n{outcome.output}\n  instead of\n{usual.output}"]
        if action.after(given) != left:
            return ["it succeeded, and left something else"]
        return []
    wrong = []
    sentence = error.message
    if not sentence or "\n" in sentence or "Traceback" in sentence or not sentence.rstrip().endswith((".", "?", "!")):
        wrong.append(f"it did not end with a sentence: {sentence!r}")
    known = trial.fault.transient
    reported = known is not None and not isinstance(error, NoSpace | Printed)
    if trial.lasts and met and reported and error.transient != known:
        wrong.append(f"its error is {'transient' if error.transient else 'permanent'}: {type(error).__name__} {error}")
    return wrong


# --- the store --------------------------------------------------------------------------------------------------------


def manifests(there: Objects) -> dict[tuple[str, str], Manifest]:
    """By stage and key."""
    found = {}
    for path, data in there.items():
        parts = path.split("/")
        if parts[1] == "artifacts" and parts[-1] == "manifest.json" and len(parts) == 5:
            manifest = Manifest.model_validate_json(data)
            assert (manifest.stage, manifest.key) == (parts[2], parts[3])
            found[manifest.stage, manifest.key] = manifest
    return found


def summary(there: Objects) -> dict[str, Any]:
    """What a store means, without times and random names. Leases pass by themselves: waiting for them is counted."""
    there = {path: data for path, data in there.items() if not TEMPORARY.search(path)}
    small = {path: data.decode() for path, data in there.items() if path.startswith(("v1/aliases/", "v1/sources/"))}
    published = manifests(there)
    keys = {key for _, key in published}  # of these, checkpoints may be left: `gc` finds them
    saved = {
        path.rpartition("/")[0].rpartition("-")[0]
        for path in there
        if re.match("v1/checkpoints/.*/manifest", path) and path.split("/")[2] not in keys
    }
    states = [json.loads(data)["state"] for path, data in there.items() if path.startswith("v1/runs/")]
    return {
        **{f"{stage}/{key[:8]}": each.digest for (stage, key), each in published.items()},
        **small,
        **{path: "" for path in there if path.startswith("v1/pins/")},
        **{path: "" for path in saved},
        "completed": states.count("completed") > 0,
    }


def _differences(action: Action, wanted: dict[str, Any], now: dict[str, Any]) -> list[str]:
    missing = [name for name in wanted if name not in now]
    extra = [name for name in now if name not in wanted and not action.may_leave_more]
    other = [name for name in wanted if name in now and wanted[name] != now[name]]
    if not missing + extra + other:
        return []
    return [f"afterwards it leaves something else: missing {missing}, too much {extra}, other {other}"]


def _losses(action: Action, trial: Trial, before: Objects, after: Objects, there: Objects) -> list[str]:
    """What was there and has gone or changed, though an undisturbed run leaves it, or keeps it in the trash."""
    trash = {path.partition("/objects/")[2]: data for path, data in there.items() if path.startswith("v1/trash/")}
    lost = []
    for path, data in before.items():
        meant = after.get(path) != data or (action.deletes and not trial.fault.honest)
        if there.get(path) == data or TEMPORARY.search(path) or path.startswith("v1/leases/"):
            continue
        if meant and not (action.trash and path.startswith(("v1/artifacts/", "v1/checkpoints/"))):
            continue
        if not meant or trash.get(path) != data:
            lost.append(path)
    return [f"lost: {', '.join(lost[:3])} ({len(lost)} in all)"] if lost else []


def _wrongs(before: Objects, after: Objects, there: Objects) -> list[str]:
    """What is there and should not be."""
    wrong: list[str] = []
    known = {**manifests(before), **manifests(after)}
    try:
        present = manifests(there)
    except Exception as error:
        return [f"a manifest is no manifest: {error!r}"]
    for name, manifest in present.items():
        usual = known.get(name)
        if usual is None or (usual.digest, usual.config, usual.inputs) != (
            manifest.digest, manifest.config, manifest.inputs,
        ):  # fmt: skip
            wrong.append(f"{name} is not what an undisturbed run makes")
        place = f"{manifest.folder}/{manifest.payload}"
        for file in manifest.files:
            data = there.get(f"{place}/{file.path}")
            if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
                if before.get(f"{place}/{file.path}", b"") == data:  # damaged from the start
                    continue
                wrong.append(f"{manifest.folder}: `{file.path}` is {'missing' if data is None else 'damaged'}")
    for path, data in there.items():
        if TEMPORARY.search(path):
            continue
        if not KNOWN.fullmatch(path):
            wrong.append(f"`{path}` belongs to no artifact")
        elif path.startswith("v1/aliases/"):
            if data not in (before.get(path), after.get(path)):
                wrong.append(f"`{path}` is {data!r}")
            elif (json.loads(data)["stage"], json.loads(data)["key"]) not in present:
                wrong.append(f"`{path}` points to what is not there")
        elif path.startswith(("v1/pins/", "v1/sources/")) and data not in (before.get(path), after.get(path)):
            wrong.append(f"`{path}` is {data!r}")
        elif path.startswith("v1/runs/"):
            json.loads(data)
        elif path.startswith("v1/checkpoints/") and path.endswith("/manifest.json"):
            folder = path.rpartition("/")[0]
            for file in json.loads(data)["files"]:
                saved = there.get(f"{folder}/{file['path']}")
                if saved is None or hashlib.sha256(saved).hexdigest() != file["sha256"]:
                    wrong.append(f"{folder}: `{file['path']}` is missing or damaged")
    return wrong
