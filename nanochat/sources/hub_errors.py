"""Maps the errors of the Hub's client libraries to ours.

The HTTP client below those libraries differs between their versions, and each client has its own exceptions. So the
client is found through the base classes of the library's own error.
"""

import json
import re
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import aiohttp
import httpx
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub

from nanochat.errors import BadSource, NanochatError, SourceUnreachable
from nanochat.sources.http_files import TRANSIENT_STATUSES, has_bad_certificate, retry_after_s
from nanochat.sources.remote_files import LOCAL_DISK_ERRNOS

E = TypeVar("E", bound=BaseException)

NO_NETWORK = (
    "Check the network and the proxy settings; without a network, name a local folder or `world` as the source."
)
DATASET_HINT = (
    "Check its files and its card. If the `datasets` library cannot read it, download it into a folder, convert it to "
    "Parquet or JSON lines, and use that folder."
)
XET = re.compile(r"\b(xet|cas)\b|reconstruction", re.IGNORECASE)
"""Matches messages of the Hub's storage library, whose errors have no class of their own."""
CLIENT_BASES = tuple(
    base
    for base in hub.HfHubHTTPError.__mro__
    if base.__module__.partition(".")[0] not in ("huggingface_hub", "builtins")
)
"""`HTTPError` of the HTTP client that the library uses."""
CLIENTS: tuple[ModuleType, ...] = (httpx, *(sys.modules[base.__module__.partition(".")[0]] for base in CLIENT_BASES))
BAD_ADDRESS: tuple[type[BaseException], ...] = tuple(
    kind
    for client in CLIENTS
    for name in ("InvalidURL", "UnsupportedProtocol", "LocalProtocolError", "MissingSchema", "InvalidSchema")
    if isinstance(kind := getattr(client, name, None), type)
)
TRANSPORT: tuple[type[BaseException], ...] = (
    *CLIENT_BASES,
    httpx.HTTPError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    hub.FileMetadataError,
    hub.LocalEntryNotFoundError,
    hub.XetDownloadError,
)

REFUSALS = (
    ((hub.OfflineModeIsEnabled,), "`{}` is on the Hub, and `HF_HUB_OFFLINE` forbids access.",
     "Unset it, or name a local folder as the source."),
    ((hub.GatedRepoError,), "`{}` has terms that you have to accept.",
     "Accept them on its page, then log in with `hf auth login`."),
    ((hub.DisabledRepoError,), "The Hub has disabled `{}`.", "Use another dataset."),
    ((hub.RevisionNotFoundError,), "`{}`: the dataset has no such revision.", "Check its name on the Hub."),
    ((hub.RepositoryNotFoundError, hub.HFValidationError), "The Hub has no dataset `{}`.",
     "Check its name; for a private one run `hf auth login`."),
)  # fmt: skip
"""Errors, message and hint; the first that matches counts."""


@contextmanager
def hub_errors(address: str) -> Iterator[None]:
    """Raises the errors of the Hub's libraries as `BadSource`, or as `SourceUnreachable` if a retry may help."""
    try:
        yield
    except NanochatError:
        raise
    except Exception as error:
        ours = as_ours(error, address)
        if ours is None:
            raise
        raise ours from error


@contextmanager
def dataset_errors(
    address: str, repo: str, revision: str | None, where: str = "", hint: str = DATASET_HINT
) -> Iterator[None]:
    """`hub_errors` for calls of the `datasets` library, which hides why it cannot read a dataset.

    So the Hub is queried for the dataset first. All other errors of the library (of its readers, a script or a card)
    become a `BadSource` that names `where`.
    """
    try:
        yield
    except NanochatError:
        raise
    except Exception as error:
        with hub_errors(address):
            HfApi().dataset_info(repo, revision=revision)
        ours = as_ours(error, address)
        if ours is None and (
            isinstance(error, MemoryError) or (isinstance(error, OSError) and _is_local_disk_error(error))
        ):
            raise
        raise ours or BadSource(
            f"{where or f'`{address}`'} cannot be read: {first_line(error)} ({type(error).__name__}).", hint=hint
        ) from error


def as_ours(error: BaseException, address: str) -> NanochatError | None:
    """Our error for one of the Hub's libraries; None if it is not about the Hub or the network."""
    chain = list(_chain(error))

    def find(*kinds: type[E]) -> E | None:
        return next((each for each in chain if isinstance(each, kinds)), None)

    if has_bad_certificate(error):
        return BadSource(
            f"The certificate of the Hub (`{constants.ENDPOINT}`) cannot be verified.",
            hint="If a proxy replaces certificates, set `SSL_CERT_FILE` to its authority.",
        )
    if isinstance(error, ValueError | ImportError) and "proxy" in str(error).lower():  # from the client's constructor
        return BadSource(
            f"The Hub cannot be reached: the proxy settings cannot be used ({first_line(error)}).",
            hint="Correct or unset `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`.",
        )
    for kinds, message, hint in REFUSALS:
        if find(*kinds):
            return BadSource(message.format(address), hint=hint)
    if (refused := find(hub.HfHubHTTPError)) and not isinstance(refused, hub.EntryNotFoundError):
        return _refused(refused, address)
    if not find(hub.LocalEntryNotFoundError) and find(hub.EntryNotFoundError):
        return BadSource(f"The Hub has no file `{address}`.", hint="Check its name and revision.")
    if find(*BAD_ADDRESS):
        return BadSource(
            f"The address of the Hub, `{constants.ENDPOINT}`, cannot be requested ({first_line(error)}).",
            hint="Correct or unset `HF_ENDPOINT`.",
        )
    if isinstance(error, RuntimeError) and XET.search(str(error)):
        return SourceUnreachable(
            f"The storage of the Hub does not answer (`{address}`; {first_line(error)}).", hint=NO_NETWORK
        )
    if failed := find(*TRANSPORT):
        first = next((each for each in reversed(chain) if isinstance(each, TRANSPORT)), failed)
        return SourceUnreachable(
            f"The Hub does not answer (`{address}`; {type(first).__name__}: {first_line(first)}).", hint=NO_NETWORK
        )
    if find(json.JSONDecodeError):
        return SourceUnreachable(
            f"`{constants.ENDPOINT}` answered the request for `{address}` with something that is not JSON.",
            hint="A proxy or a network's login page may have answered instead of the Hub.",
        )
    if isinstance(error, FileNotFoundError):  # from the `datasets` library
        return BadSource(f"`{address}` cannot be read: {first_line(error)}.", hint="Check its name and revision.")
    if isinstance(error, OSError) and not _is_local_disk_error(error) and (error.errno or type(error) is OSError):
        return SourceUnreachable(f"The Hub does not answer (`{address}`; {first_line(error)}).", hint=NO_NETWORK)
    return None


def _is_local_disk_error(error: OSError) -> bool:
    return bool(error.filename) or error.errno in LOCAL_DISK_ERRNOS


def _refused(error: hub.HfHubHTTPError, address: str) -> NanochatError:
    answer: Any = getattr(error, "response", None)
    status = answer.status_code if answer is not None else 0
    if 400 <= status < 500 and status not in TRANSIENT_STATUSES:
        return BadSource(f"The Hub refuses `{address}` (status {status}).", hint="Try `hf auth login`.")
    wait_s = retry_after_s(answer.headers.get("Retry-After", "")) if answer is not None else 0.0
    return SourceUnreachable(
        f"The Hub failed on `{address}` (status {status}).", hint="Try again later.", retry_after_s=wait_s
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
