"""Artifacts: immutable folders in the store, addressed by what went into them.

v1/artifacts/<stage>/<key>/manifest.json      written last, create-only: an artifact is whole or not there
v1/artifacts/<stage>/<key>/<attempt>/…        the payload of the attempt that won
v1/aliases/<name>.json                        small mutable pointers, moved by compare-and-swap
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nanochat.errors import (
    DamagedAnswer,
    DamagedArtifact,
    NanochatError,
    NoSpace,
    NotFound,
    StoreUnreachable,
    WrongKind,
)
from nanochat.store.aliases import Aliases, Target, is_alias
from nanochat.store.cache import Cache
from nanochat.store.manifest import (
    FileEntry,
    InputRef,
    Manifest,
    Name,
    artifact_folder,
    as_manifest,
    compute_key,
    describe_file,
    manifest_path,
    payload_digest,
)
from nanochat.store.names import is_name
from nanochat.store.objects import Objects
from nanochat.store.producer import Producer
from nanochat.store.walk import refuse_dead_link, walk
from nanochat.system_errors import from_system

__all__ = ["KINDS", "Artifact", "Manifest", "Store", "compute_key", "payload_digest"]

UPLOADS_AT_ONCE = 8
SWAP_TRIES = 20
READS_AT_ONCE = 16
READ_TRIES = 3


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


class Store:
    """The artifacts under one root URL. Threads may share it.

    `read_only` is for commands that only look: nothing is probed, and every change is refused.
    """

    def __init__(self, url: str, cache: Path, *, read_only: bool = False) -> None:
        self.objects = Objects(url, read_only=read_only)
        if not read_only:
            self.objects.make_bucket()
            with contextlib.suppress(NoSpace):  # whoever needs room is told; a full store can still be cleared up
                self.objects.probe()
        self.asked: set[tuple[str, str]] = set()
        """Stage and key of all that this process asked for or published; noted before the store is asked."""
        self._cache = Cache(cache)
        self._aliases = Aliases(self.objects)
        self._verified: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    @property
    def cache_root(self) -> Path:
        """Local folder of copies."""
        return self._cache.root

    # --- finding and publishing -----------------------------------------------------------------------------------

    def find(self, stage: str, key: str) -> Manifest | None:
        """The manifest, if its payload is complete; changes nothing.

        `publish` replaces a manifest whose payload is gone.
        """
        self.asked.add((stage, key))
        manifest = self.read(stage, key)
        return manifest if manifest and not self.missing(manifest) else None

    def missing(self, manifest: Manifest) -> list[str]:
        """Files of the payload that are not there, or of another size: the store has been asked for each.

        Raises `StoreUnreachable` when a listing leaves out what is there.
        """
        place = f"{manifest.folder}/{manifest.payload}"
        there = {entry.path: entry.size for entry in self.objects.list(place, everything=True)}
        missing = [file for file in manifest.files if there.get(f"{place}/{file.path}") != file.size]
        for file in missing:
            if self.objects.size(f"{place}/{file.path}") == file.size:
                raise StoreUnreachable(f"The listing of `{place}` leaves out `{file.path}`, which is there.")
        return [file.path for file in missing]

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
        names = _files(folder)
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
        winner = self._enter(manifest)
        if winner.payload != attempt:
            self.objects.delete(f"{payload}/{name}" for name in names)
        return winner

    def _enter(self, manifest: Manifest) -> Manifest:
        """Writes a manifest unless there is a whole artifact under its key; returns the one that is there then.

        A manifest whose payload is gone is replaced, by compare-and-swap: until then nothing is taken away.
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
            # ours: the answer to a first try was lost, and only the second refused
            if winner.payload == manifest.payload or not self.missing(winner):
                return winner
            self.objects.swap(path, data, before)
        raise StoreUnreachable(f"The artifact {manifest.stage}/{manifest.key[:8]} is being changed by others.")

    def forget(self, manifest: Manifest) -> None:
        """The payload will be verified again before it is used."""
        with self._lock:
            self._verified.pop(f"{manifest.folder}/{manifest.payload}", None)

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
        path = manifest_path(stage, key)
        try:
            return as_manifest(self.objects.read(path), path)
        except FileNotFoundError:
            return None

    # --- looking ----------------------------------------------------------------------------------------------------

    def manifests(self, stage: str = "") -> Iterator[Manifest]:
        """All manifests, or those of one stage. Raises at the first that cannot be read."""
        found, unread = self.survey(stage)
        for error in unread.values():
            raise error
        yield from found

    def survey(self, stage: str = "") -> tuple[list[Manifest], dict[str, NanochatError]]:
        """All manifests, or those of one stage; and the paths of those that cannot be read, each with its error."""
        unread: dict[str, NanochatError] = {}

        def read(name: Name) -> Manifest | None:
            try:
                return self.read(*name)
            except NanochatError as error:
                if error.transient:  # the store is away: so are all the others
                    raise
                unread[manifest_path(*name)] = error
                return None

        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            return [manifest for manifest in pool.map(read, self._published(stage)) if manifest], unread

    def _published(self, stage: str = "") -> Iterator[Name]:
        """Stage and key of everything that has a manifest."""
        if stage and not is_name(stage):
            return
        for entry in self.objects.list(f"v1/artifacts/{stage}" if stage else "v1/artifacts"):
            match entry.path.split("/"):
                case [_, _, found, key, "manifest.json"]:
                    yield found, key
                case _:
                    pass

    def resolve(self, name: str) -> Manifest:
        """The artifact that an alias, `stage/key` or the beginning of a key names; raises `NotFound`."""
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

    def verify(self, manifest: Manifest) -> list[str]:
        """Hashes again what the store holds; what is wrong, as sentences.

        Only what was read counts. Raises a `StoreError` when something cannot be read.
        """
        place = f"{manifest.folder}/{manifest.payload}"
        problems = [problem for file in manifest.files if (problem := self._examine(f"{place}/{file.path}", file))]
        if payload_digest(manifest.files) != manifest.digest:
            problems.append("its digest does not follow from its files")
        return problems

    def _examine(self, path: str, file: FileEntry) -> str:
        """What is wrong with an object. From a bucket, damage must come twice: bytes may be damaged on their way."""
        if self.objects.local:
            return _problem(self.objects.local / path, file)
        before = None
        for _ in range(READ_TRIES):
            scratch = self._cache.scratch()
            try:
                self.objects.download(path, scratch)
                if not (problem := _problem(scratch, file)):
                    return ""
                came = describe_file(scratch, file.path)
            except FileNotFoundError:
                problem, came = f"`{file.path}` is missing", None
            finally:
                with contextlib.suppress(OSError):
                    scratch.unlink()
            if self.objects.size(path) != (came and came.size):
                raise StoreUnreachable(f"The store {self.objects.root} does not send all of `{path}`.")
            if came is None or came == before:
                return problem
            before = came
        raise DamagedAnswer(f"`{path}` comes with other bytes each time from the store {self.objects.root}.")

    # --- aliases ----------------------------------------------------------------------------------------------------

    def aliases(self) -> dict[str, Target]:
        """Every alias and where it points. Raises `DamagedArtifact` at one that cannot be understood."""
        return self._aliases.all()

    def alias(self, name: str) -> str | None:
        """`stage/key` that an alias points to, if there is such an alias."""
        target = self._aliases.find(name)
        return f"{target.stage}/{target.key}" if target else None

    def set_alias(self, name: str, manifest: Manifest) -> None:
        """Moves an alias, by compare-and-swap."""
        self._aliases.set(name, Target(stage=manifest.stage, key=manifest.key))

    def remove_alias(self, name: str) -> None:
        """Takes an alias away, also one that cannot be understood; what it points to stays. Raises `NotFound`."""
        self._aliases.remove(name)


def _files(folder: Path) -> list[str]:
    """The files of a payload that is to be published; one that cannot be read must not be left out."""
    try:
        return sorted(path.relative_to(folder).as_posix() for path, _ in walk(folder))
    except OSError as error:
        raise from_system(error, "an artifact that is to be published") from error


def references(given: Artifact | list[Artifact]) -> list[InputRef]:
    """An input as a manifest names it."""
    artifacts = given if isinstance(given, list) else [given]
    return [InputRef(stage=a.stage, kind=a.kind, key=a.key, digest=a.digest) for a in artifacts]


def _problem(path: Path, file: FileEntry) -> str:
    """What is wrong with a local file; raises a `NanochatError` when it cannot be read."""
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"`{file.path}` has {size:,} bytes instead of {file.size:,}"
        if describe_file(path, file.path).sha256 != file.sha256:
            return f"the bytes of `{file.path}` have changed"
    except FileNotFoundError:
        pass
    except OSError as error:
        raise from_system(error, "the store") from error
    else:
        return ""
    try:
        refuse_dead_link(path)
    except OSError as error:
        raise from_system(error, "the store") from error
    return f"`{file.path}` is missing"
