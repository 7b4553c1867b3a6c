"""Checks a store: hashes payloads, and parses manifests and the records of runs.

An unreadable one does not end the check: it reports all problems at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nanochat.errors import DamagedArtifact, NanochatError
from nanochat.store import runs
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store


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
