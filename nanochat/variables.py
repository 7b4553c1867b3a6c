"""The table of our environment variables: name, default, meaning, parser.

Only `settings.py` reads them. An empty variable counts as not set. pydantic-settings would not make this shorter: the
error messages, which name the variable and its meaning, would stay.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from nanochat.errors import BadConfig

T = TypeVar("T")

MAX_GIGABYTES = 1e9
MAX_HOURS = 1e6
MAX_PROCESSES = 1 << 22
"""The highest process id of Linux."""
FOREIGN = re.compile(r"NANOCHAT_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\w+)?)")
"""Variables that Kubernetes sets for a service called `nanochat`."""
ALIKE = 0.75
"""Similarity from which an unknown name counts as a typing error."""


@dataclass(frozen=True)
class Variable(Generic[T]):
    """An environment variable."""

    name: str
    default: str
    meaning: str
    parse: Callable[[str], T]
    """Raises `ValueError` with the format that the text must have."""
    secret: bool = False
    """Whether messages must not show its value."""

    def value(self, text: str) -> T:
        """Parses the text. Raises `BadConfig`."""
        kept = text.strip("\r\n\t") if self.parse is folder else text.strip()
        given = kept if kept.strip() else self.default
        try:
            parsed = self.parse(given)
            f"{given}{parsed}".encode()
        except UnicodeEncodeError:
            reason = "it is not valid text in the encoding of this locale (`PYTHONUTF8=1` may help)"
        except ValueError as error:
            reason = str(error)
        else:
            return parsed
        shown = "has a value that cannot be used" if self.secret else f"is `{given[:100]!a}`".replace("'", "")
        raise BadConfig(f"`{self.name}` {shown}: {reason}.", hint=f"{self.meaning}.")


def text(given: str) -> str:
    return given


def folder(given: str) -> Path:
    """A folder, absolute; `~` is the user's."""
    if "://" in given:
        raise ValueError("it has to be a folder, not an address")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no such user here; write the path in full") from None
    except FileNotFoundError:
        raise ValueError("the working directory, which it is relative to, does not exist any more") from None


def _number(given: str, unit: str, most: float) -> float:
    problem = ValueError(f"it has to be a number of {unit} from 0 to {most:,.0f}")
    try:
        number = float(given)
    except ValueError:
        raise problem from None
    if not 0 <= number <= most:
        raise problem
    return number


def gigabytes(given: str) -> int:
    """A number of gigabytes, as bytes."""
    return int(_number(given, "gigabytes", MAX_GIGABYTES) * 1e9)


def hours(given: str) -> float:
    return _number(given, "hours", MAX_HOURS)


def count(given: str) -> int:
    """A whole number, as of a process or a rank."""
    if not re.fullmatch(r"\+?[0-9]{1,9}", given) or int(given) > MAX_PROCESSES:
        raise ValueError(f"it has to be a whole number from 0 to {MAX_PROCESSES:,}")
    return int(given)


def confinement(given: str) -> Literal["full", "no namespaces", "rlimits only"]:
    """A mode of the sandbox for generated programs."""
    if given not in ("full", "no namespaces", "rlimits only"):
        raise ValueError("it has to be `full`, `no namespaces` or `rlimits only`")
    return given


def separated(given: str) -> tuple[str, ...]:
    """Values that are separated by commas."""
    return tuple(each.strip() for each in given.split(",") if each.strip())


def web_address(given: str) -> str:
    """Empty, or `http(s)://…`."""
    problem = ValueError("it has to be an address that begins with `https://` or `http://`")
    try:
        address = urlsplit(given)
    except ValueError:
        raise problem from None
    if given and not (address.scheme in ("http", "https") and address.hostname and not re.search(r"\s", given)):
        raise problem
    return given


HOME = Variable(
    "NANOCHAT_HOME", ".nanochat", "The folder of the store, the caches, the logs and our Prefect server", folder
)
STORE = Variable(
    "NANOCHAT_STORE",
    "",
    "Root of the store: a folder, `file:///…` or `s3://bucket/prefix`; not set, it is `store` in the home",
    text,
)
CACHE_GB = Variable(
    "NANOCHAT_CACHE_GB", "100", "Size limit of the local copies of a remote store's payloads", gigabytes
)
ROWS_GB = Variable(
    "NANOCHAT_ROWS_GB", "50", "Size limit of the packed rows that training caches uncompressed", gigabytes
)
TRASH_HOURS = Variable(
    "NANOCHAT_TRASH_HOURS",
    "24",
    "Hours for which `nanochat gc` keeps deleted files in the trash; `nanochat gc --restore` restores them",
    hours,
)
UI_PREFIX = Variable(
    "NANOCHAT_UI_PREFIX", "", "What precedes a path of the Prefect UI: `/v2` in its React version, else nothing", text
)
ADDRESS = Variable(
    "NANOCHAT_ADDRESS",
    "",
    "Host name or address of this node for the other nodes of a training; not set, the system's",
    text,
)
WEBHOOK = Variable(
    "NANOCHAT_WEBHOOK", "", "An `https://…` address that is notified of failed and stuck runs", web_address, secret=True
)
SERVE_TOKEN = Variable(
    "NANOCHAT_SERVE_TOKEN",
    "",
    "Bearer tokens that clients of `nanochat serve` must send one of, separated by commas; not set, no token is needed",
    separated,
    secret=True,
)
SANDBOX = Variable(
    "NANOCHAT_SANDBOX",
    "no namespaces",
    "The weakest confinement of generated programs to accept: `full`, `no namespaces` or `rlimits only`",
    confinement,
)
SUPERVISOR_PID = Variable(
    "NANOCHAT_SUPERVISOR_PID", "0", "Set by nanochat: a worker ends when this process does", count
)
RANK = Variable("RANK", "0", "Set by torchrun: index of this process among all, from 0", count)
WORLD_SIZE = Variable("WORLD_SIZE", "1", "Set by torchrun: number of processes that train together", count)
LOCAL_RANK = Variable("LOCAL_RANK", "0", "Set by torchrun: index of this process on its node, from 0", count)

VARIABLES: tuple[Variable[Any], ...] = (
    HOME, STORE, CACHE_GB, ROWS_GB, TRASH_HOURS, UI_PREFIX, ADDRESS, WEBHOOK, SERVE_TOKEN, SANDBOX,
    SUPERVISOR_PID, RANK, WORLD_SIZE, LOCAL_RANK,
)  # fmt: skip


def unknown(names: Iterable[str]) -> list[tuple[str, str]]:
    """The names that begin with `NANOCHAT_` and are not ours, each with the most similar name of ours, or ""."""
    ours = [variable.name for variable in VARIABLES if variable.name.startswith("NANOCHAT_")]
    ends = {name.removeprefix("NANOCHAT_"): name for name in ours}
    found: list[tuple[str, str]] = []
    for name in sorted(names):
        if name.upper().startswith("NANOCHAT_") and name not in ours and not FOREIGN.fullmatch(name):
            near = difflib.get_close_matches(name.upper().removeprefix("NANOCHAT_"), ends, 1, ALIKE)
            found.append((name, ends[near[0]] if near else ""))
    return found
