"""Prefect's own client, with its settings checked and its failures in sentences.

It knows what a client of Prefect has to: logins and keys, CSRF tokens, custom headers, certificates, when to ask again.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import ValidationError

from flows.site import prefect_environment
from flows.site.server_check import REFUSED, ServerRefuses, without_login
from nanochat.errors import BadConfig

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SECRET = re.compile(r"(?i)key|auth|password|secret|token|connection|header|url|webhook")
"""Names of settings whose values are not shown."""
PAGE = 200
"""Entries in one answer of a list; Prefect gives no more."""


class Unanswered(OSError):
    """The server did not answer, or could not do what it was asked."""


def load() -> None:
    """Imports Prefect, and reads its settings; raises `BadConfig`, naming the variable or file that is wrong."""
    _expect_proxies()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            from prefect.settings import get_current_settings  # noqa: PLC0415 - 1.2 s

            get_current_settings()
    except ValidationError as error:
        raise _bad_setting(error) from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(
            f"`{_profiles()}` is not valid TOML: {error}.", hint="Mend the file, or move it away."
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise BadConfig(
            f"Prefect cannot read its settings: {_one_line(error)}.", hint=f"They are in {_sources()}."
        ) from None
    if text := said.getvalue().strip():
        sys.stderr.write(f"{text}\n")


def _expect_proxies() -> None:
    """httpx looks at all proxies when a client is made, also at those that it will not use."""
    try:
        httpx.Client(verify=False).close()  # noqa: S501 - asks nobody: only so that no certificates are loaded
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        names = [name for name in prefect_environment.current() if name.lower().endswith("_proxy")]
        raise BadConfig(
            f"A proxy setting cannot be used ({', '.join(f'`{name}`' for name in names)}): {_one_line(error)}",
            hint="A SOCKS proxy needs `pip install socksio`; otherwise mend the variable or unset it.",
        ) from None


def _bad_setting(error: ValidationError) -> BadConfig:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    names = [name for name in _variables(error.title, field) if name]
    set_here = {name.upper(): value for name, value in prefect_environment.current().items()}
    message = first["msg"][0].lower() + first["msg"][1:]
    found = next((name for name in names if name in set_here), "")
    if found:
        shown = "" if SECRET.search(found) else f", got `{set_here[found]}`"
        return BadConfig(f"`{found}` in the environment: {message}{shown}.", hint=f"Mend it, or `unset {found}`.")
    where = next((file for file in _files() if _mentions(file, [*names, field])), None)
    shown = "" if SECRET.search(field) else f", got `{_one_line(first.get('input'))}`"
    return BadConfig(
        f"Prefect's setting `{names[0] if names else field}` in `{where or 'its settings'}`: {message}{shown}.",
        hint="Mend the file, or run from another folder.",
    )


def _variables(model: str, field: str) -> list[str]:
    """Environment variables that set a field of one of Prefect's models of settings."""
    from prefect.settings import Settings  # noqa: PLC0415 - 1.2 s

    for kind in _family(Settings):
        if kind.__name__ == model and field:
            info = kind.model_fields.get(field)
            choices = getattr(getattr(info, "validation_alias", None), "choices", [])
            prefix = str(kind.model_config.get("env_prefix", ""))
            aliases = [each for each in choices if isinstance(each, str)]
            return [name.upper() for name in (f"{prefix}{field}", *aliases)]
    return []


def _family(kind: Any) -> Iterator[Any]:
    yield kind
    for info in kind.model_fields.values():
        if hasattr(info.annotation, "model_fields"):
            yield from _family(info.annotation)


def _files() -> list[Path]:
    """Files that Prefect reads, those that count most first."""
    here = Path.cwd()
    files = [here / ".env", here / "prefect.toml", here / "pyproject.toml", _profiles()]
    return [file for file in files if file.is_file()]


def _profiles() -> Path:
    from prefect.settings.sources import _get_profiles_path  # noqa: PLC0415 - 1.2 s

    with contextlib.suppress(Exception):
        return _get_profiles_path()
    return Path("~/.prefect/profiles.toml").expanduser()


def _sources() -> str:
    return ", ".join(["the environment", *(f"`{file}`" for file in _files())])


def _mentions(file: Path, names: list[str]) -> bool:
    text = file.read_text(errors="replace").lower()
    return any(name and name.lower() in text for name in names)


def _one_line(what: object) -> str:
    return " ".join(str(what).split())[:200]


class Api:
    """Questions to one server, as Prefect's client asks them."""

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url
        self._client: SyncPrefectClient | None = None

    def get(self, path: str) -> Any:
        """What the server answers to a GET; raises `Unanswered` or `ServerRefuses`."""
        return self._ask("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:
        """The same to a POST."""
        return self._ask("POST", path, body)

    def all(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Every entry of a list, of which one answer holds a page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.post(path, **body, limit=PAGE, offset=len(found))
            found += page
            if len(page) < PAGE:
                return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            client = self._ready()
            answer = client._client.request(method, f"/{path}", json=body)
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            if code in REFUSED:
                raise ServerRefuses(self.api_url) from error
            raise Unanswered(f"{without_login(self.api_url)}/{path} answers {code}") from error
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            self._client = None
            raise Unanswered(f"{without_login(self.api_url)} does not answer: {_one_line(error)}") from error
        return answer.json() if answer.content else None

    def _ready(self) -> SyncPrefectClient:
        """One client for all questions: to load its certificates takes longer than to ask."""
        if self._client is None:
            load()
            from prefect.client.orchestration import SyncPrefectClient  # noqa: PLC0415 - 1.2 s
            from prefect.settings import get_current_settings  # noqa: PLC0415

            api = get_current_settings().api
            self._client = SyncPrefectClient(
                self.api_url,
                auth_string=api.auth_string.get_secret_value() if api.auth_string else None,
                api_key=api.key.get_secret_value() if api.key else None,
            )
        return self._client
