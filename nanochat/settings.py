"""Every environment variable that the library reads or sets."""

import getpass
import hashlib
import ipaddress
import math
import os
import re
import stat
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from nanochat import variables
from nanochat.errors import BadConfig
from nanochat.variables import Variable

T = TypeVar("T")

SAFE_PATH = "PYTHONSAFEPATH"
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LOOPBACK = ("127.0.0.1", "localhost", ".localhost", "::1", "0.0.0.0")  # noqa: S104 - names for this machine
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - only for folders that are private to this user
PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)
"""A path that needs no quotes in any command line."""


def read(variable: Variable[T]) -> T:
    """The value of one of our variables. Raises `BadConfig`."""
    return variable.value(os.environ.get(variable.name, ""))


# `variables.py` has the meaning and the default of each.
home = partial(read, variables.HOME)
cache_bytes = partial(read, variables.CACHE_GB)
rows_cache_bytes = partial(read, variables.ROWS_GB)
"""Two shuffle groups of 2^29 tokens, 2.2 GB, are kept in any case."""
trash_hours = partial(read, variables.TRASH_HOURS)
node_address = partial(read, variables.ADDRESS)
serve_tokens = partial(read, variables.SERVE_TOKEN)
sandbox = partial(read, variables.SANDBOX)
supervisor_pid = partial(read, variables.SUPERVISOR_PID)
rank = partial(read, variables.RANK)
world_size = partial(read, variables.WORLD_SIZE)
local_rank = partial(read, variables.LOCAL_RANK)


def check() -> list[str]:
    """Validates all our variables; returns a warning for each unknown `NANOCHAT_…` variable.

    Raises `BadConfig` for a value that cannot be used, and for a name that is nearly one of ours.
    """
    for variable in variables.VARIABLES:
        if variable.name.startswith("NANOCHAT_"):
            read(variable)
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


def store_url() -> str:
    """`NANOCHAT_STORE`: root URL of the store, `file:///…` or `s3://bucket/prefix`; default: `store` in the home."""
    return read(variables.STORE) or (home() / "store").as_uri()


def s3_endpoint() -> str:
    """`AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`: the S3 server; empty: Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3", "").strip() or os.environ.get("AWS_ENDPOINT_URL", "").strip()


AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_CA_BUNDLE",
)  # fmt: skip


def aws_variables() -> dict[str, str]:
    """`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …: those that are set, as the S3 client reads them."""
    return {name: os.environ[name] for name in AWS_VARIABLES if os.environ.get(name)}


_SECRET = re.compile(
    "SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_KEY|ACCESS_KEY|AUTH_STRING|CONNECTION_URL|WEBHOOK", re.IGNORECASE
)


def secret_values() -> list[str]:
    """Values of environment variables whose names mark them as secrets; the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET.search(name)}
    return sorted((value for value in found if len(value) >= 6), key=len, reverse=True)


def cores() -> int:
    """CPU cores that this process may use: those that it is bound to, up to the CPU limit of its container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, _cpu_limit())))


def _cpu_limit() -> float:
    """The least CPU limit of this process's cgroups and those above them, in cores; infinite if there is none."""
    try:
        cgroups = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return math.inf
    limits = [math.inf]
    for _, controllers, path in (line.split(":", 2) for line in cgroups):
        if "cpu" in (controllers or "cpu").split(","):  # version 2 names no controllers
            top = CGROUPS / "cpu" if controllers else CGROUPS
            place = top / path.lstrip("/")
            limits += [_quota(folder) for folder in (place, *place.parents) if folder.is_relative_to(top)]
    return min(limits)


def _quota(cgroup: Path) -> float:
    """The CPU limit of one cgroup in cores."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text(encoding="utf-8") for name in names).split()
        except (OSError, ValueError):
            continue
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf


def settle() -> None:
    """Sets our own environment to that of our children. Every program of ours calls this first."""
    os.environ.update(for_children())


def for_children() -> dict[str, str]:
    """The environment of every process that we start, in whatever folder it runs.

    - The paths of home and store are absolute: relative ones are resolved once, from our working directory.
    - Python does not put the working directory on its path (`-m` would put it first, before the standard library).
      The user's `PYTHONPATH` is kept, as absolute paths; an empty entry would be the working directory again.
    - No address on this machine is reached through a proxy.
    - A user without an entry in the system (a container's uid) still has a name and a home folder.
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
    if store := read(variables.STORE):
        environment["NANOCHAT_STORE"] = absolute_store(store)
    entries = [str(Path(each).absolute()) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    root = str(Path(__file__).parent.parent)
    if _found_by_working_directory(root) and root not in entries:
        entries.append(root)
    if entries or "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return environment


def _account() -> dict[str, str]:
    """Variables that libraries need at import, where the system has no entry for the user."""
    found: dict[str, str] = {}
    try:
        known = Path.home().is_absolute()
    except RuntimeError:
        known = False
    if not known:
        found["HOME"] = str(home())
    if not known or not os.access(Path.home(), os.W_OK):  # without it, matplotlib prints warnings
        found["MPLCONFIGDIR"] = os.environ.get("MPLCONFIGDIR", str(home() / "matplotlib"))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found["USER"] = found["LOGNAME"] = f"uid{os.getuid()}"
    return found


def absolute_store(url: str) -> str:
    """A folder as an absolute path; a URL is returned as it is."""
    return str(Path(url).expanduser().absolute()) if is_relative_store(url) else url


def is_relative_store(url: str) -> bool:
    """Whether an address is a path relative to the working directory."""
    return bool(url) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:|[/~]", url)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, in any spelling."""
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
    """The value of `NO_PROXY`, extended by this machine.

    `[::1]` becomes `::1`: httpx raises on the brackets, and urllib compares without them.
    """
    named = [os.environ.get("NO_PROXY", ""), os.environ.get("no_proxy", "")]
    entries = [entry.strip() for entry in ",".join(named).replace(" ", ",").split(",")]
    hosts = [urlsplit(value).hostname or "" for value in os.environ.values() if "://" in value and is_loopback(value)]
    found = [re.sub(r"^\[(.*)\]$", r"\1", entry) for entry in [*entries, *LOOPBACK, *hosts] if entry]
    return ",".join(dict.fromkeys(found))


def _found_by_working_directory(root: str) -> bool:
    """Whether we were imported from the working directory, which a child with a safe path does not search."""
    if sys.flags.safe_path or not sys.path or root in sys.path[1:]:
        return False
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return str(Path(sys.path[0]).absolute()) == root and root not in installed


def compiled_code() -> Path:
    """Cache of code that torch compiles: `inductor` in the home.

    torch passes the path to a C++ compiler without quoting it. A home whose path has spaces, quotes or the like
    therefore gets a private folder elsewhere, named after a hash of the path.
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
    """Creates a private folder; returns False if it exists and is not private to this user."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o077


def visible_gpus() -> list[str] | None:
    """Numbers or names of the GPUs in `CUDA_VISIBLE_DEVICES`; None if it is not set: all of them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if given is None else [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


def tiktoken_folder() -> Path:
    """Where tiktoken keeps the vocabularies that it has fetched."""
    given = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(given) if given else Path(tempfile.gettempdir()) / "data-gym-cache"


def child_environment(threads_per_rank: int, line_prefix: str = "") -> dict[str, str]:
    """The environment of a training process: ours, plus settings that make it faster.

    The allocator settings keep freed memory mapped: new pages are written at 1.6-4 GB/s, reused ones at 18-27, which
    makes training 1.22x faster on a CPU. Segments that grow keep a GPU's memory from fragmenting, unless the user has
    set its allocator by the older name. torchrun puts `line_prefix` before each line of a rank.
    """
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(compiled_code()),
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "34359738368",
        "MALLOC_TOP_PAD_": "268435456",
        **({} if "PYTORCH_CUDA_ALLOC_CONF" in os.environ else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        "OMP_NUM_THREADS": str(threads_per_rank),
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": line_prefix,
        **for_children(),
        "PYTHONUTF8": "1",  # whatever the locale is: we parse the output of the ranks
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }


def sandbox_environment() -> dict[str, str]:
    """The environment of a process that runs generated programs: nothing of ours; hashes are the same each time."""
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # Python may need it
    return {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LANG": "C.UTF-8", **libraries}


def supervised_environment(supervisor_pid: int) -> dict[str, str]:
    """The environment of processes that a supervisor starts: its workers end when the supervisor ends."""
    return {**for_children(), "NANOCHAT_SUPERVISOR_PID": str(supervisor_pid)}
