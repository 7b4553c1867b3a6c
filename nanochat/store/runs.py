"""Records of runs: what was asked for, which artifacts it made or reused, how it ended.

    v1/runs/<id>.json     written by its run alone: when it starts, with every beat of its heart, when it ends
    v1/pins/<id>          a person wants all that the run made to stay

A run beats every `BEAT_S` seconds: it writes its record again, with what it has learnt and a count. A record that says
`running` and has not been written for `LOST_AFTER_S` is of a run whose process died; it is shown as *lost*. (A lease
would be a second object to write, and would not tell what the run has in its hands.)

`holds` is why a record can be trusted by `retention.py`: a run's store notes what it is about to ask for *before* it
asks, and each beat writes down all that was noted. So whatever a run found before a moment stands in the second record
that is written after that moment; see there.

A record carries no credential, and no name of a user: logins and signatures in addresses are cut out, and the path of
the home folder becomes `~`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nanochat.errors import DamagedArtifact, NanochatError, NotFound, StoreUnreachable
from nanochat.events import Event
from nanochat.store.object_names import ObjectName, ObjectPath
from nanochat.store.record_format import parse_record
from nanochat.store.store import Store

BEAT_S = 5.0
LOST_AFTER_S = 60.0
READS_AT_ONCE = 16
END_PAUSES_S = (0.5, 1.0, 2.0, 0.0)
"""Between tries to record the end of a run: without it the run looks lost, and what it holds is kept for hours."""
FOLDER, PINS = "v1/runs", "v1/pins"
REPAIR = "`nanochat verify --repair` moves it to the trash."
ID = re.compile(r"[\w-]+")
LOGIN = re.compile(r"(?<=://)[^/\s@]*@")
SIGNATURE = re.compile(r"(?i)((?:token|signature|sig|credential|secret|password|api_?key)=)[^&\s`]*")

LOG = logging.getLogger(__name__)

State = Literal["running", "completed", "failed", "cancelled", "lost"]
STATES: Mapping[str, Literal["running", "computed", "failed"]] = {
    "started": "running", "finished": "computed", "failed": "failed",
}  # fmt: skip
"""Kind of an event → state of the node from then on."""


class StageRecord(BaseModel):
    """One call of a stage."""

    model_config = ConfigDict(frozen=True)

    stage: ObjectName
    state: Literal["running", "reused", "computed", "failed", "stopped"]
    key: ObjectName | Literal[""] = ""
    """Of the artifact, once there is one."""
    seconds: float = 0.0


class RunRecord(BaseModel):
    """What is known of a run."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    id: str
    """Time of the start (UTC) and six random letters: sorted, the newest is last."""
    profile: str
    config: dict[str, Any]
    """Canonical, as the keys see it."""
    flow_run: str
    """Id of the flow run; empty without Prefect."""
    state: Literal["running", "completed", "failed", "cancelled"]
    error: str = ""
    """The sentence that ended it."""
    started: AwareDatetime
    seconds: float
    """From the start to the end, or to the last beat."""
    beat: int
    chatcore: float | None = None
    """Score of the chat model, when one was examined."""
    stages: dict[str, StageRecord]
    """Label (`tokenize shard_00012`) → how it went, in the order in which they began."""
    holds: list[ObjectPath]
    """While it runs: `stage/key` of everything it may have found, or be making."""


@dataclass(frozen=True)
class Run:
    """A record as it lies in the store."""

    record: RunRecord
    modified_s: float
    """When it was last written: seconds since 1970, by the store's clock."""
    pinned: bool

    @property
    def state(self) -> State:
        lost = self.record.state == "running" and time.time() - self.modified_s > LOST_AFTER_S
        return "lost" if lost else self.record.state

    @property
    def names(self) -> set[tuple[str, str]]:
        """Stage and key of every artifact that it made, reused, or held when it last wrote."""
        made = {(each.stage, each.key) for each in self.record.stages.values() if each.key}
        return made | {(stage, key) for stage, _, key in (name.partition("/") for name in self.record.holds)}


# --- writing ----------------------------------------------------------------------------------------------------------


class Recording:
    """A sink that records a run. Threads may share it."""

    def __init__(self, store: Store, profile: str, config: Mapping[str, Any], flow_run: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._stages: dict[str, StageRecord] = {}
        started = datetime.now(UTC)
        self.record = RunRecord(
            id=f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", profile=profile, config=_clean(config),
            flow_run=flow_run, state="running", started=started, seconds=0.0, beat=0, stages={}, holds=[],
        )  # fmt: skip

    def __call__(self, event: Event) -> None:
        """Keeps the state of each node."""
        if event.kind not in STATES:
            return
        state = "reused" if event.cached else STATES[event.kind]
        with self._lock:
            self._stages[event.label] = StageRecord(
                stage=event.stage, state=state, key=event.key, seconds=round(event.seconds, 3)
            )
            if isinstance(score := event.metrics.get("chatcore"), int | float):
                self.record = self.record.model_copy(update={"chatcore": score})

    def write(self, **changes: Any) -> None:
        """Writes all that is known; raises a `StoreError`."""
        with self._lock:
            requested = self._store.requested.copy()
            holds = [] if "state" in changes else sorted(f"{stage}/{key}" for stage, key in requested)
            self.record = self.record.model_copy(
                update={
                    "beat": self.record.beat + 1,
                    "seconds": round(time.monotonic() - self._began, 3),
                    "stages": dict(self._stages),
                    "holds": holds,
                    **changes,
                }
            )
            data = self.record.model_dump_json().encode()
        self._store.objects.write(f"{FOLDER}/{self.record.id}.json", data)

    def end(self, state: State, error: str = "") -> None:
        """Records the end; what still ran was stopped.

        A store that fails does not fail the run: after some tries the record stays as it was, the run will look lost,
        and a warning is logged.
        """
        with self._lock:
            for label, each in self._stages.items():
                if each.state == "running":
                    self._stages[label] = each.model_copy(update={"state": "stopped"})
        for pause_s in END_PAUSES_S:
            try:
                self.write(state=state, error=_clean(error))
            except (NanochatError, OSError) as failed:
                if pause_s and getattr(failed, "transient", False):
                    time.sleep(pause_s)
                    continue
                LOG.warning("The run %s is %s, but that could not be recorded: %s", self.record.id, state, failed)
            return


@contextlib.contextmanager
def recording(
    store: Store,
    profile: str,
    config: Mapping[str, Any],
    *,
    flow_run: str = "",
    stopped_by: tuple[type[BaseException], ...] = (),
) -> Iterator[Recording]:
    """Records a run from its start, before it asks the store for anything, to its end.

    `stopped_by` are errors that say that a person stopped it, as Ctrl-C does. A process that is killed looks lost.
    """
    kept = Recording(store, profile, config, flow_run)
    try:
        kept.write()
    except NanochatError as error:
        with contextlib.suppress(NanochatError):  # it may be written, and only the answer lost
            kept.write(state="failed", error=_clean(str(error)))
        raise
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            with contextlib.suppress(NanochatError, OSError):  # the store is away or full: the next beat may do
                kept.write()

    heart = threading.Thread(target=beat, name=f"run-{kept.record.id}", daemon=True)
    heart.start()
    state, said = "completed", ""
    try:
        yield kept
    except BaseException as error:
        cancelled = isinstance(error, stopped_by) or not isinstance(error, Exception)
        state = "cancelled" if cancelled else "failed"
        said = str(error) if isinstance(error, NanochatError) else "" if cancelled else f"It broke: {error!r}."
        raise
    finally:
        done.set()
        heart.join()
        kept.end(state, said)


def _clean(value: Any) -> Any:
    """Without logins, signatures and the name of the home folder."""
    if isinstance(value, str):
        shown = SIGNATURE.sub(r"\1…", LOGIN.sub("", value))
        home = str(Path.home())
        return shown.replace(home, "~") if len(home) > 1 else shown
    if isinstance(value, Mapping):
        return {name: _clean(each) for name, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value


# --- reading ----------------------------------------------------------------------------------------------------------


def newest(store: Store, limit: int = 0) -> list[Run]:
    """The newest runs, newest first; 0: all. Raises `DamagedArtifact` at what is no record."""
    found, unread = survey(store, limit)
    for error in unread.values():
        raise error
    return found


def survey(store: Store, limit: int = 0) -> tuple[list[Run], dict[str, NanochatError]]:
    """The newest runs, newest first; and the paths of records that cannot be read, each with its error."""
    entries = _listed(store)
    chosen = sorted(entries, reverse=True)[: limit or None]
    unread: dict[str, NanochatError] = {}
    return _read(store, {run_id: entries[run_id] for run_id in chosen}, unread), unread


def everything(store: Store) -> list[Run]:
    """All runs, newest first, for a caller that deletes what no run needs.

    Raises unless each record, also that of each pin, could be read.
    """
    entries = _listed(store)
    found = _read(store, entries)
    there = {run.record.id for run in found}
    for run_id in sorted(entries.keys() - there):
        raise StoreUnreachable(f"The record of the run {run_id} was listed, and is not there.", hint="Try again.")
    for run_id in sorted(pins(store) - there):
        raise DamagedArtifact(
            f"The run {run_id} is pinned, and has no record: what it needs is unknown.",
            hint=f"`nanochat runs --unpin {run_id}` gives it up.",
        )
    return found


def alive(store: Store, written_since_s: float) -> list[Run]:
    """The runs that say that they run, and were written since a moment."""
    entries = {run_id: modified_s for run_id, modified_s in _listed(store).items() if modified_s >= written_since_s}
    return [run for run in _read(store, entries) if run.record.state == "running"]


def find(store: Store, name: str) -> Run:
    """The run that an id, its beginning or its end names; raises `NotFound`."""
    entries = _listed(store)
    found = [name] if name in entries else [e for e in entries if name and (e.startswith(name) or e.endswith(name))]
    if len(found) == 1 and (read := _read(store, {found[0]: entries[found[0]]})):
        return read[0]
    if found:
        raise NotFound(f"`{name}` could be {', '.join(sorted(found)[:5])}.", hint="Write more of the id.")
    raise NotFound(f"There is no run `{name}` in {store.objects.root}.", hint="`nanochat runs` lists them.")


def pins(store: Store) -> set[str]:
    """Ids of the pinned runs."""
    paths = (entry.path.removeprefix(f"{PINS}/") for entry in store.objects.list(PINS))
    return {name for name in paths if ID.fullmatch(name)}


def pin(store: Store, run_id: str) -> None:
    """Whatever the run made stays, until it is unpinned."""
    store.objects.create(f"{PINS}/{run_id}", b"")


def unpin(store: Store, run_id: str) -> None:
    store.objects.delete([f"{PINS}/{run_id}"])


def read(store: Store, run_id: str) -> RunRecord | None:
    """The record as it stands."""
    path = f"{FOLDER}/{run_id}.json"
    try:
        record = parse_record(RunRecord, store.objects.read(path), path, "a run's record", hint=REPAIR)
    except FileNotFoundError:
        return None
    if record.id != run_id:  # a copy of a file
        raise DamagedArtifact(f"`{path}` is the record of the run {record.id}.", hint=REPAIR)
    return record


def _listed(store: Store) -> dict[str, float]:
    """Id of each run that has a record → when it was last written. Files with other names are not ours."""
    found: dict[str, float] = {}
    for entry in store.objects.list(FOLDER):
        name = entry.path.removeprefix(f"{FOLDER}/")
        if name.endswith(".json") and ID.fullmatch(name.removesuffix(".json")):
            found[name.removesuffix(".json")] = entry.modified_s
    return found


def _read(store: Store, modified_s: Mapping[str, float], unread: dict[str, NanochatError] | None = None) -> list[Run]:
    """The runs of these ids. What cannot be read raises, or is noted in `unread`."""

    def one(run_id: str) -> RunRecord | None:
        try:
            return read(store, run_id)
        except NanochatError as error:
            if unread is None or error.transient:
                raise
            unread[f"{FOLDER}/{run_id}.json"] = error
            return None

    pinned, ids = pins(store), sorted(modified_s, reverse=True)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        records = list(pool.map(one, ids))
    found = zip(ids, records, strict=True)
    return [Run(record, modified_s[run_id], run_id in pinned) for run_id, record in found if record]
