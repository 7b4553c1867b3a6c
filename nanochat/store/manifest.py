"""The manifest of an artifact: its key, config, inputs, files, metrics and producer."""

import errno
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nanochat.config.base import canonical_json
from nanochat.errors import DamagedArtifact
from nanochat.store.object_names import ObjectName, ObjectPath
from nanochat.store.producer import Producer
from nanochat.store.record_format import parse_record

Name = tuple[str, str]
"""Stage and key."""
PIECE_BYTES = 1 << 18
"""Bytes that are read and hashed at once."""


class FileEntry(BaseModel, frozen=True):
    """One file of a payload."""

    path: ObjectPath
    size: int
    sha256: str


class InputRef(BaseModel, frozen=True):
    """An input of an artifact."""

    stage: ObjectName
    kind: str
    key: ObjectName
    digest: str

    @property
    def name(self) -> Name:
        return self.stage, self.key


class Manifest(BaseModel, frozen=True):
    """Written last, and never changed; contains no credential."""

    format: int = 1
    stage: ObjectName
    stage_version: int
    kind: str
    key: ObjectName
    digest: str
    config: dict[str, Any]
    inputs: dict[str, list[InputRef]]
    files: list[FileEntry]
    metrics: dict[str, Any]
    payload: ObjectName
    """Folder of the payload in the artifact's folder: one for each attempt, so that two writers never mix."""
    producer: Producer

    @property
    def name(self) -> Name:
        return self.stage, self.key

    @property
    def folder(self) -> str:
        return artifact_folder(self.stage, self.key)

    @property
    def payload_folder(self) -> str:
        return f"{self.folder}/{self.payload}"

    @property
    def parents(self) -> list[InputRef]:
        """All direct inputs; an artifact that is two inputs is here twice."""
        return [ref for refs in self.inputs.values() for ref in refs]


def artifact_folder(stage: str, key: str) -> str:
    return f"v1/artifacts/{stage}/{key}"


def manifest_path(stage: str, key: str) -> str:
    """Path of an artifact's manifest."""
    return f"{artifact_folder(stage, key)}/manifest.json"


def as_manifest(data: bytes, path: str, *, of: str = "") -> Manifest:
    """Parses the manifest that was read from `path`; `of` is its path in the store, if that is another.

    Raises `DamagedArtifact` unless it belongs to its path: a copy (`cp -r KEY KEY-backup`) names the files of the
    original artifact.
    """
    hint = "`nanochat verify --repair` moves it to the trash; the next run makes the artifact again."
    manifest = parse_record(Manifest, data, path, "a manifest", hint=hint)
    if manifest_path(*manifest.name) != (of or path):
        raise DamagedArtifact(f"`{path}` is the manifest of {manifest.stage}/{manifest.key[:12]}.", hint=hint)
    return manifest


def compute_key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, list[str]]) -> str:
    """The key of an artifact: SHA-256 of stage, version, canonical config and the digests of the inputs."""
    parts = {"stage": stage, "version": version, "config": config, "inputs": inputs}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def payload_digest(files: Sequence[FileEntry]) -> str:
    """The digest of an artifact: SHA-256 of its payload's files."""
    return digest_of_files((file.path, file.size, file.sha256) for file in files)


def digest_of_files(files: Iterable[tuple[str, int, str]]) -> str:
    """SHA-256 of name, size and SHA-256 of each file, sorted by name."""
    lines = [f"{name}\0{size}\0{sha256}\n" for name, size, sha256 in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_file(path: Path, name: str) -> FileEntry:
    """Size and SHA-256 of a local file with the path `name` in its payload."""
    size, sha256 = measure_file(path)
    return FileEntry(path=name, size=size, sha256=sha256)


def measure_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a local file. Raises `OSError` if a read ends early."""
    digest, size = hashlib.sha256(), 0
    piece = memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
            size += count
    if size != path.stat().st_size:
        raise OSError(errno.EIO, "a read ended early", str(path))
    return size, digest.hexdigest()
