"""Makes the payload of a bundle: copies the files of CORE from a folder, a zip file or a zip file behind an address.

Only the files that are read are copied, and every row is checked before. Nothing is unpacked outside `out`.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from nanochat.config.evaluation import CoreBundleConfig
from nanochat.errors import BadConfig, BadSource
from nanochat.evaluation.core.bundle import TASKS_FILE, files_of, read_bundle
from nanochat.events import Reporter, silent
from nanochat.sources.local_files import is_local, local_path
from nanochat.sources.remote_files import fetch_url
from nanochat.sources.retry import with_retries
from nanochat.store.manifest import measure_file

MAX_FILE_BYTES = 1 << 30
"""Limit of each unpacked file."""


def write_bundle(config: CoreBundleConfig, out: Path, folder: Path, progress: Reporter = silent) -> dict[str, Any]:
    """Copies and checks a bundle; returns the counts of it. `folder` is for temporary files.

    Raises `BadConfig`, `BadSource`, naming the file, or `SourceUnreachable`.
    """
    if not config.source:
        raise BadConfig("`core_bundle.source` is empty.", hint="Name a folder or a zip file with the tasks of CORE.")
    source = local_path(config.source) if is_local(config.source) else _fetched(config.source, folder, progress)
    if source.is_dir():
        _copy(source, out, dict(config.files))
    else:
        _unpack(source, out, config)
    bundle = read_bundle(out)
    counts = {"tasks": len(bundle.tasks), "questions": sum(len(task.rows) for task in bundle.tasks)}
    return {**counts, "missing_tasks": list(bundle.missing), "source": config.source}


def with_hashes(config: CoreBundleConfig) -> CoreBundleConfig:
    """The same config with the hashes of a bundle on this machine, so that a changed file changes the key.

    Raises `BadSource` if the source cannot be read, or if it differs from hashes that are set.
    """
    if not config.source or not is_local(config.source):
        return config
    place = local_path(config.source)
    try:
        if place.is_dir():
            found = _hashes(place)
            _compare(dict(config.files), found)
            return config.model_copy(update={"files": tuple(sorted(found.items()))})
        sha256 = measure_file(place)[1]
    except FileNotFoundError:
        raise BadSource(f"There is no `{config.source}`.", hint="Check `core_bundle.source`.") from None
    except OSError as error:
        raise BadSource(f"`{error.filename or place}` cannot be read: {error.strerror or error}.") from error
    _check_zip(config, sha256)
    return config.model_copy(update={"sha256": sha256})


def _hashes(folder: Path) -> dict[str, str]:
    return {name: measure_file(folder / name)[1] for name in files_of(folder) if (folder / name).is_file()}


def _compare(expected: dict[str, str], found: dict[str, str]) -> None:
    """Raises `BadSource` for files that are not those of the config; without any there, all are right."""
    if not expected:
        return
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise BadSource(f"The bundle of CORE no longer has `{name}`.", hint="Restore it, or start the run again.")
        if expected.get(name) != found[name]:
            raise BadSource(
                f"`{name}` of the bundle of CORE has changed.",
                hint="Restore it, or start the run again without `core_bundle.files`.",
            )


def _check_zip(config: CoreBundleConfig, sha256: str) -> None:
    if config.sha256 and config.sha256 != sha256:
        raise BadSource(
            f"`{config.source}` does not match `core_bundle.sha256` ({config.sha256[:12]}…, found {sha256[:12]}…).",
            hint="Restore the file, or remove `core_bundle.sha256` to use the current one.",
        )


def _fetched(address: str, folder: Path, progress: Reporter) -> Path:
    local = folder / "bundle.zip"
    with_retries(lambda: fetch_url(address, local, progress))
    return local


def _copy(source: Path, out: Path, expected: dict[str, str]) -> None:
    for name in files_of(source):
        if (source / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, out / name)
    _compare(expected, _hashes(out))  # of the copies, which no longer change


def _unpack(source: Path, out: Path, config: CoreBundleConfig) -> None:
    try:
        _check_zip(config, measure_file(source)[1])
        with zipfile.ZipFile(source) as archive:
            names = [name for name in archive.namelist() if PurePosixPath(name).name == TASKS_FILE]
            top = min(names, key=len).removesuffix(TASKS_FILE) if names else ""
            if not names:
                raise BadSource(f"`{config.source}` has no `{TASKS_FILE}`.", hint="Is it the bundle of CORE?")
            inside = set(archive.namelist())
            _extract(archive, f"{top}{TASKS_FILE}", out / TASKS_FILE)
            for name in files_of(out):
                if f"{top}{name}" in inside:
                    _extract(archive, f"{top}{name}", out / name)
    except FileNotFoundError:
        raise BadSource(f"There is no `{config.source}`.", hint="Check `core_bundle.source`.") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, or a method unknown
        raise BadSource(f"`{config.source}` is not a readable zip file: {error}.") from error


def _extract(archive: zipfile.ZipFile, name: str, to: Path) -> None:
    """Writes one file; its checksum in the archive is checked."""
    size = archive.getinfo(name).file_size
    if size > MAX_FILE_BYTES:
        raise BadSource(f"`{name}` would have {size:,} bytes.", hint="Is it the bundle of CORE?")
    to.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, to.open("wb") as file:
        shutil.copyfileobj(source, file)
