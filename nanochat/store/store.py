"""The store: immutable artifacts, addressed by their key, and aliases that point to them.

v1/artifacts/<stage>/<key>/manifest.json      written last, create-only: an artifact is complete or absent
v1/artifacts/<stage>/<key>/<attempt>/…        the payload of the attempt that was published
v1/aliases/<name>.json                        small mutable pointers, moved by compare-and-swap
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nanochat.errors import NanochatError, NoSpace, NotFound, StoreUnreachable, WrongKind
from nanochat.store.aliases import Aliases, Target, is_alias
from nanochat.store.artifacts import KINDS, Artifact, references
from nanochat.store.manifest import Manifest, Name, artifact_folder, as_manifest, manifest_path, payload_digest
from nanochat.store.object_names import is_name
from nanochat.store.objects import Objects
from nanochat.store.payloads import Payloads
from nanochat.store.producer import Producer

SWAP_TRIES = 20
READS_AT_ONCE = 16


class Store:
    """The artifacts under one root URL. Threads may share it.

    `read_only` is for commands that only read: nothing is probed, and every change is refused.
    """

    def __init__(self, url: str, cache: Path, *, read_only: bool = False) -> None:
        self.objects = Objects(url, read_only=read_only)
        if not read_only:
            self.objects.make_bucket()
            with contextlib.suppress(NoSpace):  # a write reports it; `gc` can still free space
                self.objects.probe()
        self.requested: set[Name] = set()
        """All that this process looked up or published; added *before* the lookup (`runs.py` explains why)."""
        self.payloads = Payloads(self.objects, cache)
        self._aliases = Aliases(self.objects)

    # --- reading --------------------------------------------------------------------------------------------------

    def find(self, stage: str, key: str) -> Manifest | None:
        """The manifest, if its payload is complete. Changes nothing: `publish` replaces one whose payload is gone."""
        self.requested.add((stage, key))
        manifest = self.read(stage, key)
        return manifest if manifest and not self.payloads.missing(manifest) else None

    def read(self, stage: str, key: str) -> Manifest | None:
        """The manifest, whether or not its payload exists."""
        path = manifest_path(stage, key)
        try:
            return as_manifest(self.objects.read(path), path)
        except FileNotFoundError:
            return None

    def artifact(self, manifest: Manifest, *, reused: bool) -> Artifact:
        """A reference of the manifest's kind; raises `WrongKind` for a kind that this version does not have."""
        if manifest.kind not in KINDS:
            raise WrongKind(
                f"{manifest.stage}/{manifest.key[:8]} is a `{manifest.kind}`, which this version does not have.",
                hint="Use the version that made it, or a later one.",
            )
        return KINDS[manifest.kind](self, manifest, reused=reused)

    def manifests(self, stage: str = "") -> Iterator[Manifest]:
        """All manifests, or those of one stage. Raises at the first that cannot be read."""
        found, unread = self.survey(stage)
        for error in unread.values():
            raise error
        yield from found

    def survey(self, stage: str = "") -> tuple[list[Manifest], dict[str, NanochatError]]:
        """All manifests, or those of one stage; and the paths of unreadable ones, each with its error."""
        unread: dict[str, NanochatError] = {}

        def read(name: Name) -> Manifest | None:
            try:
                return self.read(*name)
            except NanochatError as error:
                if error.transient:  # the store is away: the others would fail too
                    raise
                unread[manifest_path(*name)] = error
                return None

        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            return [manifest for manifest in pool.map(read, self._published(stage)) if manifest], unread

    def resolve(self, name: str) -> Manifest:
        """The artifact of an alias, a `stage/key` or the beginning of a key; raises `NotFound`."""
        if is_alias(name) and (target := self._aliases.find(name)):
            if manifest := self.read(target.stage, target.key):
                return manifest
            raise NotFound(
                f"The alias `{name}` points to {target.stage}/{target.key[:12]}, which is gone.",
                hint="Run the pipeline again, or point it elsewhere with `nanochat alias`.",
            )
        stage, _, prefix = name.rpartition("/")
        found = [each for each in self._published(stage) if len(prefix) >= 4 and each[1].startswith(prefix)]
        if len(found) == 1 and (manifest := self.read(*found[0])):
            return manifest
        if found:
            raise NotFound(
                f"`{name}` could be {', '.join(f'{s}/{k[:12]}' for s, k in found)}.", hint="Write more of the key."
            )
        known = ", ".join(f"`{alias}`" for alias in self._aliases.names()) or "none yet"
        raise NotFound(
            f"There is no artifact `{name[:100]}` in {self.objects.root}.",
            hint=f"Aliases: {known}; `nanochat ls` lists all.",
        )

    def _published(self, stage: str = "") -> Iterator[Name]:
        """Stage and key of every manifest."""
        if stage and not is_name(stage):
            return
        for entry in self.objects.list(f"v1/artifacts/{stage}" if stage else "v1/artifacts"):
            match entry.path.split("/"):
                case [_, _, found, key, "manifest.json"]:
                    yield found, key
                case _:
                    pass

    # --- publishing -----------------------------------------------------------------------------------------------

    def publish(
        self,
        folder: Path,
        *,
        stage: str,
        stage_version: int,
        kind: str,
        key: str,
        config: dict[str, Any],
        inputs: Mapping[str, Artifact | Sequence[Artifact]],
        metrics: dict[str, Any],
        producer: Producer,
    ) -> Manifest:
        """Uploads a folder and then its manifest; if another writer was first, returns that writer's manifest.

        The folder's files must not change afterwards: a store on the same disk shares them. The folder may be deleted.
        """
        self.requested.add((stage, key))
        attempt = uuid.uuid4().hex[:12]
        payload = f"{artifact_folder(stage, key)}/{attempt}"
        files = self.payloads.upload(folder, payload)
        manifest = Manifest(
            stage=stage, stage_version=stage_version, kind=kind, key=key, digest=payload_digest(files), config=config,
            inputs={name: references(given) for name, given in inputs.items()}, files=files, metrics=metrics,
            payload=attempt, producer=producer,
        )  # fmt: skip
        winner = self._write_manifest(manifest)
        if winner.payload != attempt:
            self.objects.delete(f"{payload}/{file.path}" for file in files)
        return winner

    def _write_manifest(self, manifest: Manifest) -> Manifest:
        """Writes a manifest unless its key has a complete artifact; returns the manifest that the store then has.

        Replaces a manifest whose payload is gone, by compare-and-swap.
        """
        path, data = manifest_path(manifest.stage, manifest.key), manifest.model_dump_json(indent=1).encode()
        for _ in range(SWAP_TRIES):
            if self.objects.create(path, data):
                return manifest
            try:
                before = self.objects.read(path)
            except FileNotFoundError:  # removed since
                continue
            winner = as_manifest(before, path)
            # ours: the response to a first attempt was lost, and only the second was refused
            if winner.payload == manifest.payload or not self.payloads.missing(winner):
                return winner
            self.objects.swap(path, data, before)
        raise StoreUnreachable(f"Other processes keep changing the artifact {manifest.stage}/{manifest.key[:8]}.")

    # --- aliases --------------------------------------------------------------------------------------------------

    def aliases(self) -> dict[str, Target]:
        """All aliases and their targets. Raises `DamagedArtifact` at an unreadable one."""
        return self._aliases.all()

    def alias(self, name: str) -> str | None:
        """The `stage/key` of an alias, if it exists."""
        target = self._aliases.find(name)
        return f"{target.stage}/{target.key}" if target else None

    def set_alias(self, name: str, manifest: Manifest) -> None:
        """Moves an alias, by compare-and-swap."""
        self._aliases.set(name, Target(stage=manifest.stage, key=manifest.key))

    def remove_alias(self, name: str) -> None:
        """Removes an alias, even an unreadable one; its target stays. Raises `NotFound`."""
        self._aliases.remove(name)
