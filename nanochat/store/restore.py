"""Undoes a deletion: moves its objects from the trash back to their places."""

from dataclasses import dataclass

from nanochat.errors import NotFound
from nanochat.store import trash
from nanochat.store.manifest import Manifest, as_manifest
from nanochat.store.store import Store
from nanochat.store.trash import DeletedPart, DeletionRecord


@dataclass(frozen=True)
class Restored:
    """The result of `restore`."""

    id: str
    parts: tuple[DeletedPart, ...]
    problems: tuple[str, ...]
    """Why the other parts stay in the trash, as sentences."""


def restore_deletion(store: Store, trash_id: str = "") -> Restored:
    """Undoes a deletion: the one of this id, or the newest. Replaces nothing that was made meanwhile.

    Raises `NotFound` if there is no such deletion.
    """
    with trash.locked(store) as held:
        record = _find(store, trash_id)
        trash.write(store, record.model_copy(update={"state": "restoring"}))
        restored: list[DeletedPart] = []
        left: list[DeletedPart] = []
        problems: list[str] = []
        for part in record.parts:
            trash.ensure_held(held)
            problem = (_restore_artifact if part.what == "artifact" else _restore_files)(store, record, part)
            if problem:
                problems.append(problem)
                left.append(part)
            else:
                restored.append(part)
        trash.finish(store, record, left)
        return Restored(record.id, tuple(restored), tuple(problems))


def _find(store: Store, trash_id: str) -> DeletionRecord:
    found = [each.record for each in trash.deletions(store)]
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
    trash.move_back(store, record, part)
    for path in part.paths:
        size = store.objects.size(record.place(path))
        if size is not None and size != store.objects.size(path):  # of the same size: an interrupted move
            return f"`{path}` has been made again; the deleted one stays in the trash."
    return ""


def _restore_artifact(store: Store, record: DeletionRecord, part: DeletedPart) -> str:
    """Restores an artifact; returns why it cannot, or an empty string."""
    data = trash.kept_manifest(store, record, part)
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
    trash.move_back(store, record, part)
    if not current and not store.objects.create(part.manifest_path, data):
        return f"{short} has been made again meanwhile."
    store.objects.delete([record.place(part.manifest_path)])
    return ""


def _has(store: Store, record: DeletionRecord, manifest: Manifest, name: str, size: int) -> bool:
    """Whether a file of a payload is complete, in its place or in the trash."""
    path = f"{manifest.payload_folder}/{name}"
    found = store.objects.size(path)
    return (store.objects.size(record.place(path)) if found is None else found) == size
