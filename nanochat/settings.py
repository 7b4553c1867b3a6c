"""Every environment variable we read or set, in one place."""

from __future__ import annotations

import base64
import getpass
import hashlib
import ipaddress
import os
import re
import stat
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from nanochat import variables
from nanochat.errors import BadConfig
from nanochat.variables import Variable

T = TypeVar("T")

SAFE_PATH = "PYTHONSAFEPATH"
LOOPBACK = ("127.0.0.1", "localhost", ".localhost", "::1", "0.0.0.0")  # noqa: S104 - as clients may name this machine
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - only for folders that are checked to be ours alone
PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)
"""A path that every program takes, wherever it is pasted in."""


def _read(variable: Variable[T]) -> T:
    return variable.value(os.environ.get(variable.name, ""))


def check() -> list[str]:
    """Reads all our variables; returns a line about each that looks like ours and is not.

    Raises `BadConfig` when one has a value that cannot be used, or a name that is nearly one of ours.
    """
    for variable in variables.VARIABLES:
        if variable.name.startswith("NANOCHAT_"):
            _read(variable)
    folder = home()
    if os.path.lexists(folder) and not folder.is_dir():
        what = "is a link to nothing" if folder.is_symlink() else "is not a folder"
        raise BadConfig(f"The home `{folder}` {what}.", hint="Move it away, or set `NANOCHAT_HOME` to a folder.")
    ignored: list[str] = []
    for name, near in variables.unknown(os.environ):
        if near:
            raise BadConfig(f"There is no variable `{name}`.", hint=f"Did you mean `{near}`? Rename it, or unset it.")
        ignored.append(f"The variable `{name}` is not one of ours: it does nothing.")
    return ignored


def home() -> Path:
    """`NANOCHAT_HOME`: where the store, the caches, the logs and our Prefect server live (`.nanochat` here)."""
    return _read(variables.HOME)


def store_url() -> str:
    """`NANOCHAT_STORE`: root URL of the store, `file:///…` or `s3://bucket/prefix`; by default `store` in the home."""
    return _read(variables.STORE) or (home() / "store").as_uri()


def cache_bytes() -> int:
    """`NANOCHAT_CACHE_GB`: size limit of the local copies of a remote store's payloads (100)."""
    return _read(variables.CACHE_GB)


def trash_hours() -> float:
    """`NANOCHAT_TRASH_HOURS`: how long `nanochat gc` keeps what it deletes, so that it can be taken back (24)."""
    return _read(variables.TRASH_HOURS)


def rows_cache_bytes() -> int:
    """`NANOCHAT_ROWS_GB`: size limit of the packed rows that training keeps uncompressed (50).

    Two windows of 2^29 tokens, 2.2 GB, are kept in any case.
    """
    return _read(variables.ROWS_GB)


def s3_endpoint() -> str:
    """`AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`: the S3 server, when it is not Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3", "").strip() or os.environ.get("AWS_ENDPOINT_URL", "").strip()


AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_CA_BUNDLE",
)  # fmt: skip


def aws_variables() -> dict[str, str]:
    """`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …: those that are set, as the S3 client will read them."""
    return {name: os.environ[name] for name in AWS_VARIABLES if os.environ.get(name)}


def prefect_api_url() -> str:
    """`PREFECT_API_URL`: the Prefect server to run on; none means one is started for the run."""
    return os.environ.get("PREFECT_API_URL", "")


def prefect_ui_prefix() -> str:
    """`NANOCHAT_UI_PREFIX`: what stands before paths in the Prefect UI: `/v2` in its React face, else empty."""
    return _read(variables.UI_PREFIX)


def prefect_authorization(*, own: bool) -> str:
    """The header by which the Prefect server knows us; empty without `PREFECT_API_AUTH_STRING` and `PREFECT_API_KEY`.

    Our `own` server asks for its `PREFECT_SERVER_API_AUTH_STRING`, so that is used when no other is named.
    """
    login = os.environ.get("PREFECT_API_AUTH_STRING", "")
    if own and not login:
        login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
    if login:
        return f"Basic {base64.b64encode(login.encode()).decode()}"
    key = os.environ.get("PREFECT_API_KEY", "")
    return f"Bearer {key}" if key else ""


def set_variables() -> dict[str, str]:
    """The environment as it is, for naming a variable with a bad value."""
    return dict(os.environ)


def node_address() -> str:
    """`NANOCHAT_ADDRESS`: by which the other nodes of a training reach this one; empty asks the system."""
    return _read(variables.ADDRESS)


_SECRET = re.compile(
    "SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_KEY|ACCESS_KEY|AUTH_STRING|CONNECTION_URL|WEBHOOK", re.IGNORECASE
)


def secret_values() -> list[str]:
    """Values of environment variables that are secrets, by their names; the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET.search(name)}
    return sorted((value for value in found if len(value) >= 6), key=len, reverse=True)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settle() -> None:
    """Makes our own environment what our children get; each of our programs begins with it."""
    os.environ.update(for_children())


def for_children() -> dict[str, str]:
    """The environment of every process that we start, whatever folder it runs in.

    - The home and the store are the same everywhere: relative ones are taken from the folder we are in, once.
    - Python puts no working directory on its path (`-m` would put it first, before the standard library). The user's
      own `PYTHONPATH` stays, with absolute folders; an empty entry would be the working directory again.
    - Nothing on this machine is reached through a proxy.
    - A user that the system does not know (a container's uid) has a name and a home folder all the same.
    """
    bypass = _no_proxy()
    environment = {
        **os.environ,
        "NANOCHAT_HOME": str(home()),
        **_account(),
        SAFE_PATH: "1",
        "NO_PROXY": bypass,
        "no_proxy": bypass,
    }
    if store := _read(variables.STORE):
        environment["NANOCHAT_STORE"] = absolute_store(store)
    entries = [str(Path(each).absolute()) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    root = str(Path(__file__).parent.parent)
    if _found_by_working_directory(root) and root not in entries:
        entries.append(root)
    if entries or "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return environment


def _account() -> dict[str, str]:
    """What libraries fail or complain at import without, where the system cannot tell it."""
    found: dict[str, str] = {}
    try:
        known = Path.home().is_absolute()
    except RuntimeError:
        known = False
    if not known:
        found["HOME"] = str(home())
    if not known or not os.access(Path.home(), os.W_OK):  # it would print warnings otherwise
        found["MPLCONFIGDIR"] = os.environ.get("MPLCONFIGDIR", str(home() / "matplotlib"))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found["USER"] = found["LOGNAME"] = f"uid{os.getuid()}"
    return found


def absolute_store(url: str) -> str:
    """A folder as an absolute path; what has a scheme stays as it is."""
    return str(Path(url).expanduser().absolute()) if is_relative_store(url) else url


def is_relative_store(url: str) -> bool:
    """Whether an address is that of a folder below the working directory."""
    return bool(url) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:|[/~]", url)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, whichever way it is written."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not an address
        return False
    return _is_loopback_host(host)


def _is_loopback_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _no_proxy() -> str:
    """The value of `NO_PROXY`, with this machine in it.

    `[::1]` becomes `::1`: httpx raises on the brackets, and urllib compares without them.
    """
    named = [os.environ.get("NO_PROXY", ""), os.environ.get("no_proxy", "")]
    entries = [entry.strip() for entry in ",".join(named).replace(" ", ",").split(",")]
    ours = [prefect_api_url(), s3_endpoint()]
    hosts = [urlsplit(url).hostname or "" for url in ours if is_loopback(url)]
    found = [re.sub(r"^\[(.*)\]$", r"\1", entry) for entry in [*entries, *LOOPBACK, *hosts] if entry]
    return ",".join(dict.fromkeys(found))


def _found_by_working_directory(root: str) -> bool:
    """Whether we were imported from the folder that Python put first, and a child with a safe path would not be."""
    if sys.flags.safe_path or not sys.path or root in sys.path[1:]:
        return False
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return str(Path(sys.path[0]).absolute()) == root and root not in installed


def compiled_code() -> Path:
    """Where torch keeps what it compiles: `inductor` in the home, for the next start.

    A C++ compiler is given the path in a command line that torch does not quote. So a home whose path has a space, a
    quote or the like gets a folder elsewhere, with a name made from that path, for its owner only.
    """
    folder = home() / "inductor"
    if PLAIN_PATH.fullmatch(str(folder)):
        return folder
    name = f"nanochat-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    for place in (tempfile.gettempdir(), *TEMPORARY):
        if PLAIN_PATH.fullmatch(place) and _private(Path(place) / name):
            return Path(place) / name
    return folder


def _private(folder: Path) -> bool:
    """Makes a folder for us alone; whether there is one now. What another user put there is not used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o077


def child_environment(threads_per_rank: int, line_prefix: str = "") -> dict[str, str]:
    """The environment of a training process: ours, plus what makes it faster.

    The allocator settings keep freed memory mapped: freshly mapped pages are written at 1.6-4 GB/s, reused ones at
    18-27, which is worth 1.22x on a CPU. What torch compiles is kept in the home, for the next start. torchrun puts
    `line_prefix` before each line of a rank.
    """
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(compiled_code()),
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "34359738368",
        "MALLOC_TOP_PAD_": "268435456",
        "OMP_NUM_THREADS": str(threads_per_rank),
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": line_prefix,
        **for_children(),
        "PYTHONUTF8": "1",  # whatever the locale is: we read what the ranks write
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }


def supervised_environment(supervisor_pid: int) -> dict[str, str]:
    """The environment of what a supervisor starts: its workers know whom they must not outlive."""
    return {**for_children(), "NANOCHAT_SUPERVISOR_PID": str(supervisor_pid)}


def supervisor_pid() -> int:
    """`NANOCHAT_SUPERVISOR_PID`: the process without which a worker ends; 0 when nobody supervises."""
    return _read(variables.SUPERVISOR_PID)


def rank() -> int:
    """`RANK`, set by torchrun: this process among all, from 0."""
    return _read(variables.RANK)


def world_size() -> int:
    """`WORLD_SIZE`, set by torchrun: how many processes train together."""
    return _read(variables.WORLD_SIZE)


def local_rank() -> int:
    """`LOCAL_RANK`, set by torchrun: this process among those of its node."""
    return _read(variables.LOCAL_RANK)


_PREFECT_AT_REST = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
"""Prefect tells nobody that it runs."""

_PREFECT_ASKS_AGAIN_AT = "500"
"""A server whose database is away for a moment answers 500; asked again, for half a minute in all, it may be back."""


_SERVICES = ("SCHEDULER", "LATE_RUNS", "TRIGGERS", "FOREMAN")
"""What a server does by itself: schedules, late runs, automations, the health of pools."""


def own_api_url(port: int) -> str:
    """The address of our own Prefect server, below `PREFECT_SERVER_API_BASE_PATH` if that is set."""
    return f"http://127.0.0.1:{port}{os.environ.get('PREFECT_SERVER_API_BASE_PATH', '').rstrip('/') or '/api'}"


_DATABASE = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")


def _database(folder: Path) -> dict[str, str]:
    """Names the server's SQLite file where Prefect would misread the path: its own URL ends at a `?`."""
    if PLAIN_PATH.fullmatch(str(folder)) or any(name.startswith(_DATABASE) for name in os.environ):
        return {}
    url = f"sqlite+aiosqlite:///file:{quote(str(folder / 'prefect.db'))}?uri=true"
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}


def server_environment(folder: Path, port: int, *, services: bool = False) -> dict[str, str]:
    """The environment of our own Prefect server: its home, its addresses, no word to the outside.

    Without `services` it only keeps books: a server for one run has nothing to schedule. The books are in SQLite in its
    home; `PREFECT_SERVER_DATABASE_CONNECTION_URL` names a Postgres.
    """
    api_url = own_api_url(port)
    return {
        **_database(folder),
        **for_children(),
        **_PREFECT_AT_REST,
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_UI_API_URL": api_url,  # without it the pages call port 4200, whatever the port is
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": str(services).lower() for name in _SERVICES},
        # States written in batches: one by one they lock SQLite, and who meets the lock waits two seconds.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # in whole seconds: less would spin
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "1000",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def worker_environment() -> dict[str, str]:
    """The environment of a Prefect worker, and so of its runs: `use_prefect` has been called.

    Runs show that they live every 30 s, the least that Prefect allows: `flows.site.stale_runs` finds dead ones by that.
    A worker gets neither the address of the server's database nor a password that only the server needs.
    """
    quiet = ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL")
    ours = (*quiet, "PREFECT_SERVER_API_AUTH_STRING")
    kept = {
        name: value for name, value in for_children().items() if name not in ours and not name.startswith(_DATABASE)
    }
    return {"PREFECT_WORKER_QUERY_SECONDS": "2", **kept, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


def webhook() -> str:
    """`NANOCHAT_WEBHOOK`: who is told of runs that failed or are stuck, an `https://…` address; empty: nobody."""
    return _read(variables.WEBHOOK)


def use_prefect(api_url: str, folder: Path) -> None:
    """Sets what Prefect's client reads when it is imported: where the server is, and that the console is ours.

    `folder` is the home of our own server; when `PREFECT_API_URL` names another one, the user's Prefect home stays.
    """
    if not prefect_api_url():
        os.environ["PREFECT_HOME"] = str(folder)
        login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
        if login:
            os.environ.setdefault("PREFECT_API_AUTH_STRING", login)
    os.environ.update(_PREFECT_AT_REST)
    os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", _PREFECT_ASKS_AGAIN_AT)
    os.environ["PREFECT_API_URL"] = api_url
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_LOGGING_INTERNAL_LEVEL"] = "CRITICAL"
