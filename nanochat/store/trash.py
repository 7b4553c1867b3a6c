"""The trash keeps deleted objects for some hours, so that a deletion can be undone.

v1/trash/<id>/record.json      what is deleted, when and by which command; written before the first object moves
v1/trash/<id>/objects/v1/…     the objects, under their former paths

An artifact is deleted in this order: a copy of its manifest goes to the trash, the manifest is removed, the payload
moves. So an interrupted deletion leaves each object in its place or in the trash, and the record names all of them. The
next deletion completes it (`deletion.py`), or `restore_deletion` undoes it in the opposite order: the payload, then the
manifest, create-only. No other command reads the trash.

Every change of the trash needs the lease `trash`.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel

from nanochat.errors import DamagedArtifact, NotFound
from nanochat.store.lease import HeldLease, LeaseLost, lease
from nanochat.store.manifest import Manifest, as_manifest
from nanochat.store.object_names import ObjectName, ObjectPath
from nanochat.store.record_format import parse_record
from nanochat.store.store import Store

FOLDER, LEASE = "v1/trash", "trash"

Command = Literal["gc", "verify"]
What = Literal["artifact", "payload", "checkpoints", "record"]


class DeletedPart(BaseModel, frozen=True):
    """One artifact, payload, set of checkpoints or record of a deletion."""

    what: What
    name: ObjectPath
    """`stage/key` of an artifact; otherwise a path in the store."""
    why: str
    bytes: int
    paths: list[ObjectPath]
    """The objects, without an artifact's manifest."""

    @property
    def manifest_path(self) -> str:
        """Path of an artifact's manifest; otherwise empty."""
        return f"v1/artifacts/{self.name}/manifest.json" if self.what == "artifact" else ""


class DeletionRecord(BaseModel, frozen=True):
    """One deletion."""

    format: int = 1
    id: ObjectName
    """Time (UTC) and six random letters: sorted, the newest is last."""
    by: Command
    deleted: AwareDatetime
    state: Literal["deleting", "deleted", "restoring"]
    parts: list[DeletedPart]

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.id}"

    def place(self, path: str) -> str:
        """Path of an object in the trash."""
        return f"{self.folder}/objects/{path}"


@dataclass(frozen=True)
class Deletion:
    """A deletion in the trash."""

    record: DeletionRecord
    modified_s: float
    """When the record was last written, by the store's clock."""
    bytes: int


def locked(store: Store, on_wait: Callable[[str], None] = lambda holder: None) -> AbstractContextManager[HeldLease]:
    """Waits for the lease of the trash, and holds it."""
    return lease(store.objects, LEASE, on_wait=on_wait)


def ensure_held(held: HeldLease) -> None:
    """Raises `LeaseLost` if another process has the trash by now."""
    if not held.holds():
        raise LeaseLost("Another process took over the trash: the lease expired.", hint="Start the command again.")


def deletions(store: Store) -> list[Deletion]:
    """The deletions in the trash, oldest first. Raises `DamagedArtifact` at an unreadable record."""
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


def begin(store: Store, by: Command, parts: Sequence[DeletedPart]) -> DeletionRecord:
    """Writes the record of a deletion that starts."""
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    record = DeletionRecord(id=name, by=by, deleted=now, state="deleting", parts=list(parts))
    write(store, record)
    return record


def finish(store: Store, record: DeletionRecord, parts: Sequence[DeletedPart]) -> None:
    """Records the parts that the trash has in the end; without any, deletes the record."""
    if parts:
        write(store, record.model_copy(update={"state": "deleted", "parts": list(parts)}))
    else:
        empty(store, record)


def complete(store: Store, record: DeletionRecord) -> None:
    """Records that an interrupted deletion is complete, unless one of its payloads is still in its place.

    Drops the parts that it did not reach, and those that were restored or made again.
    """
    in_trash = {entry.path for entry in store.objects.list(f"{record.folder}/objects", everything=True)}
    parts: list[DeletedPart] = []
    for part in record.parts:
        if part.what == "artifact":
            if record.place(part.manifest_path) not in in_trash or store.objects.size(part.manifest_path) is not None:
                continue
            if any(store.objects.size(path) is not None for path in part.paths):
                return
        if not part.paths or any(record.place(path) in in_trash for path in part.paths):
            parts.append(part)
    finish(store, record, parts)


def keep_manifest(store: Store, record: DeletionRecord, part: DeletedPart, data: bytes) -> None:
    """Copies an artifact's manifest into the trash, before it is removed."""
    store.objects.write(record.place(part.manifest_path), data)


def kept_manifest(store: Store, record: DeletionRecord, part: DeletedPart) -> bytes | None:
    """The copy of an artifact's manifest."""
    try:
        return store.objects.read(record.place(part.manifest_path))
    except FileNotFoundError:
        return None


def move_in(store: Store, record: DeletionRecord, part: DeletedPart) -> None:
    """Moves the objects of a part into the trash, manifests of checkpoints first. Missing ones are skipped."""
    for path in sorted(part.paths, key=_manifests_first):
        store.objects.move(path, record.place(path))


def move_back(store: Store, record: DeletionRecord, part: DeletedPart) -> None:
    """Moves the objects of a part back; never replaces an object."""
    for path in sorted(part.paths, key=_manifests_first, reverse=True):
        if store.objects.size(path) is None:
            store.objects.move(record.place(path), path)


def empty(store: Store, record: DeletionRecord) -> None:
    """Deletes the objects of a deletion for good, and its record last."""
    listed = [entry.path for entry in store.objects.list(f"{record.folder}/objects")]
    for part in record.parts:
        listed += [record.place(path) for path in (*part.paths, part.manifest_path) if path]
    store.objects.delete(dict.fromkeys(listed))
    store.objects.delete([f"{record.folder}/record.json"])


def write(store: Store, record: DeletionRecord) -> None:
    store.objects.write(f"{record.folder}/record.json", record.model_dump_json().encode())


def _read(store: Store, trash_id: str) -> DeletionRecord:
    path = f"{FOLDER}/{trash_id}/record.json"
    try:
        record = parse_record(
            DeletionRecord, store.objects.read(path), path, "a deletion's record", hint="Move it away."
        )
    except FileNotFoundError as error:
        raise NotFound(f"`{path}` was deleted meanwhile.", hint="Start the command again.") from error
    if record.id != trash_id:  # a copy of the folder
        raise DamagedArtifact(f"`{path}` is the record of the deletion `{record.id}`.", hint="Move it away.")
    return record


def _manifests_first(path: str) -> tuple[bool, str]:
    return not path.endswith("/manifest.json"), path


@dataclass(frozen=True)
class Restored:
    """The result of `restore_deletion`."""

    id: str
    parts: tuple[DeletedPart, ...]
    problems: tuple[str, ...]
    """Why the other parts stay in the trash, as sentences."""


def restore_deletion(store: Store, trash_id: str = "") -> Restored:
    """Undoes a deletion: the one of this id, or the newest. Replaces nothing that was made meanwhile.

    Raises `NotFound` if there is no such deletion.
    """
    with locked(store) as held:
        record = _find(store, trash_id)
        write(store, record.model_copy(update={"state": "restoring"}))
        restored: list[DeletedPart] = []
        left: list[DeletedPart] = []
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


def _find(store: Store, trash_id: str) -> DeletionRecord:
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


def _restore_files(store: Store, record: DeletionRecord, part: DeletedPart) -> str:
    """Restores a part without a manifest; returns why it cannot, or an empty string."""
    move_back(store, record, part)
    for path in part.paths:
        size = store.objects.size(record.place(path))
        if size is not None and size != store.objects.size(path):  # of the same size: an interrupted move
            return f"`{path}` has been made again; the deleted one stays in the trash."
    return ""


def _restore_artifact(store: Store, record: DeletionRecord, part: DeletedPart) -> str:
    """Restores an artifact; returns why it cannot, or an empty string."""
    data = kept_manifest(store, record, part)
    stage, _, key = part.name.partition("/")
    current = store.read(stage, key)
    short = f"{stage}/{key[:8]}"
    if data is None:
        return "" if current else f"{short}: its manifest is not in the trash."
    manifest = as_manifest(data, record.place(part.manifest_path), of=part.manifest_path)
    if current and current.payload != manifest.payload:
        return f"{short} has been made again; the deleted one stays in the trash."
    missing = [file.path for file in manifest.files if not _has(store, record, manifest, file.path, file.size)]
    if missing and not current and record.by != "verify":  # a repair is undone as it was, with its damage
        return f"{short} was damaged when it was deleted: `{missing[0]}` is missing, or has another size."
    move_back(store, record, part)
    if not current and not store.objects.create(part.manifest_path, data):
        return f"{short} has been made again meanwhile."
    store.objects.delete([record.place(part.manifest_path)])
    return ""


def _has(store: Store, record: DeletionRecord, manifest: Manifest, name: str, size: int) -> bool:
    """Whether a file of a payload is complete, in its place or in the trash."""
    path = f"{manifest.payload_folder}/{name}"
    found = store.objects.size(path)
    return (store.objects.size(record.place(path)) if found is None else found) == size
