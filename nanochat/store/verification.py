"""Checks a store and repairs it.

`check_artifacts` hashes payloads, and parses manifests and the records of runs; it reports all problems at once.
`repair_store` moves damaged artifacts and unreadable records to the trash, so that the next run makes the artifacts
again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nanochat.errors import DamagedArtifact, NanochatError
from nanochat.store import runs, trash
from nanochat.store.manifest import Manifest, as_manifest
from nanochat.store.store import Store
from nanochat.store.trash import DeletedPart, DeletionRecord


@dataclass
class Findings:
    """The problems of a store, or of an artifact and its ancestors."""

    artifacts: int = 0
    """Number of artifacts checked."""
    bytes: int = 0
    damaged: list[tuple[Manifest, list[str]]] = field(default_factory=list)
    """Artifacts whose payload differs from what was published, and how."""
    broken: dict[str, NanochatError] = field(default_factory=dict)
    """Paths of manifests and run records that cannot be parsed."""
    unread: dict[str, NanochatError] = field(default_factory=dict)
    """Paths that could not be read, or are of a newer version: whether they are damaged is unknown."""

    @property
    def whole(self) -> int:
        """Number of artifacts that are as they were published."""
        manifests = sum(path.startswith("v1/artifacts/") for path in (*self.broken, *self.unread))
        return self.artifacts - len(self.damaged) - manifests

    def note(self, path: str, error: NanochatError) -> None:
        (self.broken if isinstance(error, DamagedArtifact) else self.unread)[path] = error


def check_artifacts(
    store: Store,
    manifests: Sequence[Manifest] | None = None,
    on_artifact: Callable[[Manifest, int, int], None] = lambda manifest, position, count: None,
) -> Findings:
    """Checks these artifacts, or the whole store. Changes nothing.

    `on_artifact` receives each manifest, its number from 1 on, and how many there are.
    """
    found = Findings()
    if manifests is None:
        manifests, unread = store.survey()
        found.artifacts = len(unread)
        for path, error in (unread | runs.survey(store)[1]).items():
            found.note(path, error)
    found.artifacts += len(manifests)
    for number, manifest in enumerate(manifests, 1):
        on_artifact(manifest, number, len(manifests))
        found.bytes += sum(file.size for file in manifest.files)
        try:
            problems = store.payloads.verify(manifest)
        except NanochatError as error:  # unreadable is not damaged
            found.unread[manifest.folder] = error
            continue
        if problems:
            found.damaged.append((manifest, problems))
    return found


def repair_store(store: Store, found: Findings) -> DeletionRecord | None:
    """Discards all that is damaged; None if nothing is damaged any more."""
    return discard(
        store,
        [manifest for manifest, _ in found.damaged],
        "it was damaged",
        store.payloads.verify,
        records=list(found.broken),
    )


def discard(
    store: Store,
    manifests: Sequence[Manifest],
    why: str,
    is_damaged: Callable[[Manifest], object] = lambda manifest: True,
    *,
    records: Sequence[str] = (),
) -> DeletionRecord | None:
    """Moves artifacts, and the records at these paths, to the trash.

    An artifact stays if another attempt has replaced it, or if it is not damaged; a record stays if it can be parsed.
    Returns None if everything stays.
    """
    with trash.locked(store) as held:
        parts = [*_damaged(store, manifests, why, is_damaged), *_unreadable(store, records)]
        if not parts:
            return None
        record = trash.begin(store, "verify", parts)
        payloads = {manifest.payload for manifest in manifests}
        discarded: list[DeletedPart] = []
        for part in parts:
            trash.ensure_held(held)
            if part.what == "artifact":
                try:
                    data = store.objects.read(part.manifest_path)
                except FileNotFoundError:  # removed since
                    continue
                if as_manifest(data, part.manifest_path).payload not in payloads:  # made again since
                    continue
                trash.keep_manifest(store, record, part, data)
                store.objects.delete([part.manifest_path])
            trash.move_in(store, record, part)
            discarded.append(part)
        trash.finish(store, record, discarded)
    for manifest in manifests:
        store.payloads.forget(manifest)
    return record.model_copy(update={"parts": discarded}) if discarded else None


def _damaged(
    store: Store, manifests: Sequence[Manifest], why: str, is_damaged: Callable[[Manifest], object]
) -> Iterator[DeletedPart]:
    for manifest in manifests:
        current = store.read(*manifest.name)
        if current is None or current.payload != manifest.payload or not is_damaged(manifest):
            continue
        files = {f"{manifest.payload_folder}/{file.path}" for file in manifest.files}
        entries = [e for e in store.objects.list(manifest.payload_folder, everything=True) if e.path in files]
        yield DeletedPart(
            what="artifact", name="/".join(manifest.name), why=why,
            bytes=sum(entry.size for entry in entries), paths=[entry.path for entry in entries],
        )  # fmt: skip


def _unreadable(store: Store, paths: Sequence[str]) -> Iterator[DeletedPart]:
    for path in paths:
        if not _is_broken(store, path):
            continue
        size = store.objects.size(path) or 0
        yield DeletedPart(what="record", name=path, why="it cannot be read", bytes=size, paths=[path])


def _is_broken(store: Store, path: str) -> bool:
    """Whether a manifest or a run's record cannot be parsed, now."""
    try:
        if path.startswith(f"{runs.FOLDER}/"):
            runs.read(store, path.removeprefix(f"{runs.FOLDER}/").removesuffix(".json"))
        else:
            as_manifest(store.objects.read(path), path)
    except DamagedArtifact:
        return True
    except FileNotFoundError:
        return False
    return False
