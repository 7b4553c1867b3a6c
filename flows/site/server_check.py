"""Whether a Prefect server answers, which version it is, and whether it takes our credentials.

Nothing here imports Prefect, whose import (1.2 s) overlaps with a server's start.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import urllib.error
import urllib.request
from contextlib import suppress
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

from flows.site import prefect_environment
from nanochat.errors import NanochatError
from nanochat.settings import is_loopback

REFUSED = (401, 403)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerUnavailable(NanochatError):
    """The Prefect server did not start, or does not answer."""


class ServerRefuses(ServerUnavailable):
    """The Prefect server does not take our credentials."""

    def __init__(self, api_url: str) -> None:
        super().__init__(
            f"The Prefect server at {without_login(api_url)} refuses our credentials.",
            hint="Set `PREFECT_API_AUTH_STRING` to its `user:password`, or `PREFECT_API_KEY` to a key that it knows.",
        )


def healthy(api_url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect server answers at this address; raises `ServerRefuses` when a gateway denies access."""
    try:
        return _get(api_url, "health", timeout_s) is True
    except (OSError, ValueError):  # not reached; not an address, or the page of something else
        return False


def expect(api_url: str, *, own: bool = False) -> None:
    """Raises `ServerUnavailable` unless a server that we can work with answers and lets us in.

    `own`: it is one that we started.
    """
    if not own and not healthy(api_url, timeout_s=10.0):
        raise ServerUnavailable(
            f"The Prefect server at {without_login(api_url)} (`PREFECT_API_URL`) does not answer.",
            hint="Start it or mend the address, which mostly ends in `/api`; after `unset PREFECT_API_URL` a run "
            "starts its own.",
        )
    theirs, ours = _version(api_url, own), version("prefect")
    if theirs and _release(theirs) < _release(ours):  # newer servers understand older clients; not the other way round
        raise ServerUnavailable(
            f"The Prefect server at {without_login(api_url)} is version {theirs}, older than the {ours} that is "
            "installed here.",
            hint=f"Upgrade the server first, or install its version here: `pip install prefect=={theirs}`.",
        )


def without_login(address: str) -> str:
    """The address without a user and password in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def _login(address: str) -> str:
    """The header for a user and password in an address, which urllib does not understand."""
    found = re.match(r"https?://([^/@]*)@", address)
    return f"Basic {base64.b64encode(unquote(found[1]).encode()).decode()}" if found else ""


def _version(api_url: str, own: bool) -> str:
    """What the server says; empty when it does not say."""
    try:
        return str(_get(api_url, "admin/version", 10.0, own=own))
    except ServerRefuses:
        with suppress(OSError):
            _expect_client(api_url)
    except (OSError, ValueError):  # not said, or something else than a version
        pass
    return ""


def _expect_client(api_url: str) -> None:
    """Prefect's own settings (a profile, `prefect.toml`) may hold credentials that the environment does not."""
    from flows.site.client import Api  # noqa: PLC0415 - imports Prefect

    Api(api_url).get("admin/version")


def _release(name: str) -> tuple[int, ...]:
    """Major and minor: `3.8.8` is of the release 3.8."""
    return tuple(int(part) for part in re.findall(r"\d+", name)[:2])


def _get(api_url: str, path: str, timeout_s: float, *, own: bool = False) -> Any:
    """A JSON answer. Raises `ServerRefuses`, `OSError` or `ValueError`."""
    if not api_url.startswith(("http://", "https://")):
        raise ValueError(f"`{api_url}` is no address")
    authorization = prefect_environment.authorization(own=own) or _login(api_url)
    headers = {"Authorization": authorization} if authorization else {}
    address = f"{without_login(api_url).rstrip('/')}/{path}"
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - http
    reach = _DIRECT.open if is_loopback(api_url) else urllib.request.urlopen
    try:
        with reach(request, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in REFUSED:
            raise ServerRefuses(api_url) from error
        raise
    except http.client.HTTPException as error:  # no port, or something that does not speak HTTP
        raise OSError(f"{type(error).__name__} {error}") from error
