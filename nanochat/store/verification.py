"""Everything in a store looked at again, and what is damaged taken out.

Payloads are hashed; manifests and the records of runs are read. One that cannot be read does not end the search: all
that is wrong is found at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nanochat.errors import DamagedArtifact, NanochatError
from nanochat.store import runs, trash
from nanochat.store.manifest import Manifest, as_manifest
from nanochat.store.store import Store


@dataclass
class Findings:
    """What is wrong in a store, or with an artifact and what it was made from."""

    artifacts: int = 0
    """Looked at."""
    bytes: int = 0
    damaged: list[tuple[Manifest, list[str]]] = field(default_factory=list)
    """Artifacts whose payload is not what was published, and how it differs."""
    broken: dict[str, NanochatError] = field(default_factory=dict)
    """Paths of manifests and run records that are none."""
    unread: dict[str, NanochatError] = field(default_factory=dict)
    """What could not be read, or not understood by this version: whether it is damaged is unknown."""

    @property
    def whole(self) -> int:
        """Artifacts that are as they were published."""
        manifests = sum(path.startswith("v1/artifacts/") for path in (*self.broken, *self.unread))
        return self.artifacts - len(self.damaged) - manifests

    def note(self, path: str, error: NanochatError) -> None:
        (self.broken if isinstance(error, DamagedArtifact) else self.unread)[path] = error


def examine(
    store: Store,
    manifests: Sequence[Manifest] | None = None,
    on_artifact: Callable[[Manifest, int, int], None] = lambda manifest, position, count: None,
) -> Findings:
    """Looks at these artifacts; without any, at the whole store. Changes nothing."""
    found = Findings()
    if manifests is None:
        manifests, unread = store.survey()
        found.artifacts = len(unread)
        for path, error in (unread | runs.survey(store)[1]).items():
            found.note(path, error)
    found.artifacts += len(manifests)
    for position, manifest in enumerate(manifests):
        on_artifact(manifest, position + 1, len(manifests))
        found.bytes += sum(file.size for file in manifest.files)
        try:
            problems = store.payloads.verify(manifest)
        except NanochatError as error:  # that it cannot be read does not make it damaged
            found.unread[manifest.folder] = error
            continue
        if problems:
            found.damaged.append((manifest, problems))
    return found


def repair(store: Store, found: Findings) -> trash.Record | None:
    """Moves what is damaged to the trash, so that the next run makes it again; None when nothing is any more."""
    damaged = [manifest for manifest, _ in found.damaged]
    return trash.take_out(
        store,
        damaged,
        "it was damaged",
        store.payloads.verify,
        records=list(found.broken),
        is_broken=lambda p: _broken(store, p),
    )


def _broken(store: Store, path: str) -> bool:
    """Whether a manifest or a run's record cannot be understood, now."""
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
