"""What a store must be able to do: checked when it is opened, and in full by `nanochat store check`.

Some servers accept the condition of a write and ignore it, or check it before another request writes; some do not list
what they have. Each check has its own objects, `v1/probe/<id>-<name>`, which are deleted at the end.
"""

import contextlib
import functools
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from nanochat.errors import NanochatError, StoreError
from nanochat.store.backend import Backend

FOLDER = "v1/probe"
CREATORS, CREATORS_AT_OPENING = 6, 2
"""Simultaneous writes of one object. SeaweedFS lets each loser wait for a second: an opening has few. A client has ten
connections."""
SWAPPERS, SWAPS_EACH, MAX_SWAP_TRIES = 4, 3, 200
SAMPLE = b"0123456789"
LARGE_BYTES, PART_BYTES = 11 << 20, 5 << 20
"""An upload in three parts; S3 accepts no smaller ones."""
MAX_CLOCK_DIFFERENCE_S = 600.0
WORST_NAME = "a b+c%20&d=ü#?'~.txt"


class Trial:
    """The objects of one round of checks."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._prefix = f"{FOLDER}/{uuid.uuid4().hex}-"
        self._paths: dict[str, None] = {}

    def path(self, name: str) -> str:
        """The path for an object, which is deleted at the end."""
        self._paths[self._prefix + name] = None
        return self._prefix + name

    def listed(self, *, page_keys: int = 1000) -> dict[str, int]:
        """The size of each object of these checks that the store lists."""
        entries = self.backend.list(FOLDER, everything=True, page_keys=page_keys)
        return {entry.path: entry.size for entry in entries if entry.path.startswith(self._prefix)}

    def delete(self) -> None:
        def delete(path: str) -> None:
            with contextlib.suppress(NanochatError):
                self.backend.delete(path)

        with ThreadPoolExecutor(CREATORS) as pool:
            list(pool.map(delete, self._paths))


@dataclass(frozen=True)
class Requirement:
    """Something that a store must be able to do."""

    name: str
    why: str
    """What would happen without it: a sentence."""
    find_problem: Callable[[Trial], str]
    """Returns what the store does wrong, as the predicate of a sentence; empty: nothing."""


@dataclass(frozen=True)
class Result:
    """The outcome of a check."""

    requirement: Requirement
    problem: str
    """Empty: the store meets the requirement."""
    seconds: float


def require(backend: Backend) -> None:
    """Raises `StoreError` at the first problem of those that can be found in a second.

    In a folder, fewer: there, one system call creates a file, and reads a part of it.
    """
    for result in check(backend, AT_OPENING if backend.local_path("") is None else AT_OPENING_OF_FOLDER):
        if result.problem:
            raise StoreError(
                f"The store {backend.root} {result.problem}.",
                hint=f"{result.requirement.why} `nanochat store check` lists all that it lacks.",
            )


def check(
    backend: Backend, requirements: Sequence[Requirement], *, errors_are_problems: bool = False
) -> Iterator[Result]:
    """Checks one requirement after the other.

    Raises the errors of the store; with `errors_are_problems` only if the store is away from the start.
    """
    trial = Trial(backend)
    try:
        for number, requirement in enumerate(requirements):
            began = time.monotonic()
            try:
                problem = requirement.find_problem(trial)
            except FileNotFoundError:
                problem = "reports an object as missing that was just written"
            except NanochatError as error:
                if not errors_are_problems or (error.transient and number == 0):
                    raise
                problem = f"fails: {error.message.rstrip('.')}"
            yield Result(requirement, problem, time.monotonic() - began)
    finally:
        trial.delete()


# --- at the opening ---------------------------------------------------------------------------------------------------


def _create_only(trial: Trial) -> str:
    backend, path = trial.backend, trial.path("create")
    created = backend.create(path, b"first")
    if backend.create(path, b"second"):
        return "ignores create-only writes (`If-None-Match: *`)"
    if not created and backend.read(path) != b"first":  # otherwise only the response was lost
        return "refuses to create an object that does not exist (`If-None-Match: *`)"
    return ""


def _swap(trial: Trial) -> str:
    path = trial.path("swap")
    trial.backend.write(path, b"old")
    return trial.backend.check_swap(path)


def _race_of_creates(trial: Trial, creators: int = CREATORS) -> str:
    path, together = trial.path("race"), threading.Barrier(creators)

    def create(number: int) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(5)
        return trial.backend.create(path, b"%d" % number)

    with ThreadPoolExecutor(creators) as pool:
        created = list(pool.map(create, range(creators)))
    winners = [number for number in range(creators) if created[number]]
    if len(winners) > 1:
        return f"lets {len(winners)} of {creators} simultaneous create-only writes of one object succeed"
    content = trial.backend.read(path)
    if winners and content != b"%d" % winners[0]:
        return "overwrites an object after a create-only write of it succeeded"
    return ""


def _listing(trial: Trial) -> str:
    path = trial.path("sample")
    trial.backend.write(path, SAMPLE)
    listed = trial.listed().get(path)
    if listed is None:
        return "does not list an object that was just written"
    return "" if listed == len(SAMPLE) else "lists an object with a wrong size"


def _ranges(trial: Trial) -> str:
    path = trial.path("sample")
    trial.backend.write(path, SAMPLE)
    part = trial.backend.read_range(path, 3, 4)
    return "" if part == SAMPLE[3:7] else "ignores ranges of bytes (`Range`)"


# --- in full ----------------------------------------------------------------------------------------------------------


def _pages(trial: Trial) -> str:
    paths = {trial.path(f"page-{number}") for number in range(3)}
    for path in paths:
        trial.backend.write(path, b"")
    missing = paths - trial.listed(page_keys=1).keys()
    return f"omits {len(missing)} of {len(paths)} objects from a listing in pages" if missing else ""


def _race_of_swaps(trial: Trial) -> str:
    path = trial.path("count")
    trial.backend.write(path, b"0")

    def add(_: int) -> int:
        done = 0
        for _ in range(MAX_SWAP_TRIES):
            before = trial.backend.read(path)
            done += trial.backend.swap(path, b"%d" % (int(before) + 1), before)
            if done == SWAPS_EACH:
                break
        return done

    with ThreadPoolExecutor(SWAPPERS) as pool:
        done = sum(pool.map(add, range(SWAPPERS)))
    count = int(trial.backend.read(path))
    return f"loses {done - count} of {done} simultaneous swaps" if count < done else ""


def _absence(trial: Trial) -> str:
    path = trial.path("absent")
    with contextlib.suppress(FileNotFoundError):
        trial.backend.read(path)
        return "returns an object that was never written"
    if trial.backend.size(path) is not None or path in trial.listed():
        return "reports an object that was never written"
    trial.backend.delete(path)
    return "swaps an object that does not exist" if trial.backend.swap(path, b"new", b"old") else ""


def _deletion(trial: Trial) -> str:
    path = trial.path("deleted")
    trial.backend.write(path, b"")
    trial.backend.delete(path)
    left = trial.backend.size(path) is not None or path in trial.listed()
    return "still has an object that was deleted" if left else ""


def _empty(trial: Trial) -> str:
    path = trial.path("empty")
    trial.backend.write(path, b"")
    return "" if trial.backend.read(path) == b"" and trial.backend.size(path) == 0 else "changes an empty object"


def _names(trial: Trial) -> str:
    path = trial.path(WORST_NAME)
    trial.backend.write(path, SAMPLE)
    if trial.backend.read(path) != SAMPLE or path not in trial.listed():
        return f"changes names with spaces, signs or letters beyond ASCII (`{WORST_NAME}`)"
    return ""


def _moves(trial: Trial) -> str:
    path, to = trial.path("from"), trial.path("to")
    trial.backend.write(path, SAMPLE)
    moved = trial.backend.move(path, to) and trial.backend.size(path) is None and trial.backend.read(to) == SAMPLE
    return "" if moved else "does not copy objects correctly"


def _large(trial: Trial) -> str:
    path = trial.path("large")
    with tempfile.TemporaryDirectory() as folder:
        there, back = Path(folder) / "there", Path(folder) / "back"
        there.write_bytes(os.urandom(LARGE_BYTES))
        trial.backend.upload(there, path, share=False, part_bytes=PART_BYTES)
        trial.backend.download(path, back)
        return "" if back.read_bytes() == there.read_bytes() else "damages an upload in parts"


def _clock(trial: Trial) -> str:
    path = trial.path("clock")
    trial.backend.write(path, b"")
    now_s = time.time()
    for entry in trial.backend.list(FOLDER, everything=True):
        difference_s = abs(entry.modified_s - now_s)
        if entry.path == path and difference_s > MAX_CLOCK_DIFFERENCE_S:
            return f"has a clock that differs by {difference_s:.0f} s from this machine's"
    return ""


OVERWRITE = "Without it, two runs could overwrite each other: use another server."
CREATE_ONLY = Requirement("create-only writes", OVERWRITE, _create_only)
SWAPS = Requirement("swaps", OVERWRITE, _swap)
RACE = Requirement("one winner of simultaneous creates", OVERWRITE, _race_of_creates)
SMALL_RACE = replace(RACE, find_problem=functools.partial(_race_of_creates, creators=CREATORS_AT_OPENING))
LISTING = Requirement("listing after writing", "Without it, results are not found: use another server.", _listing)
RANGES = Requirement("ranges", "Large files are downloaded in parts: use another server.", _ranges)
AT_OPENING = (CREATE_ONLY, SWAPS, SMALL_RACE, LISTING, RANGES)
AT_OPENING_OF_FOLDER = (CREATE_ONLY, SWAPS, LISTING)
EVERYTHING = (
    CREATE_ONLY,
    SWAPS,
    RACE,
    LISTING,
    RANGES,
    Requirement("no lost swap", OVERWRITE, _race_of_swaps),
    Requirement("listings in pages", "Large stores are listed in pages of 1,000.", _pages),
    Requirement("absence", "What is absent must be reported so, or results are computed twice.", _absence),
    Requirement("deletion", "`nanochat gc` and checkpoints delete objects.", _deletion),
    Requirement("empty objects", "Artifacts may contain empty files.", _empty),
    Requirement("any names", "Artifacts may contain files of any name.", _names),
    Requirement("copies", "`nanochat gc` moves objects to the trash.", _moves),
    Requirement("uploads in parts", "Files over 100 MiB are uploaded in parts.", _large),
    Requirement("clock", "`nanochat gc` compares the store's times with this machine's clock.", _clock),
)
