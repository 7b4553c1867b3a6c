"""The producer of an artifact: code, machine, versions, time."""

import functools
import hashlib
import os
import platform
import socket
import subprocess  # noqa: TID251 - runs git for the commit
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel

PACKAGE = Path(__file__).parent.parent


class Producer(BaseModel, frozen=True):
    """What made an artifact, and when."""

    code_version: str
    code_sha256: str
    """Hash of the package's Python files."""
    git_commit: str
    git_dirty: bool
    host: str
    hardware: dict[str, Any]
    packages: dict[str, str]
    run: str
    """Name of the flow run; empty without Prefect."""
    started: AwareDatetime
    ended: AwareDatetime
    seconds: float
    cost: float | None = None
    """Never set; kept so that the JSON of manifests stays the same."""
    energy_j: float | None = None
    """Energy of this machine's GPUs, in joules, during the last attempt of a stage that may use them; None: unknown."""
    warnings: tuple[str, ...] = ()
    """Warnings that the stage logged in its own thread."""


def describe_producer(
    started: datetime, *, run: str = "", energy_j: float | None = None, warnings: Sequence[str] = ()
) -> Producer:
    """The producer of an artifact whose stage started then and ends now."""
    ended = datetime.now(UTC)
    return Producer(
        **_constant(), host=socket.gethostname(), run=run, started=started, ended=ended,
        seconds=(ended - started).total_seconds(), energy_j=energy_j, warnings=tuple(warnings),
    )  # fmt: skip


@functools.cache
def _constant() -> dict[str, Any]:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {
        "code_version": _version("nanochat"),
        "code_sha256": digest.hexdigest(),
        "git_commit": commit,
        "git_dirty": bool(dirty),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": os.cpu_count() or 1,
            "cpu": _cpu_model(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "packages": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "pyarrow", "numpy", "prefect")},
        },
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(PACKAGE), *arguments],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
