"""What was deleted is kept for a while, and can be taken back.

v1/trash/<id>/record.json      what is deleted, when and by which command; written before anything is
v1/trash/<id>/objects/v1/…     the objects, under the paths that they had

An artifact goes in this order: a copy of its manifest into the trash, its manifest, its payload. So wherever a deletion
is stopped, each object is in its place or in the trash, and the record says what belongs together. One that was stopped
is completed by the next (`retention.py`), or taken back by `restore`, which goes in the opposite order: the payload,
then the manifest, create-only. Nothing outside this file and `retention.py` looks into the trash.

Whoever changes the trash holds the lease `trash`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nanochat.errors import DamagedArtifact, NotFound
from nanochat.store.lease import HeldLease, LeaseLost, lease
from nanochat.store.manifest import Manifest, as_manifest
from nanochat.store.object_names import ObjectName, ObjectPath
from nanochat.store.record_format import parse_record
from nanochat.store.store import Store

FOLDER, LEASE = "v1/trash", "trash"

What = Literal["artifact", "payload", "checkpoints", "record"]


class Part(BaseModel):
    """One thing that was deleted."""

    model_config = ConfigDict(frozen=True)

    what: What
    name: ObjectPath
    """`stage/key` of an artifact; else a path in the store."""
    why: str
    bytes: int
    paths: list[ObjectPath]
    """The objects, without an artifact's manifest."""

    @property
    def manifest_path(self) -> str:
        """Of an artifact; else empty."""
        return f"v1/artifacts/{self.name}/manifest.json" if self.what == "artifact" else ""


class Record(BaseModel):
    """One deletion."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    id: ObjectName
    """Time (UTC) and six random letters: sorted, the newest is last."""
    by: Literal["gc", "verify"]
    deleted: AwareDatetime
    state: Literal["deleting", "deleted", "restoring"]
    parts: list[Part]

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.id}"

    def place(self, path: str) -> str:
        """Where in the trash an object is."""
        return f"{self.folder}/objects/{path}"


@dataclass(frozen=True)
class Deletion:
    """A deletion as it is in the trash."""

    record: Record
    modified_s: float
    """When the record was last written, by the store's clock."""
    bytes: int


@dataclass(frozen=True)
class Restored:
    """What `restore` did."""

    id: str
    parts: tuple[Part, ...]
    problems: tuple[str, ...]
    """Why others stay in the trash, as sentences."""


@contextmanager
def locked(store: Store, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[HeldLease]:
    """Waits for the lease of the trash, and holds it."""
    with lease(store.objects, LEASE, on_wait=on_wait) as held:
        yield held


def deletions(store: Store) -> list[Deletion]:
    """What is in the trash, oldest first. Raises `DamagedArtifact` at a record that cannot be read."""
    sizes: dict[str, int] = {}
    records: dict[str, float] = {}
    for entry in store.objects.list(FOLDER, everything=True):
        match entry.path.split("/"):
            case [_, _, trash_id, "record.json"]:
                records[trash_id] = entry.modified_s
            case [_, _, trash_id, "objects", *_]:
                sizes[trash_id] = sizes.get(trash_id, 0) + entry.size
            case _:
                pass
    return [Deletion(_read(store, each), records[each], sizes.get(each, 0)) for each in sorted(records)]


def begin(store: Store, by: Literal["gc", "verify"], parts: Sequence[Part]) -> Record:
    """Writes down what will be deleted."""
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    record = Record(id=name, by=by, deleted=now, state="deleting", parts=list(parts))
    _write(store, record)
    return record


def finish(store: Store, record: Record, parts: Sequence[Part]) -> None:
    """Writes down what has been deleted in the end; nothing: the record goes too."""
    if parts:
        _write(store, record.model_copy(update={"state": "deleted", "parts": list(parts)}))
    else:
        empty(store, record)


def complete(store: Store, record: Record) -> None:
    """Writes down that a deletion that had been stopped is over, unless a payload of it is still in its place.

    What it did not reach, what was taken back and what was made again is its part no more.
    """
    held = {entry.path for entry in store.objects.list(f"{record.folder}/objects", everything=True)}
    parts: list[Part] = []
    for part in record.parts:
        if part.what == "artifact":
            if record.place(part.manifest_path) not in held or store.objects.size(part.manifest_path) is not None:
                continue
            if any(store.objects.size(path) is not None for path in part.paths):
                return
        if not part.paths or any(record.place(path) in held for path in part.paths):
            parts.append(part)
    finish(store, record, parts)


def keep_manifest(store: Store, record: Record, part: Part, data: bytes) -> None:
    """Copies an artifact's manifest into the trash, before it is removed."""
    store.objects.write(record.place(part.manifest_path), data)


def kept_manifest(store: Store, record: Record, part: Part) -> bytes | None:
    """The copy of an artifact's manifest."""
    try:
        return store.objects.read(record.place(part.manifest_path))
    except FileNotFoundError:
        return None


def move_in(store: Store, record: Record, part: Part) -> None:
    """Moves the objects of a part into the trash; of checkpoints the manifests first. What is gone is fine."""
    for path in sorted(part.paths, key=_manifests_first):
        store.objects.move(path, record.place(path))


def move_back(store: Store, record: Record, part: Part) -> None:
    """Moves the objects of a part back to their places; what is in its place stays as it is."""
    for path in sorted(part.paths, key=_manifests_first, reverse=True):
        if store.objects.size(path) is None:
            store.objects.move(record.place(path), path)


def take_out(
    store: Store,
    manifests: Sequence[Manifest],
    why: str,
    still: Callable[[Manifest], object] = lambda manifest: True,
    *,
    records: Sequence[str] = (),
    is_broken: Callable[[str], bool] = lambda path: True,
) -> Record | None:
    """Moves artifacts, and records that nobody can read, into the trash.

    An artifact that another attempt has replaced, or that is not `still` to go, stays; so does a record that is not
    broken any more.
    """
    with locked(store) as held:
        parts: list[Part] = []
        payloads = {manifest.payload for manifest in manifests}
        for manifest in manifests:
            current = store.read(*manifest.name)
            if current is None or current.payload != manifest.payload or not still(manifest):
                continue
            payload = f"{manifest.folder}/{manifest.payload}"
            files = {f"{payload}/{file.path}" for file in manifest.files}
            there = [entry for entry in store.objects.list(payload, everything=True) if entry.path in files]
            parts.append(
                Part(
                    what="artifact", name="/".join(manifest.name), why=why,
                    bytes=sum(entry.size for entry in there), paths=[entry.path for entry in there],
                )
            )  # fmt: skip
        for path in records:
            if is_broken(path):
                size = store.objects.size(path) or 0
                parts.append(Part(what="record", name=path, why="it cannot be read", bytes=size, paths=[path]))
        if not parts:
            return None
        record = begin(store, "verify", parts)
        out: list[Part] = []
        for part in parts:
            ensure_held(held)
            if part.what == "record":
                move_in(store, record, part)
                out.append(part)
                continue
            try:
                data = store.objects.read(part.manifest_path)
            except FileNotFoundError:  # removed since
                continue
            current = as_manifest(data, part.manifest_path)
            if current.payload not in payloads:  # made again since
                continue
            keep_manifest(store, record, part, data)
            store.objects.delete([part.manifest_path])
            move_in(store, record, part)
            out.append(part)
        finish(store, record, out)
    for manifest in manifests:
        store.payloads.forget(manifest)
    return record.model_copy(update={"parts": out}) if out else None


def restore(store: Store, trash_id: str = "") -> Restored:
    """Takes a deletion back: the newest, or the one of this id. Nothing that was made meanwhile is replaced.

    Raises `NotFound` when there is no such deletion.
    """
    with locked(store) as held:
        record = _find(store, trash_id)
        _write(store, record.model_copy(update={"state": "restoring"}))
        restored: list[Part] = []
        left: list[Part] = []
        problems: list[str] = []
        for part in record.parts:
            ensure_held(held)
            problem = (_restore_artifact if part.what == "artifact" else _restore_files)(store, record, part)
            if problem:
                problems.append(problem)
                left.append(part)
            else:
                restored.append(part)
        finish(store, record, left)
        return Restored(record.id, tuple(restored), tuple(problems))


def empty(store: Store, record: Record) -> None:
    """Deletes what one deletion keeps, for good; the record last."""
    listed = [entry.path for entry in store.objects.list(f"{record.folder}/objects")]
    for part in record.parts:
        listed += [record.place(path) for path in (*part.paths, part.manifest_path) if path]
    store.objects.delete(dict.fromkeys(listed))
    store.objects.delete([f"{record.folder}/record.json"])


def ensure_held(held: HeldLease) -> None:
    """Raises `LeaseLost` when another process works in the trash by now."""
    if not held.holds():
        raise LeaseLost("Another process took over, because this one was silent.", hint="Start the command again.")


def _restore_files(store: Store, record: Record, part: Part) -> str:
    """Why something without a manifest cannot be restored; empty when it has been."""
    move_back(store, record, part)
    for path in part.paths:
        size = store.objects.size(record.place(path))
        if size is not None and size != store.objects.size(path):  # of the same size: a move that was stopped
            return f"`{path}` has been made again; the one that was deleted stays in the trash."
    return ""


def _restore_artifact(store: Store, record: Record, part: Part) -> str:
    """Why it cannot be restored; empty when it has been."""
    data = kept_manifest(store, record, part)
    stage, _, key = part.name.partition("/")
    current = store.read(stage, key)
    short = f"{stage}/{key[:8]}"
    if data is None:
        return "" if current else f"{short}: its manifest is not in the trash."
    manifest = as_manifest(data, record.place(part.manifest_path), of=part.manifest_path)
    if current and current.payload != manifest.payload:
        return f"{short} has been made again; the one that was deleted stays in the trash."
    missing = [file.path for file in manifest.files if not _has(store, record, manifest, file.path, file.size)]
    if missing and not current and record.by != "verify":  # what a repair took out comes back as it was
        return f"{short} was damaged when it was deleted: `{missing[0]}` is missing, or has another size."
    move_back(store, record, part)
    if not current and not store.objects.create(part.manifest_path, data):
        return f"{short} has been made again meanwhile."
    store.objects.delete([record.place(part.manifest_path)])
    return ""


def _has(store: Store, record: Record, manifest: Manifest, name: str, size: int) -> bool:
    """Whether a file of a payload is whole, in its place or in the trash."""
    path = f"{manifest.folder}/{manifest.payload}/{name}"
    found = store.objects.size(path)
    return (store.objects.size(record.place(path)) if found is None else found) == size


def _find(store: Store, trash_id: str) -> Record:
    found = [each.record for each in deletions(store)]
    if not found:
        raise NotFound(f"The trash of {store.objects.root} is empty.")
    if not trash_id:
        return found[-1]
    for record in found:
        if record.id == trash_id:
            return record
    known = ", ".join(f"`{record.id}`" for record in found[-5:])
    raise NotFound(f"There is no deletion `{trash_id}` in the trash.", hint=f"It has {known}.")


def _read(store: Store, trash_id: str) -> Record:
    path = f"{FOLDER}/{trash_id}/record.json"
    try:
        record = parse_record(Record, store.objects.read(path), path, "a deletion's record", hint="Move it away.")
    except FileNotFoundError as error:
        raise NotFound(f"`{path}` has just gone.", hint="Start the command again.") from error
    if record.id != trash_id:  # a copy of the folder
        raise DamagedArtifact(f"`{path}` is the record of the deletion `{record.id}`.", hint="Move it away.")
    return record


def _write(store: Store, record: Record) -> None:
    store.objects.write(f"{record.folder}/record.json", record.model_dump_json().encode())


def _manifests_first(path: str) -> tuple[bool, str]:
    return not path.endswith("/manifest.json"), path
