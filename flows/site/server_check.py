"""Checks a Prefect server: whether it answers, its version, and whether it accepts our credentials.

Does not import Prefect, which takes 1.2 s: the import and the start of a server overlap.
"""

import re
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import httpx

from flows.site import prefect_environment
from nanochat.errors import NanochatError
from nanochat.settings import is_loopback

REFUSED = (401, 403)


class ServerUnavailable(NanochatError):
    """The Prefect server did not start, or does not answer."""


class ServerRefuses(ServerUnavailable):
    """The Prefect server does not accept our credentials."""

    def __init__(self, api_url: str) -> None:
        super().__init__(
            f"The Prefect server at {without_login(api_url)} refuses our credentials.",
            hint="Set `PREFECT_API_AUTH_STRING` to its `user:password`, or `PREFECT_API_KEY` to a valid key.",
        )


def is_healthy(api_url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect server answers at this address; raises `ServerRefuses` when a gateway rejects us."""
    try:
        return _get(api_url, "health", timeout_s) is True
    except (OSError, ValueError):  # unreachable; not an address, or another program's response
        return False


def check_server(api_url: str, *, own: bool = False) -> None:
    """Raises `ServerUnavailable` unless a server of a supported version answers and accepts our credentials.

    `own`: nanochat started this server.
    """
    if not own and not is_healthy(api_url, timeout_s=10.0):
        raise ServerUnavailable(
            f"The Prefect server at {without_login(api_url)} (`PREFECT_API_URL`) does not answer.",
            hint="Start it or correct the address, which usually ends in `/api`; after `unset PREFECT_API_URL` a run "
            "starts its own server.",
        )
    theirs, ours = _server_version(api_url, own), version("prefect")
    if theirs and _release(theirs) < _release(ours):  # newer servers support older clients; not the other way round
        raise ServerUnavailable(
            f"The Prefect server at {without_login(api_url)} has version {theirs}, older than the installed {ours}.",
            hint=f"Upgrade the server first, or install its version here: `pip install prefect=={theirs}`.",
        )


def without_login(address: str) -> str:
    """The address without a user and password in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def _server_version(api_url: str, own: bool) -> str:
    """The version that the server reports, or an empty string."""
    try:
        return str(_get(api_url, "admin/version", 10.0, own=own))
    except ServerRefuses:
        with suppress(OSError):
            _check_credentials_of_prefect(api_url)
    except (OSError, ValueError):
        pass
    return ""


def _check_credentials_of_prefect(api_url: str) -> None:
    """Prefect's own settings (a profile, `prefect.toml`) may contain credentials that the environment lacks."""
    from flows.site.client import Api  # noqa: PLC0415 - imports Prefect

    Api(api_url).get("admin/version")


def _release(name: str) -> tuple[int, ...]:
    """Major and minor: `3.8.8` belongs to the release 3.8."""
    return tuple(int(part) for part in re.findall(r"\d+", name)[:2])


def _get(api_url: str, path: str, timeout_s: float, *, own: bool = False) -> Any:
    """A JSON response. Raises `ServerRefuses`, `OSError` or `ValueError`."""
    if not api_url.startswith(("http://", "https://")):
        raise ValueError(f"`{api_url}` is not an HTTP address")
    authorization = prefect_environment.authorization(own=own)
    address = without_login(api_url) if authorization else api_url  # httpx prefers a login in the address
    headers = {"Authorization": authorization} if authorization else {}
    local = is_loopback(api_url)  # no proxy; no certificates, which take longer to load than the response
    verify = not (local and api_url.startswith("http:"))
    try:
        response = httpx.get(
            f"{address.rstrip('/')}/{path}",
            headers=headers,
            timeout=timeout_s,
            trust_env=not local,
            verify=verify,
            follow_redirects=True,
        )
        if response.status_code in REFUSED:
            raise ServerRefuses(api_url)
        return response.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ImportError) as error:  # ImportError: a SOCKS proxy without its package
        raise OSError(f"{type(error).__name__} {error}") from error
