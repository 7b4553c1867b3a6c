"""Converts any exception to a `NanochatError`: the single handler of commands, flows, stages and workers.

Common system errors (a full disk, a missing permission, a missing package) have a message each. Any other exception
becomes `Unexpected`: its traceback is written to a file, without credentials, and the hint names the file.
"""

import errno
import os
import platform
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat import settings
from nanochat.errors import BadConfig, NanochatError, NotEnoughMemory, SourceUnreachable, Unexpected
from nanochat.system_errors import from_system, is_known

COMMAND = "the command"
CRASHES, MAX_REPORTS = "crashes", 100
"""Folder in the home, and the number of newest reports kept there."""
CHARACTERS_QUOTED = 200
"""Maximum length of a quoted error message."""

LOGIN = re.compile(r"(?<=://)[^/\s@'\"]*@")
SIGNATURE = re.compile(
    r"(?i)((?:token|signature|sig|credential|secret|password|passwd|api_?key|access_?key(?:_?id)?)[\"']?\s*[=:]\s*[\"']?)"
    r"[^&\s`'\",;]+"
)
AUTHORIZATION = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)?\s*)[^\s'\",;]+")

EXTRAS = {
    "prefect": "flows", "fastapi": "flows", "sqlalchemy": "flows", "datasets": "hub", "matplotlib": "plots",
    "uvicorn": "serve", "sse_starlette": "serve", "prometheus_client": "serve", "llguidance": "serve",
    "prefect_dask": "dask", "dask": "dask", "prefect_ray": "ray", "ray": "ray", "prefect_kubernetes": "kubernetes",
    "transformers": "foreign", "gguf": "foreign", "accelerate": "foreign",
}  # fmt: skip
"""Module → the group of optional dependencies that installs it."""


def to_nanochat_error(error: BaseException, what: str = COMMAND, *, log: Path | None = None) -> NanochatError:
    """The error as a `NanochatError`; never raises.

    `what` failed, as in the middle of a sentence: "the stage `pack`". `log` is a file to which the caller writes the
    traceback; without one, a report is written to `crashes` in the home, or to the system's temporary folder.
    """
    if isinstance(error, NanochatError):
        return error
    return _well_known(error, what) or _unexpected(error, _capital(what), log)


def _sentence(what: str, sentence: str) -> str:
    """`The stage `pack`: permission denied …`; without a prefix for the command itself."""
    return sentence if what == COMMAND else f"{_capital(what)}: {sentence[:1].lower()}{sentence[1:]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@contextmanager
def convert_errors(what: str) -> Generator[None]:
    """Converts every exception of the block to a `NanochatError`."""
    try:
        yield
    except NanochatError:
        raise
    except Exception as error:
        raise to_nanochat_error(error, what) from error


def traceback_text(error: BaseException) -> str:
    """The traceback, without credentials."""
    return without_secrets("".join(traceback.format_exception(error)))


def without_secrets(text: str) -> str:
    """Removes logins and signatures from URLs, and the values of secret variables."""
    for value in settings.secret_values():
        text = text.replace(value, "…")
    for pattern, kept in ((LOGIN, ""), (AUTHORIZATION, r"\1…"), (SIGNATURE, r"\1…")):
        text = pattern.sub(kept, text)
    return text


def _well_known(error: BaseException, what: str) -> NanochatError | None:
    from pydantic import ValidationError  # noqa: PLC0415 - a quarter of a second, at the start of every command

    if isinstance(error, ValidationError):
        return BadConfig(_of_a_field(error), hint="Give the field another value.")
    match error:
        case OSError():
            return _of_the_system(error, what)
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] not in ("nanochat", "flows"):
            package = name.partition(".")[0]
            install = f"'nanochat[{EXTRAS[package]}]'" if package in EXTRAS else package
            return BadConfig(
                f"{_capital(what)} needs the package `{package}`, which is not installed.",
                hint=f"`pip install {install}`.",
            )
        case UnicodeEncodeError():
            return BadConfig(
                f"{_capital(what)}: the character {error.object[error.start]!a} is not in the encoding"
                f" `{error.encoding}` of this terminal or locale.",
                hint="Set `PYTHONUTF8=1`.",
            )
        case _:
            pass
    if isinstance(error, RuntimeError) and "can't start new thread" in _words(error):
        return from_system(OSError(errno.EAGAIN, ""), "" if what == COMMAND else what)
    if isinstance(error, MemoryError) or _no_memory_for_torch(error):
        return NotEnoughMemory(
            f"{_capital(what)} ran out of memory{_quoted(error)}.",
            hint="Lower `--compute parallelism.micro_batch_rows=…`, `rows.sequence_len` or `pretrain.model.depth`.",
        )
    return None


def _of_the_system(error: OSError, what: str) -> NanochatError | None:
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return SourceUnreachable(
            _sentence(what, f"A network connection failed{_quoted(error)}."), hint="Check the network; then try again."
        )
    return from_system(error, "" if what == COMMAND else what) if is_known(error) else None


def _of_a_field(error: Any) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"`{where or error.title}` of {error.title}: {first['msg'][:1].lower()}{first['msg'][1:]}."


def _no_memory_for_torch(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in _words(error)


def _unexpected(error: BaseException, what: str, log: Path | None) -> Unexpected:
    log = log or _write_report(error)
    if log is None:
        return Unexpected(
            f"{what} failed{_quoted(error)}.",
            hint="The traceback was not kept: make the home or the temporary folder writable, and try again.",
        )
    return Unexpected(
        f"{what} failed{_quoted(error)}.", hint=f"The traceback is in `{log}`: please report this error with that file."
    )


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - `str(error)` may raise
        return ""


def _quoted(error: BaseException) -> str:
    """` (ValueError: its first line)`."""
    line = next((line.strip() for line in without_secrets(_words(error)).splitlines() if line.strip()), "")
    if not line and isinstance(error, MemoryError):
        return ""
    words = f"{type(error).__name__}: {line[:CHARACTERS_QUOTED]}" if line else type(error).__name__
    return f" ({words.rstrip('.')})"


def _write_report(error: BaseException) -> Path | None:
    """Writes the traceback and versions to a new file that only its owner may read; None if no folder is writable."""
    text = "\n".join([*_circumstances(), "", traceback_text(error)])
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(".txt", f"nanochat-{datetime.now(UTC):%Y%m%dT%H%M%S}-", folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except (OSError, ValueError):
            continue
        if folder.name == CRASHES:
            _remove_oldest(folder)
        return Path(name)
    return None


def _remove_oldest(folder: Path) -> None:
    """Keeps a repeated failure from filling the disk."""
    with suppress(OSError):
        for path in sorted(folder.glob("nanochat-*.txt"))[:-MAX_REPORTS]:
            path.unlink(missing_ok=True)


def _folders() -> list[Path]:
    found: list[Path] = []
    with suppress(NanochatError, OSError):  # the home itself may be the problem
        found.append(settings.home() / CRASHES)
    with suppress(OSError):
        found.append(Path(tempfile.gettempdir()))
    return found


def _circumstances() -> list[str]:
    return [
        f"time      {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        f"command   {without_secrets(' '.join(sys.argv))}",
        *(f"{name:<9} {_version(name)}" for name in ("nanochat", "torch", "prefect", "pydantic")),
        f"python    {platform.python_version()} on {platform.platform()}",
        f"thread    {threading.current_thread().name}",
    ]


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - only needed for a report

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
