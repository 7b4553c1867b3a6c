"""Artifacts: immutable folders in the store, addressed by what went into them.

v1/artifacts/<stage>/<key>/manifest.json      written last, create-only: an artifact is whole or not there
v1/artifacts/<stage>/<key>/<attempt>/…        the payload of the attempt that won
v1/aliases/<name>.json                        small mutable pointers, moved by compare-and-swap
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nanochat.errors import BadConfig, DamagedArtifact, NanochatError, NotFound, StoreUnreachable, WrongKind
from nanochat.store.cache import Cache
from nanochat.store.manifest import (
    FileEntry,
    InputRef,
    Manifest,
    artifact_folder,
    compute_key,
    describe_file,
    payload_digest,
)
from nanochat.store.objects import Objects
from nanochat.store.producer import Producer

__all__ = ["KINDS", "Artifact", "Manifest", "Store", "compute_key", "payload_digest"]

UPLOADS_AT_ONCE = 8
ALIAS = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


class Artifact:
    """A typed reference to what a stage made; the subclass is its kind."""

    def __init__(self, store: Store, manifest: Manifest, *, reused: bool) -> None:
        self.store = store
        self.manifest = manifest
        self.reused = reused

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def stage(self) -> str:
        return self.manifest.stage

    @property
    def metrics(self) -> dict[str, Any]:
        return self.manifest.metrics

    @property
    def path(self) -> Path:
        """Local folder of the payload, its size and SHA-256 verified once a process; raises `DamagedArtifact`."""
        return self.store.fetch(self.manifest)


class RawShard(Artifact):
    """Checked raw text, train and validation apart."""


class Vocabulary(Artifact):
    """A tokenizer."""


class TokenShard(Artifact):
    """The tokens of one raw shard."""


class Rows(Artifact):
    """Packed rows of one token shard."""


class DataCard(Artifact):
    """What the text of a run is like."""


class Conversations(Artifact):
    """Conversations as rows with a loss mask, and held-out questions."""


class Model(Artifact):
    """Weights, architecture and vocabulary."""


class Evaluation(Artifact):
    """What a model can do."""


class Report(Artifact):
    """Numbers, plots and lineage, to be read."""


KINDS: dict[str, type[Artifact]] = {
    kind.__name__: kind
    for kind in (RawShard, Vocabulary, TokenShard, Rows, DataCard, Conversations, Model, Evaluation, Report)
}


class AliasTarget(BaseModel):
    """Where an alias points."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str


class Store:
    """The artifacts under one root URL. Threads may share it."""

    def __init__(self, url: str, cache: Path, *, read_only: bool = False) -> None:
        self.objects = Objects(url, read_only=read_only)
        if not read_only:
            self.objects.make_bucket()
            self.objects.probe()
        self.asked: set[tuple[str, str]] = set()
        """Stage and key of all that this process asked for or published; noted before the store is asked."""
        self._cache = Cache(cache)
        self._verified: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    @property
    def cache_root(self) -> Path:
        """Local folder of copies."""
        return self._cache.root

    # --- finding and publishing -----------------------------------------------------------------------------------

    def find(self, stage: str, key: str) -> Manifest | None:
        """The manifest, if its payload is there in full; one whose payload is gone is removed, and a miss."""
        self.asked.add((stage, key))
        manifest = self.read(stage, key)
        if manifest is None:
            return None
        place = f"{manifest.folder}/{manifest.payload}"
        there = {entry.path: entry.size for entry in self.objects.list(place, everything=True)}
        if all(there.get(f"{manifest.folder}/{manifest.payload}/{file.path}") == file.size for file in manifest.files):
            return manifest
        self.remove(manifest)
        return None

    def publish(
        self,
        folder: Path,
        *,
        stage: str,
        stage_version: int,
        kind: str,
        key: str,
        config: dict[str, Any],
        inputs: Mapping[str, Artifact | list[Artifact]],
        metrics: dict[str, Any],
        producer: Producer,
    ) -> Manifest:
        """Uploads a folder and then its manifest; when another writer was first, returns that one's.

        Nobody may write to the folder's files afterwards: a store on the same disk shares them. The folder may go.
        """
        self.asked.add((stage, key))
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        attempt = uuid.uuid4().hex[:12]
        payload = f"{artifact_folder(stage, key)}/{attempt}"

        def send(name: str) -> FileEntry:
            described = describe_file(folder / name, name)
            self.objects.upload(folder / name, f"{payload}/{name}", share=True)
            return described

        try:
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                files = list(pool.map(send, names))
        except BaseException:
            with contextlib.suppress(NanochatError, OSError):
                self.objects.delete(f"{payload}/{name}" for name in names)
            raise
        manifest = Manifest(
            stage=stage, stage_version=stage_version, kind=kind, key=key, digest=payload_digest(files), config=config,
            inputs={name: references(given) for name, given in inputs.items()}, files=files, metrics=metrics,
            payload=attempt, producer=producer,
        )  # fmt: skip
        record = f"{manifest.folder}/manifest.json"
        if self.objects.create(record, manifest.model_dump_json(indent=1).encode()):
            return manifest
        winner = self.read(stage, key)
        if winner and winner.payload == attempt:  # the answer to our first try was lost, and a second one refused
            return manifest
        self.objects.delete(f"{payload}/{name}" for name in names)
        if winner is None:
            raise StoreUnreachable(f"The artifact {stage}/{key[:8]} was removed while it was published.")
        return winner

    def remove(self, manifest: Manifest) -> None:
        """Takes an artifact out: the record first, then its payload. Another attempt at the same key is left alone."""
        current = self.read(manifest.stage, manifest.key)
        if current and current.payload == manifest.payload:
            self.objects.delete([f"{manifest.folder}/manifest.json"])
        place = f"{manifest.folder}/{manifest.payload}"
        self.objects.delete(entry.path for entry in self.objects.list(place, everything=True))
        with self._lock:
            self._verified.pop(place, None)

    def artifact(self, manifest: Manifest, *, reused: bool) -> Artifact:
        """A reference of the manifest's kind; raises `WrongKind` when this version knows no such."""
        if manifest.kind not in KINDS:
            raise WrongKind(
                f"{manifest.stage}/{manifest.key[:8]} is a `{manifest.kind}`, which this version does not know.",
                hint="Use the version that made it, or a later one.",
            )
        return KINDS[manifest.kind](self, manifest, reused=reused)

    def fetch(self, manifest: Manifest) -> Path:
        """Local folder of the payload, verified once a process."""
        place = f"{manifest.folder}/{manifest.payload}"
        with self._lock:
            if place in self._verified:
                return self._verified[place]
            mine = self._fetching.setdefault(manifest.digest, threading.Lock())
        with mine:
            with self._lock:
                if place in self._verified:
                    return self._verified[place]
            path, problem = self._copy(manifest, place)
            if problem and not self.objects.local:  # the copy may have gone bad, and the store be whole
                self._cache.forget(manifest.digest)
                path, problem = self._copy(manifest, place)
            if problem:
                if not self.objects.local:
                    self._cache.forget(manifest.digest)
                raise DamagedArtifact(
                    f"The artifact {manifest.stage}/{manifest.key[:8]} is damaged: {problem}.",
                    hint="`nanochat verify --repair` takes it out; the next run makes it again.",
                )
            with self._lock:
                self._verified[place] = path
            return path

    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """One file of a payload, verified; the others stay where they are. Raises `DamagedArtifact`."""
        (entry,) = (file for file in manifest.files if file.path == name)
        try:
            data = self.objects.read(f"{manifest.folder}/{manifest.payload}/{name}")
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedArtifact(
                f"`{name}` of {manifest.stage}/{manifest.key[:8]} is missing, or not what was published.",
                hint="`nanochat verify --repair` takes the artifact out; the next run makes it again.",
            )
        return data

    def _copy(self, manifest: Manifest, place: str) -> tuple[Path, str]:
        """The payload's local folder, and what is wrong with it."""
        if self.objects.local:
            path = self.objects.local / place
        else:

            def download(name: str, local: Path) -> None:
                # What is missing is found, and named, by the check below.
                with contextlib.suppress(FileNotFoundError):
                    self.objects.download(f"{place}/{name}", local)

            path = self._cache.folder(manifest, download)
        return path, next((found for file in manifest.files if (found := _problem(path / file.path, file))), "")

    def read(self, stage: str, key: str) -> Manifest | None:
        """The manifest as it stands, whether or not its payload is there; unlike `find` it changes nothing."""
        record = f"{artifact_folder(stage, key)}/manifest.json"
        try:
            return Manifest.model_validate_json(self.objects.read(record))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DamagedArtifact(
                f"`{record}` is not a manifest of this version.", hint="Move it away, or use another `--store`."
            ) from error

    # --- looking ----------------------------------------------------------------------------------------------------

    def manifests(self, stage: str = "") -> Iterator[Manifest]:
        """All manifests, or those of one stage."""
        for entry in self.objects.list(f"v1/artifacts/{stage}" if stage else "v1/artifacts"):
            parts = entry.path.split("/")
            if parts[-1] == "manifest.json" and len(parts) == 5 and (manifest := self.read(parts[2], parts[3])):
                yield manifest

    def resolve(self, name: str) -> Manifest:
        """The artifact that an alias, `stage/key` or the beginning of a key names; raises `NotFound`."""
        aliases = self.aliases()
        if name in aliases:
            target = aliases[name]
            if manifest := self.read(target.stage, target.key):
                return manifest
            raise NotFound(
                f"The alias `{name}` points to {target.stage}/{target.key[:12]}, which is gone.",
                hint="Run the pipeline again, or point it elsewhere with `nanochat alias`.",
            )
        stage, _, prefix = name.rpartition("/")
        found: dict[tuple[str, str], None] = {}
        if len(prefix) >= 4:
            for entry in self.objects.list(f"v1/artifacts/{stage}" if stage else "v1/artifacts"):
                parts = entry.path.split("/")
                if parts[-1] == "manifest.json" and parts[3].startswith(prefix):
                    found[parts[2], parts[3]] = None
        if len(found) == 1 and (manifest := self.read(*next(iter(found)))):
            return manifest
        if found:
            raise NotFound(
                f"`{name}` could be {', '.join(f'{s}/{k[:12]}' for s, k in found)}.", hint="Write more of the key."
            )
        known = ", ".join(f"`{alias}`" for alias in aliases) or "none yet"
        raise NotFound(
            f"There is no artifact `{name}` in {self.objects.root}.", hint=f"Aliases: {known}; `nanochat ls` lists all."
        )

    def verify(self, manifest: Manifest) -> list[str]:
        """Hashes again what the store holds; what is wrong, as sentences."""
        problems: list[str] = []
        place = f"{manifest.folder}/{manifest.payload}"
        for file in manifest.files:
            if self.objects.local:
                problem = _problem(self.objects.local / place / file.path, file)
            else:
                scratch = self._cache.scratch()
                try:
                    self.objects.download(f"{place}/{file.path}", scratch)
                    problem = _problem(scratch, file)
                except FileNotFoundError:
                    problem = f"`{file.path}` is missing"
                finally:
                    scratch.unlink(missing_ok=True)
            if problem:
                problems.append(problem)
        if payload_digest(manifest.files) != manifest.digest:
            problems.append("its digest does not follow from its files")
        return problems

    # --- aliases ----------------------------------------------------------------------------------------------------

    def aliases(self) -> dict[str, AliasTarget]:
        """Every alias and where it points."""
        result: dict[str, AliasTarget] = {}
        for entry in self.objects.list("v1/aliases"):
            with contextlib.suppress(FileNotFoundError):  # deleted while we look
                data = self.objects.read(entry.path)
                result[entry.path.removeprefix("v1/aliases/").removesuffix(".json")] = _target(entry.path, data)
        return result

    def alias(self, name: str) -> str | None:
        """`stage/key` that an alias points to, if there is such an alias."""
        path = _alias_path(name)
        try:
            target = _target(path, self.objects.read(path))
        except FileNotFoundError:
            return None
        return f"{target.stage}/{target.key}"

    def set_alias(self, name: str, manifest: Manifest) -> None:
        """Moves an alias, by compare-and-swap."""
        path = _alias_path(name)
        target = AliasTarget(stage=manifest.stage, key=manifest.key).model_dump_json().encode()
        for _ in range(20):
            try:
                before = self.objects.read(path)
            except FileNotFoundError:
                before = None
            if before == target or self.objects.swap(path, target, before):
                return
        raise StoreUnreachable(f"The alias `{name}` is being moved by others all the time.")

    def remove_alias(self, name: str) -> None:
        """Takes an alias away; what it points to stays. Raises `NotFound`."""
        if self.alias(name) is None:
            raise NotFound(f"There is no alias `{name}` in {self.objects.root}.", hint="`nanochat alias` lists them.")
        self.objects.delete([_alias_path(name)])


def _alias_path(name: str) -> str:
    if not ALIAS.fullmatch(name):
        raise BadConfig(
            f"`{name}` cannot be the name of an alias.", hint="Use letters, digits, `-`, `_` and `.`: `chat/latest`."
        )
    return f"v1/aliases/{name}.json"


def _target(path: str, data: bytes) -> AliasTarget:
    try:
        return AliasTarget.model_validate_json(data)
    except ValidationError as error:
        raise DamagedArtifact(f"`{path}` is not an alias.", hint="Delete the file, and set the alias again.") from error


def references(given: Artifact | list[Artifact]) -> list[InputRef]:
    """An input as a manifest names it."""
    artifacts = given if isinstance(given, list) else [given]
    return [InputRef(stage=a.stage, kind=a.kind, key=a.key, digest=a.digest) for a in artifacts]


def _problem(path: Path, file: FileEntry) -> str:
    if not path.exists():
        return f"`{file.path}` is missing"
    if (size := path.stat().st_size) != file.size:
        return f"`{file.path}` has {size:,} bytes instead of {file.size:,}"
    if describe_file(path, file.path).sha256 != file.sha256:
        return f"the bytes of `{file.path}` have changed"
    return ""
