"""Records of runs: the request, the artifacts that were made or reused, and the end.

    v1/runs/<id>.json     written by the run only: when it starts, with every heartbeat, when it ends
    v1/pins/<id>          `nanochat runs --pin`: all that the run made stays

A run writes its record again every few seconds (`run_recording.py`). A record with the state `running` that has not
been written for `LOST_AFTER_S` is shown as *lost*: the process of the run has died. (A lease would be a second
object to write, and would not contain what the run uses.)

A record has no credential and no user name: logins and signatures are removed from URLs, and the path of the home
folder becomes `~`.
"""

import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, AwareDatetime, BaseModel, Field

from nanochat.errors import DamagedArtifact, NanochatError, NotFound, StoreUnreachable
from nanochat.store.object_names import ObjectName, ObjectPath
from nanochat.store.record_format import parse_record
from nanochat.store.store import Store

LOST_AFTER_S = 60.0
READS_AT_ONCE = 16
FOLDER, PINS = "v1/runs", "v1/pins"
REPAIR = "`nanochat verify --repair` moves it to the trash."
ID = re.compile(r"[\w-]+")

RunState = Literal["running", "completed", "failed", "cancelled", "lost"]


class StageRecord(BaseModel, frozen=True):
    """One call of a stage."""

    stage: ObjectName
    state: Literal["running", "reused", "computed", "failed", "stopped"]
    key: ObjectName | Literal[""] = ""
    """Key of the artifact, once there is one."""
    seconds: float = 0.0


class RunRecord(BaseModel, frozen=True):
    """One execution of a graph."""

    format: int = 1
    id: str
    """Time of the start (UTC) and six random letters: sorted, the newest is last."""
    profile: str
    config: dict[str, Any]
    """Canonical, as in the keys."""
    flow_run: str
    """Id of the flow run; empty without Prefect."""
    state: Literal["running", "completed", "failed", "cancelled"]
    error: str = ""
    """Message of the error that ended it."""
    started: AwareDatetime
    seconds: float
    """From the start to the end, or to the last heartbeat."""
    beat: int
    """Number of times that the record was written."""
    chat_score: Annotated[float | None, Field(validation_alias=AliasChoices("chat_score", "chatcore"))] = None
    """Mean centered accuracy of the chat model, if one was evaluated; earlier versions wrote it as `chatcore`."""
    stages: dict[str, StageRecord]
    """Label (`tokenize shard_00012`) → call, in the order of their start."""
    holds: list[ObjectPath]
    """While it runs: `stage/key` of everything that it may have found or may be making."""


@dataclass(frozen=True)
class RecordedRun:
    """A run in the store."""

    record: RunRecord
    modified_s: float
    """When the record was last written: seconds since 1970, by the store's clock."""
    pinned: bool

    @property
    def state(self) -> RunState:
        lost = self.record.state == "running" and time.time() - self.modified_s > LOST_AFTER_S
        return "lost" if lost else self.record.state

    @property
    def names(self) -> set[tuple[str, str]]:
        """Stage and key of every artifact that it made, reused, or used when it last wrote."""
        made = {(each.stage, each.key) for each in self.record.stages.values() if each.key}
        return made | {(stage, key) for stage, _, key in (name.partition("/") for name in self.record.holds)}


def survey(store: Store, limit: int = 0) -> tuple[list[RecordedRun], dict[str, NanochatError]]:
    """The newest runs, newest first (0: all); and the paths of unreadable records, each with its error."""
    modified_s = _list(store)
    chosen = sorted(modified_s, reverse=True)[: limit or None]
    unread: dict[str, NanochatError] = {}
    return _read_all(store, {run_id: modified_s[run_id] for run_id in chosen}, unread), unread


def everything(store: Store) -> list[RecordedRun]:
    """All runs, newest first, for a caller that deletes what no run needs.

    Raises unless each record, also that of each pin, could be read.
    """
    modified_s = _list(store)
    found = _read_all(store, modified_s)
    ids = {run.record.id for run in found}
    for run_id in sorted(modified_s.keys() - ids):
        raise StoreUnreachable(f"The record of the run {run_id} was listed and cannot be found.", hint="Try again.")
    for run_id in sorted(pins(store) - ids):
        raise DamagedArtifact(
            f"The run {run_id} is pinned, and has no record: what it needs is unknown.",
            hint=f"`nanochat runs --unpin {run_id}` removes the pin.",
        )
    return found


def alive(store: Store, written_since_s: float) -> list[RecordedRun]:
    """The runs in the state `running` whose record was written since then."""
    modified_s = {run_id: written_s for run_id, written_s in _list(store).items() if written_s >= written_since_s}
    return [run for run in _read_all(store, modified_s) if run.record.state == "running"]


def find(store: Store, name: str) -> RecordedRun:
    """The run with this id, or beginning or end of an id; raises `NotFound`."""
    modified_s = _list(store)
    matches = [each for each in modified_s if name and (each.startswith(name) or each.endswith(name))]
    found = [name] if name in modified_s else matches
    if len(found) == 1 and (read := _read_all(store, {found[0]: modified_s[found[0]]})):
        return read[0]
    if found:
        raise NotFound(f"`{name}` could be {', '.join(sorted(found)[:5])}.", hint="Write more of the id.")
    raise NotFound(f"There is no run `{name}` in {store.objects.root}.", hint="`nanochat runs` lists them.")


def pins(store: Store) -> set[str]:
    """Ids of the pinned runs."""
    paths = (entry.path.removeprefix(f"{PINS}/") for entry in store.objects.list(PINS))
    return {name for name in paths if ID.fullmatch(name)}


def pin(store: Store, run_id: str) -> None:
    """Protects all that the run made from deletion, until it is unpinned."""
    store.objects.create(f"{PINS}/{run_id}", b"")


def unpin(store: Store, run_id: str) -> None:
    store.objects.delete([f"{PINS}/{run_id}"])


def read(store: Store, run_id: str) -> RunRecord | None:
    """The current record of a run."""
    path = record_path(run_id)
    try:
        record = parse_record(RunRecord, store.objects.read(path), path, "a run's record", hint=REPAIR)
    except FileNotFoundError:
        return None
    if record.id != run_id:  # a copy of a file
        raise DamagedArtifact(f"`{path}` is the record of the run {record.id}.", hint=REPAIR)
    return record


def record_path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.json"


def _list(store: Store) -> dict[str, float]:
    """Id of each run with a record → when that was last written. Ignores files with other names."""
    found: dict[str, float] = {}
    for entry in store.objects.list(FOLDER):
        name = entry.path.removeprefix(f"{FOLDER}/")
        if name.endswith(".json") and ID.fullmatch(name.removesuffix(".json")):
            found[name.removesuffix(".json")] = entry.modified_s
    return found


def _read_all(
    store: Store, modified_s: Mapping[str, float], unread: dict[str, NanochatError] | None = None
) -> list[RecordedRun]:
    """The runs with these ids. Raises at an unreadable record, or adds it to `unread`."""

    def one(run_id: str) -> RunRecord | None:
        try:
            return read(store, run_id)
        except NanochatError as error:
            if unread is None or error.transient:
                raise
            unread[record_path(run_id)] = error
            return None

    pinned, ids = pins(store), sorted(modified_s, reverse=True)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        records = list(pool.map(one, ids))
    found = zip(ids, records, strict=True)
    return [RecordedRun(record, modified_s[run_id], run_id in pinned) for run_id, record in found if record]
